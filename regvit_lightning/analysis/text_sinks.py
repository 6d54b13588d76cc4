"""Attention sinks of a text tower: the first token, EOT and padding as receivers of attention, by block and head.

Sources: the sink rate with its threshold of 0.3 is that of studies of language models (Gu et al. 2024, arXiv
2410.10781); sink events and their kinds NOP and broadcast are those of vision towers (arXiv 2606.08105, section 5),
with the thresholds of `sinks.py` and the queries restricted to those that see the sink: in a causal tower those from
the sink on, in others (SigLIP, BERT) all. Queries are the tokens of the text; padding, which no embedding of CLIP is
made from, has rows of its own in `TextSinks.shares` and counts as a receiver, not as a query. A query that sees few
tokens attends much to each of them, so that a text is measured only if it has queries from `FIRST_QUERY` on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from regvit_lightning.analysis.sinks import BROADCAST_RANK, BROADCAST_RATIO, MASS, NOP_RATIO, ROUTED, stable_rank
from regvit_lightning.errors import UserError
from regvit_lightning.models.bert_tower import BertTower, encoder_of
from regvit_lightning.models.text_tower import KINDS, PADDING, SOT, WORDS, TextBlock, TextTower

EPSILON = 0.3  # a head is a sink head for a text where the first token receives more attention, mean over its queries
FIRST_QUERY = 8  # queries before it attend to few tokens, so that each of them receives much


@dataclass(frozen=True)
class TextSinks:
    """Measurements of N texts in a tower of L blocks with H heads, on the CPU; NaN where there is nothing to measure.

    Attributes:
        received: (N, L, H, 5), attention to each kind of token, mean over queries from `FIRST_QUERY` on; NaN for
            shorter texts. Kinds in the order of `KINDS`.
        shares: (N, L, 5, 5), attention of each kind of query to each kind of token, mean over heads and queries of the
            kind; each row sums to 1.
        norms: (N, L, 5), L2 norm of the residual stream after each block, mean over the tokens of a kind.
        values: (N, L, 5), L2 norm of the value vectors, mean over heads and the tokens of a kind.
        sinks: (N, L, H), position of the token that is the sink of a sink event; -1 without an event, and for texts
            without a query from `FIRST_QUERY` on.
        ratios: (N, L, H), norm of the sink's update relative to the mean of the other tokens of the text; NaN without
            an event.
        ranks: (N, L, H), stable rank of the updates of the queries that see the sink; NaN where it does not decide.
        lengths: (N,), tokens of each text, SOT and EOT included.
    """

    received: Tensor
    shares: Tensor
    norms: Tensor
    values: Tensor
    sinks: Tensor
    ratios: Tensor
    ranks: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def first(self) -> Tensor:
        """(N, L, H) attention to the first token, see `received`."""
        return self.received[..., SOT]

    @property
    def sink_rates(self) -> Tensor:
        """(N, 5) share of all (block, head) in which a kind receives more than `EPSILON`; NaN for short texts."""
        rates = (self.received > EPSILON).double().flatten(1, 2).mean(dim=1)
        return rates.where(self.measured[:, None], torch.nan)

    @property
    def sink_rate(self) -> Tensor:
        """(N,) that of the first token."""
        return self.sink_rates[:, SOT]

    @property
    def measured(self) -> Tensor:
        """(N,) texts with queries from `FIRST_QUERY` on."""
        return self.first.isfinite().flatten(1).all(dim=1)

    @property
    def nop(self) -> Tensor:
        """(N, L, H) sink events whose sink adds next to nothing."""
        return self.ratios <= NOP_RATIO

    @property
    def broadcast(self) -> Tensor:
        """(N, L, H) sink events in which the sink writes one and the same direction into all queries."""
        return (self.ratios >= BROADCAST_RATIO) & (self.ranks <= BROADCAST_RANK)

    @property
    def norm_ratio(self) -> Tensor:
        """(N, L) norm of the first token relative to the mean norm of the words after each block."""
        return self.norms[:, :, 0] / self.norms[:, :, WORDS]


def text_sinks(
    model: nn.Module,
    tokens: Tensor,
    *,
    name: str = "text tower",
    batch: int = 64,
    vocabulary: Mapping[str, int] | None = None,
) -> TextSinks:
    """Measure the attention sinks of the text tower of `model` on tokenised texts.

    Args:
        model: open_clip's `TextTransformer`, `CLIP`, `CustomTextCLIP` or `CoCa`, with a tower of its own or one of
            transformers; or an encoder of transformers with the layers of BERT. It is left as it is.
        tokens: (N, T), as the tokeniser of the tower gives them.
        name: name of the model for messages.
        batch: texts per forward pass.
        vocabulary: of a tower of transformers: number of each token (`get_vocab()` of its tokeniser), from which
            punctuation is known; without it there is none.

    Raises:
        UserError: no texts, a model without such a tower, or activations that are not finite.
    """
    if tokens.ndim != 2 or not len(tokens):
        raise UserError(f"tokens: expected (N, T) with N > 0, got {tuple(tokens.shape)}")
    foreign = encoder_of(model) is not None
    tower = BertTower(model, name, vocabulary) if foreign else TextTower(model, name)
    return join([measure(tower, part) for part in tokens.split(batch)])


def measure(tower: TextTower | BertTower, tokens: Tensor) -> TextSinks:
    """Measure one batch of tokens (B, T).

    Raises:
        UserError: activations that are not finite.
    """
    kinds = tower.kinds(tokens)
    member = nn.functional.one_hot(kinds, len(KINDS)).float()  # (B, T, 5)
    blocks: list[dict[str, Tensor]] = []

    def see(index: int, block: TextBlock) -> None:
        if not block.tokens.isfinite().all():
            raise UserError(f"{tower.name}: tokens after text block {index} are not finite; check the weights")
        blocks.append(_of_block(block, kinds, member, tower.causal))

    tower.walk(tokens, see)
    stacked = {key: torch.stack([one[key] for one in blocks], dim=1).cpu() for key in blocks[0]}
    return TextSinks(**stacked, lengths=(kinds != PADDING).sum(dim=1).cpu())


def _of_block(block: TextBlock, kinds: Tensor, member: Tensor, causal: bool) -> dict[str, Tensor]:
    is_text = kinds != PADDING
    count = member.sum(dim=1)  # (B, 5)
    by_query = torch.einsum("btq,bts->bqs", member, block.attention.mean(dim=1)) / count[..., None]
    values = block.values.norm(dim=-1).mean(dim=1)
    return {
        "received": received(block.attention, is_text) @ member,
        "shares": by_query @ member,
        "norms": torch.einsum("btk,bt->bk", member, block.tokens.norm(dim=-1)) / count,
        "values": torch.einsum("btk,bt->bk", member, values) / count,
        **sink_events(block.attention, block.updates, is_text, causal),
    }


def received(attention: Tensor, is_text: Tensor) -> Tensor:
    """Attention to each token, mean over the queries t >= 8 of the text.

    Args:
        attention: (B, heads, T, T).
        is_text: boolean (B, T).

    Returns:
        (B, heads, T); NaN for a text without such a query.
    """
    queries = is_text.clone()
    queries[:, :FIRST_QUERY] = False
    return _mean_over(attention.mT, queries[:, None, None])


def sink_events(attention: Tensor, updates: Tensor, is_text: Tensor, causal: bool = True) -> dict[str, Tensor]:
    """Sink of each text and head: the token that receives most attention from the queries of the text.

    It is the sink of an event if at least 90 % of the queries that see it pay it half their attention or more: those
    from its position on in a causal tower, all queries of the text in others.

    Args:
        attention: (B, heads, T, T).
        updates: (B, heads, T, K), see `TextBlock`.
        is_text: boolean (B, T).
        causal: whether a query sees only what stands before it.

    Returns:
        `sinks`, `ratios` and `ranks`, each (B, heads), see `TextSinks`.
    """
    text = is_text[:, None]  # (B, 1, T)
    received = (attention * text[..., None]).sum(dim=2).masked_fill(~text, -1.0)
    sink = received.argmax(dim=-1)  # (B, heads)
    positions = torch.arange(attention.shape[-1], device=attention.device)
    behind = positions >= sink[..., None]  # (B, heads, T)
    queries = text & (behind if causal else torch.ones_like(behind))  # those of the text that see the sink
    to_sink = attention.gather(-1, sink[..., None, None].expand(*attention.shape[:3], 1))[..., 0]
    event = _mean_over((to_sink >= MASS).float(), queries) >= ROUTED
    event &= is_text[:, FIRST_QUERY:].any(dim=1, keepdim=True)
    ratio = sink_ratio(updates.norm(dim=-1), sink, text).where(event, torch.nan)
    rank = torch.full_like(ratio, torch.nan)
    broad = ratio >= BROADCAST_RATIO
    if broad.any():
        written = (attention @ updates)[broad] * queries[broad][..., None]
        rank[broad] = stable_rank(written.double()).to(rank)
    return {"sinks": sink.where(event, -1), "ratios": ratio, "ranks": rank}


def sink_ratio(norms: Tensor, sink: Tensor, text: Tensor) -> Tensor:
    """Norm of the sink relative to the mean of the other tokens of the text: NaN for a text of one token.

    Args:
        norms: (B, heads, T) norms of updates.
        sink: (B, heads) positions.
        text: boolean (B, 1, T).
    """
    others = text & (torch.arange(norms.shape[-1], device=norms.device) != sink[..., None])
    return norms.gather(-1, sink[..., None])[..., 0] / _mean_over(norms, others)


def _mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the last axis where `mask` holds; NaN where it holds nowhere."""
    mask = mask.expand_as(values)
    return values.masked_fill(~mask, 0.0).sum(dim=-1) / mask.sum(dim=-1)


def join(parts: Sequence[TextSinks]) -> TextSinks:
    """Concatenate the measurements of the texts of all `parts`."""
    names = [field.name for field in fields(TextSinks)]
    return TextSinks(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})
