"""Largest norm of a patch over the median during training, one panel for each setting of a study."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regvit_lightning.figures.style import GREY, INK, LEGEND, LINES, MARKERS, PAPER, SMALL, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4
WIDE, HIGH = 2.35, 1.95  # inches of a panel
LEAST = 3.6  # inches that the legend needs
ABOVE, BELOW = 0.34, 0.42  # inches around all panels, for the legend and the axis label
TITLED = 0.42  # inches above the first row of panels, for titles of two lines
LETTERS = 27  # of a line of a title
TICKS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000)
THRESHOLD = 3.0  # multiple of the median above which a patch is an outlier by the rule `factor`
LOW, MARGIN = 0.9, 1.25  # lower end of the axis, and room above the largest value


@dataclass(frozen=True)
class Curve:
    """One run: its registers, images seen, and the largest norm over the median there."""

    registers: int
    images: Sequence[int]
    largest: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """The runs of one setting, with its title."""

    title: str
    curves: Sequence[Curve]


def figure(panels: Sequence[Panel]) -> Figure:
    """Small multiples with common vertical axes; registers by colour, dash and marker, seeds as lines of one kind."""
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    wide, high = max(columns * WIDE, LEAST), rows * HIGH + ABOVE + TITLED + BELOW
    drawn = Figure(figsize=(wide, high), dpi=100, facecolor=PAPER)
    margins = {"left": 0.52 / wide, "right": 1 - 0.19 / wide, "bottom": (BELOW + 0.05) / high}
    grid: Any = drawn.subplots(rows, columns, sharey=True, squeeze=False)
    drawn.subplots_adjust(**margins, top=1 - (ABOVE + TITLED) / high, wspace=0.12, hspace=0.6)
    counts = sorted({curve.registers for panel in panels for curve in panel.curves})
    top = max(THRESHOLD, *(max(curve.largest) for panel in panels for curve in panel.curves))
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw(axes, panel, counts, top)
    handles, names = grid.flat[0].get_legend_handles_labels()
    drawn.legend(handles, names, **LEGEND, ncols=len(names), loc="upper left", bbox_to_anchor=(0.01, 1.0))
    for row in grid:
        row[0].set_ylabel("largest norm / median", fontsize=SMALL, color=INK)
    drawn.supxlabel("images seen", fontsize=SMALL, color=INK, y=0.05 / high)
    return drawn


def _draw(axes: Axes, panel: Panel, counts: Sequence[int], top: float) -> None:
    axes.set_yscale("log")
    axes.set_ylim(LOW, MARGIN * top)
    axes.axhline(THRESHOLD, color=GREY, linewidth=0.8, linestyle=":", label=f"{THRESHOLD:g} × the median")
    for index, count in enumerate(counts):
        style: dict[str, Any] = {"color": LINES[index % len(LINES)], "marker": MARKERS[index % len(MARKERS)]}
        style |= {"linestyle": "--" if index else "-", "linewidth": 1.2, "markersize": 3}
        name = f"{count} registers"
        axes.plot([], [], **style, label=name)  # one entry of the legend, also where a setting lacks these runs
        for curve in panel.curves:
            if curve.registers == count:
                every = max(1, len(curve.images) // 6)
                axes.plot(curve.images, curve.largest, **style, markevery=every)
    axes.set_yticks([tick for tick in TICKS if tick <= MARGIN * top], minor=False)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
    axes.locator_params(axis="x", nbins=4)
    label(axes, "\n".join(textwrap.wrap(panel.title, LETTERS)), "", "")
