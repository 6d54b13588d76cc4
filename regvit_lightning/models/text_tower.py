"""Access to the blocks of a text tower of open_clip: attention, values and tokens of each block, and kinds of tokens.

Works on `TextTransformer`, on the towers of `CLIP`, `CustomTextCLIP` and `CoCa`, and on those of our own recipe
`openclip`, whatever their mask: causal (CLIP), causal with a class token behind the text (CoCa), or none (SigLIP).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from open_clip.tokenizer import SimpleTokenizer, bytes_to_unicode
from open_clip.transformer import Attention as OpenClipAttention
from torch import Tensor, nn
from torch.nn import functional as F

from regvit_lightning.errors import UserError

KINDS = ("SOT", "words", "punctuation", "EOT", "padding")
SOT, WORDS, PUNCTUATION, EOT, PADDING = range(len(KINDS))

VOCABULARY = 49408  # of CLIP's byte-pair tokeniser, the only one whose punctuation is known here
REBUILT = 1e-4  # largest error of a block's attention output rebuilt from (A, v), relative to its largest entry


@dataclass(frozen=True)
class TextBlock:
    """Activations of one block for B texts of T tokens, in float32.

    Attributes:
        attention: (B, heads, T, T) after softmax; rows are queries and sum to 1.
        values: (B, heads, T, K), value vectors v of each head.
        updates: (B, heads, T, K'), u = gamma W_O v: what a fully attended token adds to the residual stream, without
            the bias of the projection. It is given in an orthonormal basis of the span of each head, so that norms and
            inner products are those of u in the width of the tower.
        tokens: (B, T, D), the residual stream after the block.
    """

    attention: Tensor
    values: Tensor
    updates: Tensor
    tokens: Tensor


class TextTower:
    """A text tower whose blocks can be looked into; the model is left as it is.

    Args:
        model: open_clip's `TextTransformer`, or a model of images and texts that holds such a tower.
        name: name of the model for messages.

    Attributes:
        depth: number of blocks.
        causal: whether a token sees only itself and those before it.

    Raises:
        UserError: a model without such a tower, or with blocks whose attention is not a plain softmax(q k) v.
    """

    def __init__(self, model: nn.Module, name: str = "text tower") -> None:
        self.name, self.model = name, model
        inside: Any = model
        self.tower: Any = inside if hasattr(model, "token_embedding") else getattr(model, "text", None)
        blocks = getattr(getattr(self.tower, "transformer", None), "resblocks", None)
        if blocks is None or not hasattr(self.tower, "token_embedding"):
            kind = type(model if self.tower is None else self.tower).__name__
            raise UserError(f"{name}: a {kind} is not a text tower of open_clip's own: no blocks to look into")
        self.blocks: list[Any] = list(blocks)
        for block in self.blocks:
            _check(block, name)
        self.depth = len(self.blocks)
        self.causal = getattr(self.tower, "attn_mask", None) is not None
        tower: Any = self.tower
        self.vocabulary = len(tower.token_embedding.weight)

    def encode(self, tokens: Tensor) -> Tensor:
        """Embeddings (B, E) of tokens (B, T), not normalised."""
        encode = getattr(self.tower, "encode_text", self.tower)
        output: Any = encode(tokens)
        return output[0] if isinstance(output, tuple) else output

    @torch.no_grad()
    def walk(self, tokens: Tensor, see: Callable[[int, TextBlock], None]) -> None:
        """Call `see` with 0..depth-1 and the activations of that block, one block in memory at a time.

        Args:
            tokens: (B, T), as the tokeniser of the tower gives them.
            see: receives each block.

        Raises:
            UserError: a block's attention cannot be rebuilt from A and v to 1e-4.
        """
        with ExitStack() as hooks:
            for index, block in enumerate(self.blocks):
                hooks.enter_context(_seen(block, index, see, self.name))
            self.encode(tokens)

    def kinds(self, tokens: Tensor) -> Tensor:
        """Kind of each token as an index into `KINDS`, (B, T); one longer with a class token behind the text.

        SOT is the first token, whatever it is. EOT is the token whose output becomes the embedding of the text: the
        highest token number in CLIP, the class token in CoCa, the last position in SigLIP. Padding is what follows the
        text, told apart by its position: CLIP's padding has the number of a "!", SigLIP's that of its end of text.
        Punctuation is known of CLIP's tokeniser alone.
        """
        length = tokens.shape[1]
        positions = torch.arange(length, device=tokens.device)
        end = self._end(tokens)[:, None]
        kinds = torch.full_like(tokens, WORDS)
        kinds[torch.isin(tokens, punctuation(self.vocabulary).to(tokens.device))] = PUNCTUATION
        kinds[positions > end] = PADDING
        if getattr(self.tower, "cls_emb", None) is not None:
            kinds = F.pad(kinds, (0, 1), value=EOT)
        else:
            kinds.scatter_(1, self._pooled(tokens, end), EOT)
        kinds[:, 0] = SOT
        return kinds

    def _end(self, tokens: Tensor) -> Tensor:
        """Position (B,) of the last token of each text."""
        if self._pool == "argmax" or getattr(self.tower, "cls_emb", None) is not None:
            return tokens.argmax(dim=1)
        if self._pool == "eos":
            eos = getattr(self.tower, "eos_id", getattr(self.tower, "text_eos_id", 2))
            return (tokens == eos).int().argmax(dim=1)
        # The first of the equal tokens at the end: the end of the text, whose number fills the rest.
        alike = (tokens == tokens[:, -1:]).flip(1).int()
        return tokens.shape[1] - alike.cumprod(dim=1).sum(dim=1)

    def _pooled(self, tokens: Tensor, end: Tensor) -> Tensor:
        """Position (B, 1) of the token whose output becomes the embedding, from that of the last token (B, 1)."""
        return torch.full_like(end, tokens.shape[1] - 1) if self._pool == "last" else end

    @property
    def _pool(self) -> str:
        # CLIP keeps the parts of its tower under other names than `TextTransformer`.
        return str(getattr(self.tower, "pool_type", getattr(self.tower, "text_pool_type", "argmax")))


@cache
def punctuation(vocabulary: int) -> Tensor:
    """Token numbers that hold neither a letter nor a digit; none for a vocabulary other than CLIP's."""
    if vocabulary != VOCABULARY:
        return torch.zeros(0, dtype=torch.long)
    decoder = SimpleTokenizer().decoder
    return torch.tensor(without_letters({text: number for number, text in decoder.items() if number < VOCABULARY - 2}))


def without_letters(vocabulary: Mapping[str, int]) -> list[int]:
    """Numbers of the tokens of a tokeniser, {token: number}, that hold neither a letter nor a digit."""
    return [number for token, number in vocabulary.items() if not any(map(str.isalnum, _text(token)))]


def _text(token: str) -> str:
    """The text of a token, also of a tokeniser of bytes (CLIP, RoBERTa), which writes each byte as a letter."""
    letters, token = _bytes(), token.removesuffix("</w>")
    try:
        return bytes(letters[letter] for letter in token).decode("utf-8")
    except (KeyError, UnicodeError):  # no tokeniser of bytes, or a part of a letter
        return token


@cache
def _bytes() -> dict[str, int]:
    return {letter: number for number, letter in bytes_to_unicode().items()}


def _check(block: Any, name: str) -> None:
    attention = getattr(block, "attn", None)
    plain = isinstance(attention, nn.MultiheadAttention) and attention.in_proj_weight is not None
    if isinstance(attention, OpenClipAttention):
        plain = attention.logit_scale is None and isinstance(attention.ln_inner, nn.Identity)
    if not plain or not isinstance(getattr(block, "ln_attn", nn.Identity()), nn.Identity):
        raise UserError(f"{name}: its text blocks are {type(block).__name__} without a plain softmax(q k) v")


@contextmanager
def _seen(block: Any, index: int, see: Callable[[int, TextBlock], None], name: str) -> Iterator[None]:
    """Context in which `see` is called after each pass through `block`."""
    parts: list[tuple[Tensor, Tensor]] = []

    def attended(attention: Any, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        weights, values = _attend(attention, inputs[0], options.get("attn_mask"))
        output = output[0] if isinstance(output, tuple) else output
        require_rebuilt(name, index, attention.out_proj, weights, values, output)
        parts.append((weights, values))

    def left(_: Any, __: Any, output: Tensor) -> None:
        weights, values = parts.pop()
        gamma = getattr(getattr(block, "ls_1", None), "gamma", None)
        basis = update_basis(block.attn.out_proj.weight, block.attn.num_heads, gamma)
        see(index, TextBlock(weights, values, values @ basis.mT, output.float()))

    handles = [block.attn.register_forward_hook(attended, with_kwargs=True), block.register_forward_hook(left)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attend(attention: Any, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Probabilities (B, heads, T, T) and values (B, heads, T, K) in float32, scaled by head where the module does."""
    batch, length, _ = tokens.shape
    projected = F.linear(tokens, attention.in_proj_weight, attention.in_proj_bias).float()
    q, k, v = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in projected.chunk(3, dim=-1))
    if isinstance(attention, OpenClipAttention):
        q, k = attention.ln_q(q), attention.ln_k(k)
        v = v if attention.head_scale is None else v * attention.head_scale
    logits = (q * q.shape[-1] ** -0.5) @ k.mT
    if mask is not None:
        logits = logits + (mask if mask.ndim == 2 else mask.view(batch, -1, length, length))
    return logits.softmax(dim=-1), v


def require_rebuilt(name: str, index: int, projection: Any, weights: Tensor, values: Tensor, output: Tensor) -> None:
    """Raise `UserError` unless the `output` (B, T, D) of a block's attention is that of its `projection` of A v.

    The largest difference, relative to the largest entry of the output, may be 1e-4.
    """
    heads = (weights @ values).transpose(1, 2).flatten(2)
    rebuilt = F.linear(heads.to(projection.weight.dtype), projection.weight, projection.bias)
    error = float((rebuilt - output).abs().max() / output.abs().max().clamp(min=1e-12))
    if not error <= REBUILT:
        what = f"the attention of text block {index} cannot be rebuilt from A and v"
        raise UserError(f"{name}: {what}: off by {error:.1e}")


def update_basis(projection: Tensor, heads: int, gamma: Tensor | None = None) -> Tensor:
    """(heads, K', K): R of gamma W_O = Q R by head, which maps values to updates in an orthonormal basis.

    Args:
        projection: W_O (D, heads K).
        heads: their number.
        gamma: (D,), LayerScale.
    """
    weight = projection.float() if gamma is None else gamma.float()[:, None] * projection.float()
    return torch.linalg.qr(weight.unflatten(1, (heads, -1)).transpose(0, 1), mode="r").R
