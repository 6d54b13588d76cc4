"""Figures of the text report: who receives attention in a text tower, by block and head, and what the sinks write."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from regvit_lightning.analysis.sinks import BROADCAST_RATIO, NOP_RATIO
from regvit_lightning.analysis.text_report import TextReport
from regvit_lightning.analysis.text_sinks import EPSILON, FIRST_QUERY
from regvit_lightning.figures.report import Panel, composed
from regvit_lightning.figures.style import (
    BARS,
    GREEN,
    GREY,
    INK,
    LEGEND,
    LINES,
    MARKERS,
    NORMAL,
    OUTLIER,
    PAPER,
    SMALL,
    axes_in,
    colour_bar,
    label,
    mean_and_error,
    none,
    percents,
    plain_numbers,
    whole_blocks,
)
from regvit_lightning.models.text_tower import EOT, KINDS, PADDING, PUNCTUATION, SOT, WORDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

CHART = (5.3, 3.7)  # inches: three charts in a row of the page
COLOURS = {SOT: OUTLIER, WORDS: NORMAL, PUNCTUATION: "#56b4e9", EOT: GREEN, PADDING: "#b9bec8"}
MOST_WORDS = 40  # of the example


def panels(report: TextReport) -> dict[str, Panel]:
    """All figures of a report by the name of their files."""
    shares, below, n = report.shares, {"bottom": 1.0}, f" (n = {len(report.sinks):,} texts)"
    return {
        "first_token_by_head": _chart(lambda axes: first_token(axes, report), right=0.95),
        "attention_of_words": _chart(
            lambda axes: receivers(axes, shares[:, WORDS].numpy(), f"attention of words{n}"), left=0.72, **below
        ),
        "attention_of_eot": _chart(
            lambda axes: receivers(axes, shares[:, EOT].numpy(), f"attention of EOT, the text's embedding{n}"),
            left=0.72,
            **below,
        ),
        "sinks_by_block": _chart(lambda axes: events(axes, report), **below),
        "norms_by_block": _chart(lambda axes: by_kind(axes, report.sinks.norms, f"norms after each block{n}"), **below),
        "values_by_block": _chart(
            lambda axes: by_kind(axes, report.sinks.values, f"norms of value vectors{n}"), **below
        ),
        "update_ratios": _chart(lambda axes: ratios(axes, report)),
        "example": Panel((2 * CHART[0], 6.2), lambda figure: example(axes_in(figure, 1.6, 1.0, 1.3), report)),
    }


def page(report: TextReport) -> Figure:
    """Compose all panels below the verdict."""
    return composed(report.verdict, panels(report))


def _chart(draw: Callable[[Axes], None], **margins: float) -> Panel:
    return Panel(CHART, lambda figure: draw(axes_in(figure, **margins)))


def first_token(axes: Axes, report: TextReport) -> None:
    """Heat map of the attention to the first token by block and head; sink heads, in most texts, are marked."""
    attention = report.sinks.first.mean(dim=0).numpy()
    picture = axes.imshow(attention.T, cmap="magma", vmin=0, vmax=1, aspect="auto", origin="lower")
    blocks, heads = np.nonzero(report.sink_heads.numpy() > 0.5)
    dots: dict[str, Any] = {"marker": "o", "facecolors": PAPER, "edgecolors": INK, "linewidths": 0.6, "clip_on": False}
    axes.scatter(blocks, heads, s=16, **dots)
    depth, number = attention.shape
    shown = range(0, depth, max(1, -(-depth // 12)))
    axes.set_xticks(shown, [str(block + 1) for block in shown])
    axes.set_yticks(range(0, number, max(1, -(-number // 8))))
    colour_bar(axes, picture, "attention to the first token", percent=True)
    note = f"○ above {EPSILON:g} in most texts" if len(blocks) else f"none above {EPSILON:g} in most texts"
    label(axes, f"sink heads (queries t ≥ {FIRST_QUERY}; n = {len(report.sinks):,} texts)", f"block; {note}", "head")


def receivers(axes: Axes, shares: Any, title: str) -> None:
    """Stacked shares (L, 5) of attention by kind of receiver, in blocks; the legend is in a margin of 1 inch below."""
    blocks, bottom = np.arange(1, len(shares) + 1), np.zeros(len(shares))
    for kind in (SOT, PUNCTUATION, WORDS, EOT, PADDING):
        part = np.nan_to_num(shares[:, kind])
        axes.bar(blocks, part, 0.8, bottom, color=COLOURS[kind], label=f"{KINDS[kind]} ({part.mean():.1%})")
        bottom = bottom + part
    whole_blocks(axes, len(blocks))
    percents(axes)
    axes.set_ylim(0, 1)
    axes.legend(**LEGEND, loc="upper center", bbox_to_anchor=(0.45, -0.14), ncols=3, columnspacing=1.2)
    label(axes, title, "block", "share, mean of heads")


def by_kind(axes: Axes, of_texts: Tensor, title: str) -> None:
    """Means of (N, L, 5) by block and kind of token; the legend is in a margin of 1 inch below.

    Error bars are 95 % intervals over texts. The axis is logarithmic where the means span more than a factor of 10.
    """
    values, errors = (part.numpy() for part in mean_and_error(of_texts))
    blocks = np.arange(1, len(values) + 1)
    for line, (kind, colour) in enumerate(COLOURS.items()):
        if np.isfinite(values[:, kind]).any():
            style: dict[str, Any] = {"marker": MARKERS[line], "markersize": 4, "linewidth": 1.4}
            colour = GREY if kind == PADDING else colour
            bars = errors[:, kind]
            axes.errorbar(blocks, values[:, kind], bars, color=colour, label=KINDS[kind], **style, **BARS)
    low, high = np.nanmin(values), np.nanmax(values)
    if high > 10 * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.3, high * 1.3)
    else:
        axes.set_ylim(0, high * 1.1)
    whole_blocks(axes, len(blocks))
    axes.legend(**LEGEND, loc="upper center", bbox_to_anchor=(0.45, -0.14), ncols=3, columnspacing=1.2)
    label(axes, title, "block", "L2 norm, mean of tokens")


def events(axes: Axes, report: TextReport) -> None:
    """Sink events per text by block: NOP, broadcast and neither; the legend is in a margin of 1 inch below.

    The error bar of a stack is the 95 % interval of its height over texts.
    """
    sinks = report.sinks
    kinds = {"NOP": sinks.nop, "broadcast": sinks.broadcast}
    kinds["neither"] = (sinks.sinks >= 0) & ~sinks.nop & ~sinks.broadcast
    blocks, bottom = np.arange(1, report.depth + 1), np.zeros(report.depth)
    for colour, hatch, (name, mask) in zip((NORMAL, OUTLIER, "#b9bec8"), ("", "//", ""), kinds.items(), strict=True):
        count = mask.sum(dim=2).double().mean(dim=0).numpy()
        words = f"{name} ({count.sum():.2f} per text)"
        axes.bar(blocks, count, 0.8, bottom, color=colour, hatch=hatch, edgecolor=PAPER, linewidth=0, label=words)
        bottom = bottom + count
    total, error = mean_and_error((sinks.sinks >= 0).double().sum(dim=2))
    axes.errorbar(blocks, total, error, fmt="none", ecolor=INK, **BARS)
    axes.set_ylim(bottom=0)
    whole_blocks(axes, report.depth)
    axes.legend(**LEGEND, loc="upper center", bbox_to_anchor=(0.45, -0.14), ncols=2, columnspacing=1.2)
    if not bottom.any():
        axes.set_ylim(0, 1)
        none(axes, "no sink events")
    label(
        axes, f"sink events by block (n = {len(sinks):,} texts)", "block", f"per text, of {sinks.first.shape[2]} heads"
    )


def ratios(axes: Axes, report: TextReport) -> None:
    """Norm of the sink's update relative to the others, one dot for each head: median over its sink events."""
    values = report.sinks.ratios
    medians = values.nanmedian(dim=0).values.numpy()
    heads = np.arange(medians.shape[1])
    across = np.arange(1, report.depth + 1)[:, None] + 0.6 * (heads / max(len(heads) - 1, 1) - 0.5)[None]
    there = np.isfinite(medians)
    for at, words in ((NOP_RATIO, "NOP"), (BROADCAST_RATIO, "broadcast")):
        axes.axhline(at, color=GREY, linewidth=0.8, linestyle=(0, (3, 2)))
        below = {"va": "top", "xytext": (-2, -2)} if at == NOP_RATIO else {"va": "bottom", "xytext": (-2, 2)}
        place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", **below}
        axes.annotate(words, (1, at), fontsize=SMALL, color=INK, ha="right", **place)
    axes.scatter(across[there], medians[there], s=18, color=LINES[0], edgecolors=PAPER, linewidths=0.4, zorder=3)
    axes.set_yscale("log")
    shown = [NOP_RATIO / 4, BROADCAST_RATIO * 4, *medians[there]]
    axes.set_ylim(min(shown) / 1.4, max(shown) * 1.4)
    whole_blocks(axes, report.depth)
    plain_numbers(axes)
    if not there.any():
        none(axes, "no sink events")
    label(
        axes,
        f"what sinks write (n = {len(report.sinks):,} texts)",
        "block; a dot is a head with sink events",
        "|update of the sink| / mean of others",
    )


def example(axes: Axes, report: TextReport) -> None:
    """Attention of one text in the block in which the first token receives most, mean over heads."""
    shown = report.example
    words = [word or "·" for word in shown.words[:MOST_WORDS]]
    words = [word.replace("<start_of_text>", "SOT").replace("<end_of_text>", "EOT") for word in words]
    attention = shown.attention[: len(words), : len(words)].numpy()
    picture = axes.imshow(np.ma.masked_equal(attention, 0), cmap="magma", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(words)), words, rotation=90)
    axes.set_yticks(range(len(words)), words)
    colour_bar(axes, picture, "attention, mean of heads", percent=True)
    label(axes, f"attention in block {shown.block + 1}: a text of median sink rate", "", "query")
