"""Attention sinks and locality of patches during training: lines over the steps, one for each of some blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from regvit_lightning.figures.style import (
    GREY,
    LEGEND,
    MARKERS,
    NORMAL,
    OUTLIER,
    PAPER,
    axes_in,
    label,
    none,
)
from regvit_lightning.figures.training import Rows, blocks_shown, colour_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (9.4, 3.4)  # inches, two panes of the same width
NOT_MEASURED = "not measured"
KINDS = {  # columns of `norms.csv` and how their lines look: colour, marker, dashes
    "all sinks": ("sinks", GREY, "o", ":"),
    "NOP": ("nop_sinks", NORMAL, "s", "-"),
    "broadcast": ("broadcast_sinks", OUTLIER, "^", "--"),
}


def sinks_during_training(rows: Rows) -> Figure:
    """Sinks per image against the step: all blocks together by kind, and all kinds by block.

    Args:
        rows: rows of `norms.csv`, see `pretrain/norms_callback.py`; NaN where sinks are not measured.
    """
    figure, left, right = _panes()
    measured = any(math.isfinite(row["sinks"]) for row in rows)
    if measured:
        _kinds(left, rows)
        _by_block(right, rows, "sinks")
    for axes, title in ((left, "attention sinks, all blocks"), (right, "attention sinks by block")):
        label(axes, title, "step", "sinks per image")
        if not measured:
            _nothing(axes, NOT_MEASURED)
        elif not any(row["sinks"] > 0 for row in rows):
            axes.set_ylim(0, 0.1)
            none(axes, "none, in any block at any step")
        else:
            axes.set_ylim(0, 1.45 * axes.get_ylim()[1])  # room for the legend
    return figure


def locality_during_training(rows: Rows) -> Figure:
    """Mean cosine of patches to the mean patch of their image, and to CLS, against the step, by block.

    Args:
        rows: as above; NaN where there is no CLS, or in tables of older versions.
    """
    figure, *panes = _panes()
    titles = {"mean_cosine": "cosine of patches to their image mean", "cls_cosine": "cosine of patches to CLS"}
    for axes, (column, title) in zip(panes, titles.items(), strict=True):
        values = [row[column] for row in rows if math.isfinite(row[column])]
        if values:
            _by_block(axes, rows, column)
            low, high = min(0.0, *values), max(values)
            axes.set_ylim(low - 0.03, high + 0.35 * (high - low + 0.1))  # room for the legend
        label(axes, title, "step", "mean cosine")
        if not values:
            _nothing(axes, "no CLS, or not measured" if column == "cls_cosine" else NOT_MEASURED)
    return figure


def _panes() -> tuple[Figure, Axes, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=100, facecolor=PAPER)
    parts: Any = figure.subfigures(1, 2)
    left, right = (axes_in(part, left=0.62, right=0.25) for part in parts)
    return figure, left, right


def _nothing(axes: Axes, why: str) -> None:
    axes.set(xticks=[], yticks=[])
    none(axes, why)


def _kinds(axes: Axes, rows: Rows) -> None:
    """Sums over the blocks of all sinks, NOP sinks and broadcast sinks."""
    steps = sorted({row["step"] for row in rows})
    for name, (column, colour, marker, dashes) in KINDS.items():
        totals = [sum(row[column] for row in rows if row["step"] == step) for step in steps]
        style: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": dashes, **_every(steps)}
        axes.plot(steps, totals, label=f"{name}: {totals[-1]:.2f} at the end", **style)
    axes.legend(**LEGEND, loc="upper left")


def _by_block(axes: Axes, rows: Rows, column: str) -> None:
    depth = int(max(row["block"] for row in rows))
    blocks = blocks_shown(depth)
    for index, block in enumerate(blocks):
        steps, values = zip(*((row["step"], row[column]) for row in rows if row["block"] == block), strict=True)
        style: dict[str, Any] = {"color": colour_of(block, depth), "marker": MARKERS[index], **_every(steps)}
        axes.plot(steps, values, label=f"block {block}", **style)
    axes.legend(**LEGEND, ncols=2 if len(blocks) < 5 else 3, columnspacing=1.0, loc="upper left")


def _every(steps: Sequence[float]) -> dict[str, Any]:
    """Size of lines and markers, of which at most about eight are drawn."""
    return {"markevery": max(1, len(steps) // 8), "markersize": 3.5, "linewidth": 1.2}
