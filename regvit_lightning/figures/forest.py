"""Forest plot: differences between models on groups of images, with intervals, a column for each pair of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regvit_lightning.figures.style import GREY, INK, NORMAL, OUTLIER, PAPER, SMALL, TITLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW, HEAD, BELOW = 0.155, 0.62, 0.62  # inches: a row, above the first and below the last
LABELS, PANEL, GAP = 2.3, 1.9, 0.14  # inches: width of the labels, of a panel, and between panels
POINTS = 72  # an inch
AROUND = 1.25  # × the largest difference is the end of the axis; intervals may go on beyond it


@dataclass(frozen=True)
class Whisker:
    """A difference and its 95 % interval.

    Attributes:
        value, low, high: in the unit of the metric; the ends equal to the value where nothing is known.
        sign: +1 where the second is better beyond noise, -1 where it is worse, 0 where that is unclear.
    """

    value: float
    low: float
    high: float
    sign: int


@dataclass(frozen=True)
class Panel:
    """A pair of models.

    Attributes:
        title: what is compared.
        rows: a whisker for each row of the figure, None where the pair has none.
        whole: difference on all images, drawn as a dotted line.
    """

    title: str
    rows: Sequence[Whisker | None]
    whole: float


def forest(title: str, axis: str, rows: Sequence[tuple[str, str]], panels: Sequence[Panel]) -> Figure:
    """Draw a row for each group of images and a panel for each pair of models, all at one scale.

    Args:
        title: task and metric.
        axis: what the differences are, with unit and direction.
        rows: kind and name of each group; a kind is written once, above a line.
        panels: at least one.
    """
    from matplotlib.figure import Figure

    height = HEAD + ROW * len(rows) + BELOW
    width = LABELS + (PANEL + GAP) * len(panels)
    figure = Figure(figsize=(width, height), facecolor=PAPER)
    figure.text(0.1 / width, 1 - 0.12 / height, title, fontsize=TITLE, weight="bold", color=INK, va="top")
    end = AROUND * max((abs(one.value) for panel in panels for one in panel.rows if one), default=0.0) or 1.0
    for index, panel in enumerate(panels):
        left = LABELS + index * (PANEL + GAP)
        box = (left / width, BELOW / height, PANEL / width, ROW * len(rows) / height)
        axes = figure.add_axes(box)
        _panel(axes, panel, end)
        axes.set_yticks(range(len(rows)), [name for _, name in rows] if index == 0 else [])
        _kinds(axes, rows, index == 0)
    key = "blue: better, orange: worse beyond noise; hollow: unclear; dotted: all images"
    figure.text(0.5, 0.32 / height, axis, fontsize=SMALL, color=INK, ha="center", va="center")
    figure.text(0.5, 0.13 / height, key, fontsize=SMALL, color=GREY, ha="center", va="center")
    return figure


def _panel(axes: Axes, panel: Panel, end: float) -> None:
    axes.axvline(0, color=INK, linewidth=0.6)
    axes.axvline(panel.whole, color=GREY, linewidth=0.8, linestyle=":")
    for index, one in enumerate(panel.rows):
        if one is None:
            continue
        colour = {1: NORMAL, -1: OUTLIER, 0: GREY}[one.sign]
        shape = "o" if not one.sign else ">" if one.value > 0 else "<"
        axes.plot([one.low, one.high], [index, index], color=colour, linewidth=1.0, solid_capstyle="butt")
        axes.plot(one.value, index, shape, color=colour, markersize=4, markerfacecolor=colour if one.sign else PAPER)
    axes.set_xlim(-end, end)
    axes.set_ylim(len(panel.rows) - 0.5, -0.5)
    axes.set_title(panel.title, fontsize=SMALL, color=INK, pad=4)
    axes.tick_params(labelsize=SMALL, color=INK, labelcolor=INK, length=2)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set(edgecolor=INK, linewidth=0.6)


def _kinds(axes: Axes, rows: Sequence[tuple[str, str]], named: bool) -> None:
    """A line above each kind of groups, and its name at the left."""
    starts = [index for index, (kind, _) in enumerate(rows) if index == 0 or rows[index - 1][0] != kind]
    for start in starts:
        if start:
            axes.axhline(start - 0.5, color=GREY, linewidth=0.4)
        if named:
            style: dict[str, Any] = {"ha": "left", "va": "center", "color": INK, "weight": "bold", "fontsize": SMALL}
            aside = (-(LABELS - 0.1) * POINTS, 0)
            axes.annotate(rows[start][0], (0, start), aside, axes.get_yaxis_transform(), "offset points", **style)
