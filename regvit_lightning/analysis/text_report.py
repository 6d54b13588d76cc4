"""Results of the text report for one text tower: its sentence, its metrics, and its summary for the record."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regvit_lightning.analysis.text_sinks import EPSILON, FIRST_QUERY, TextSinks
from regvit_lightning.models.text_tower import EOT, KINDS, PADDING, SOT, WORDS


@dataclass(frozen=True)
class Example:
    """Attention in one block for one text, mean over heads.

    Attributes:
        words: (T,) tokens of the text, without padding.
        attention: (T, T); rows are queries.
        block: index of the block from 0: the one in which the first token receives most.
    """

    words: Sequence[str]
    attention: Tensor
    block: int


@dataclass(frozen=True)
class TextReport:
    """The analysis of one text tower on one set of texts.

    Attributes:
        model: name of the model.
        sinks: measurements of the texts that are long enough.
        example: attention of one of them.
    """

    model: str
    sinks: TextSinks
    example: Example

    @property
    def depth(self) -> int:
        return self.sinks.first.shape[1]

    @property
    def sink_heads(self) -> Tensor:
        """(L, H) share of the texts in which the first token receives more than `EPSILON` of the head's attention."""
        return (self.sinks.first > EPSILON).double().mean(dim=0)

    @property
    def shares(self) -> Tensor:
        """(L, 5, 5) attention of each kind of query to each kind of token, mean over texts that have the query."""
        return self.sinks.shares.nanmean(dim=0)

    @property
    def norm_ratio(self) -> Tensor:
        """(L,) norm of the first token relative to that of the words after each block, mean over texts."""
        return self.sinks.norm_ratio.nanmean(dim=0)

    def scores(self) -> dict[str, Tensor]:
        """(N,) scores of single texts, whose means are the metrics of the same names."""
        count = {"nop_sinks": self.sinks.nop, "broadcast_sinks": self.sinks.broadcast}
        return {
            "sink_rate": 100 * self.sinks.sink_rate,
            **{name: events.flatten(1).sum(dim=1).double() for name, events in count.items()},
        }

    def metrics(self) -> dict[str, float]:
        """Scalar metrics of the tower; those that do not apply are left out."""
        values = {
            **{name: score.mean().item() for name, score in self.scores().items()},
            "sink_events": (self.sinks.sinks >= 0).flatten(1).sum(dim=1).double().mean().item(),
            "words_to_sot": 100 * self.shares[:, WORDS, SOT].mean().item(),
            "eot_to_sot": 100 * self.shares[:, EOT, SOT].mean().item(),
            "eot_sink_rate": 100 * self.sinks.sink_rates[:, EOT].mean().item(),
            "padding_sink_rate": 100 * self.sinks.sink_rates[:, PADDING].mean().item(),
            "sot_over_words_norm": self.norm_ratio.max().item(),
        }
        return {name: value for name, value in values.items() if math.isfinite(value)}

    @property
    def verdict(self) -> str:
        """Two or three sentences: how many heads have their sink at the first token, what kind, and its norm."""
        rate, metrics, by_block = self.sink_heads, self.metrics(), self.sink_heads.mean(dim=1)
        most, norm = int(by_block.argmax()), int(self.norm_ratio.nan_to_num(0).argmax())
        where = f", most in block {most + 1} of {self.depth} ({by_block[most]:.0%})" if rate.any() else ""
        events = self.sinks.sinks[self.sinks.sinks >= 0]
        at_first = f", {(events == 0).double().mean():.0%} of them at the first token" if len(events) else ""
        sentence = (
            f"{self.model}: in {metrics['sink_rate']:.1f}% of the heads of its text tower the first token receives "
            f"more than {EPSILON:g} of the attention{where}. Sink events per text: {metrics['nop_sinks']:.2f} NOP, "
            f"{metrics['broadcast_sinks']:.2f} broadcast, {metrics['sink_events']:.2f} in all{at_first}."
        )
        if "sot_over_words_norm" in metrics:
            times = f"{metrics['sot_over_words_norm']:.3g} × that of the words"
            sentence += f" The norm of the first token is at most {times}, after block {norm + 1}."
        return sentence

    def facts(self) -> dict[str, Any]:
        """Further results for the record, as plain values by block; None where there is nothing to measure."""
        sinks = self.sinks
        return {
            "verdict": self.verdict,
            "tokens_per_text": {"mean": _plain(sinks.lengths.double().mean()), "most": int(sinks.lengths.max())},
            "first_token_attention": _plain(sinks.first.mean(dim=0)),
            "sink_heads": _plain(self.sink_heads),
            "attention_shares": {
                kind: {other: _plain(self.shares[:, row, column]) for column, other in enumerate(KINDS)}
                for row, kind in enumerate(KINDS)
                if self.shares[:, row].isfinite().any()
            },
            "norms_by_block": self._by_kind(sinks.norms),
            "value_norms_by_block": self._by_kind(sinks.values),
            "nop_by_block": _plain(sinks.nop.sum(dim=2).double().mean(dim=0)),
            "broadcast_by_block": _plain(sinks.broadcast.sum(dim=2).double().mean(dim=0)),
            "update_ratio_by_block": _plain(sinks.ratios.transpose(0, 1).flatten(1).nanmedian(dim=1).values),
            "sinks_at": self._positions(),
        }

    def _by_kind(self, values: Tensor) -> dict[str, Any]:
        means = values.nanmean(dim=0)
        there = [index for index in range(len(KINDS)) if means[:, index].isfinite().any()]
        return {KINDS[index]: _plain(means[:, index]) for index in there}

    def _positions(self) -> dict[str, int]:
        """Number of sink events at each position of the text."""
        events = self.sinks.sinks[self.sinks.sinks >= 0]
        counts = events.bincount().tolist() if len(events) else []
        return {str(position): count for position, count in enumerate(counts) if count}


PROTOCOL = {
    "rule": f"first token receives > {EPSILON:g} of a head's attention, mean over the queries t >= {FIRST_QUERY}",
    "without": f"texts without a token at t >= {FIRST_QUERY}, and queries in the {KINDS[PADDING]}",
}


def _plain(values: Tensor) -> Any:
    """JSON of a tensor with six digits; None for values that are not finite."""
    if values.ndim:
        return [_plain(value) for value in values]
    number = values.item()
    return float(f"{number:.6g}") if math.isfinite(number) else None


def example_of(words: Sequence[str], attention: Sequence[Tensor]) -> Example:
    """Example from the attention (heads, T, T) of every block, cut to the tokens of the text."""
    means = [weights.mean(dim=0)[: len(words), : len(words)] for weights in attention]
    block = int(torch.stack([weights[:, 0].mean() for weights in means]).argmax())
    return Example(words, means[block], block)
