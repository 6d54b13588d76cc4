"""Figures that compare models: norms of each (Fig. 7), metrics and cost against the number of registers (Figs. 8, 12).

The numbers are those of Darcet et al. 2023 (arXiv 2309.16588). Colours, shapes and line styles tell families apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from regvit_lightning.figures.artifacts import strip_key, strips
from regvit_lightning.figures.style import GREY, LEGEND, LINES, MARKERS, PAPER, axes_in, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))  # line style of a family
COLOURS = len(LINES)
PANEL = (3.3, 2.7)  # inches
ACROSS = 3  # panels in a row


@dataclass(frozen=True)
class Point:
    """A value with a given number of registers.

    Attributes:
        registers: number of registers.
        value: mean over seeds.
        low, high: ends of its error bar; equal to the value where nothing is known.
    """

    registers: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """A metric against the number of registers.

    Attributes:
        title: task and metric.
        axis: unit, direction and number of test images.
        families: points by family of models, ascending.
        floors: value by name of a baseline, such as untrained weights, drawn as a line across.
    """

    title: str
    axis: str
    families: Mapping[str, Sequence[Point]]
    floors: Mapping[str, float] = field(default_factory=dict)


def norms_of_models(groups: Mapping[str, Tensor], factor: float, dot: str) -> Figure:
    """Fig. 7: strip plot of the norms of patches after the last block, a column for each model.

    Args:
        groups: norms of any shape by model.
        factor: a norm above `factor` × the model's median is drawn as a triangle.
        dot: meaning of a dot, with n.
    """
    from matplotlib.figure import Figure

    longest = max(len(name) for name in groups)
    upright = longest * 0.075 < 1.15
    below = 0.75 if upright else 0.42 + 0.063 * longest
    figure = Figure(figsize=(0.85 + (1.2 if upright else 0.75) * len(groups), 2.9 + below), facecolor=PAPER)
    axes = axes_in(figure, bottom=below)
    cutoffs = {name: factor * float(norms.median()) for name, norms in groups.items()}
    strips(axes, groups, cutoffs)
    if not upright:
        axes.set_xticks(range(len(groups)), list(groups), rotation=90)
    some = any(float(norms.max()) > cutoffs[name] for name, norms in groups.items())
    above = f"above {factor:g} × median" if some else ""
    where: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.005, 0.0), "bbox_transform": figure.transFigure}
    strip_key(axes, dot, above, ncols=1 if len(groups) < 3 else 3, columnspacing=1.2, **where)
    label(axes, "norms of patches, last block" + ("" if some else f"; above {factor:g} × median: none"), "", "L2 norm")
    return figure


def register_curves(curves: Sequence[Curve], bars: str) -> Figure:
    """Fig. 8: a panel for each metric, a line for each family of models with error bars, grey lines for floors.

    Args:
        curves: at least one.
        bars: meaning of the error bars.
    """
    from matplotlib.figure import Figure

    across = min(ACROSS, len(curves))
    down = math.ceil(len(curves) / across)
    names = sorted({name for curve in curves for name in curve.families})
    floors = list(dict.fromkeys(name for curve in curves for name in curve.floors))
    columns = max(1, int(across * PANEL[0] / 1.7))
    below = 0.3 + 0.18 * math.ceil((len(names) + len(floors)) / columns) + 0.2
    figure = Figure(figsize=(across * PANEL[0], down * PANEL[1] + below), facecolor=PAPER)
    whole: Any = figure.subfigures(2, 1, height_ratios=[down * PANEL[1], below], hspace=0)
    parts: Any = whole[0].subfigures(down, across, squeeze=False, wspace=0, hspace=0)
    for part, curve in zip(parts.flatten(), curves, strict=False):
        _curve(axes_in(part), curve, names, floors)
    handles = [_handle(name, _style(index)) for index, name in enumerate(names)]
    handles += [_handle(f"floor: {name}", _floor_style(index)) for index, name in enumerate(floors)]
    whole[1].legend(handles=handles, **LEGEND, ncols=columns, loc="upper center", title=bars, title_fontsize=8)
    return figure


def costs_of_models(families: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Fig. 12: parameters (dashed) and multiply-adds against the number of registers, in percent above none.

    Args:
        families: numbers of registers, more multiply-adds and more parameters in percent, by family of models.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.2), facecolor=PAPER)
    axes = axes_in(figure, left=0.72)
    for index, (name, (counts, macs, parameters)) in enumerate(families.items()):
        style: dict[str, Any] = {"color": LINES[index % COLOURS], "linewidth": 1.3, "markersize": 5}
        marker = MARKERS[index % COLOURS]
        axes.plot(counts, macs, marker=marker, label=f"{name}: multiply-adds", **style)
        axes.plot(
            counts,
            parameters,
            marker=marker,
            label=f"{name}: parameters",
            **style,
            linestyle="--",
            markerfacecolor=PAPER,
        )
    axes.set_xticks(sorted({int(count) for counts, _, _ in families.values() for count in counts}))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"+{value:g} %" if value else "0 %")
    axes.legend(**LEGEND, loc="upper left")
    label(axes, "cost of registers", "registers", "more than without registers")
    return figure


def _curve(axes: Axes, curve: Curve, names: Sequence[str], floors: Sequence[str]) -> None:
    counts = sorted({point.registers for points in curve.families.values() for point in points})
    for name, points in curve.families.items():
        index = names.index(name)
        # Families are set apart a little, so that their error bars do not cover each other.
        across = [counts.index(point.registers) + 0.06 * (index - (len(names) - 1) / 2) for point in points]
        values = [point.value for point in points]
        bars = [[p.value - p.low for p in points], [p.high - p.value for p in points]]
        axes.errorbar(across, values, bars, **_style(index), capsize=2.5, elinewidth=0.9)
    for name, value in curve.floors.items():
        axes.axhline(value, **_floor_style(floors.index(name)), zorder=1)
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.set_xlim(-0.35, len(counts) - 0.65)
    label(axes, curve.title, "registers", curve.axis)


def _style(index: int) -> dict[str, Any]:
    style = DASHES[index // COLOURS % len(DASHES)] if index >= COLOURS else DASHES[index % len(DASHES)]
    return {
        "color": LINES[index % COLOURS],
        "marker": MARKERS[index % COLOURS],
        "linestyle": style,
        "linewidth": 1.2,
        "markersize": 4.5,
    }


def _floor_style(index: int) -> dict[str, Any]:
    return {"color": GREY, "linestyle": DASHES[(index + 1) % len(DASHES)], "linewidth": 1.0}


def _handle(name: str, style: Mapping[str, Any]) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], label=name, **style)
