"""Norms of patches during training, after Fig. 4b of Darcet et al. 2023 (arXiv 2309.16588)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from regvit_lightning.figures.style import (
    INK,
    LEGEND,
    MARKERS,
    PAPER,
    axes_in,
    colour_bar,
    label,
    none,
    percents,
    plain_numbers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EDGES = 10 ** np.linspace(-2, 4, 61)  # of the bins of norms that a run counts: ten to a power of ten
BINS = [f"bin{index}" for index in range(len(EDGES) - 1)]
LINES_SHOWN = 7  # blocks with a line of their own, evenly spread, including the last

Rows = Sequence[Mapping[str, float]]


def histogram(norms: npt.NDArray[np.floating]) -> dict[str, float]:
    """Share of norms, of any shape, in each of `BINS`; those beyond the outermost edges count in the outermost bins."""
    inside = norms.ravel().clip(EDGES[0], EDGES[-1] * (1 - 1e-9))
    counts = np.histogram(inside, EDGES)[0]
    return dict(zip(BINS, (counts / inside.size).tolist(), strict=True))


def norms_during_training(rows: Rows) -> Figure:
    """Fig. 4b: heat map of the norms after the last block against the step; share of outliers in some blocks.

    Args:
        rows: rows of `norms.csv`, see `pretrain/norms_callback.py`; those of older versions have no `BINS`, and NaN in
            their place shows the quantiles alone.
    """
    from matplotlib.figure import Figure

    depth = int(max(row["block"] for row in rows))
    figure = Figure(figsize=(9.4, 3.4), dpi=100, facecolor=PAPER)
    parts: Any = figure.subfigures(1, 2, width_ratios=[5.0, 4.4])
    left, right = parts
    _heat_map(axes_in(left, right=0.85), [row for row in rows if row["block"] == depth], depth)
    _shares(axes_in(right, left=0.72), rows, depth)
    return figure


def _heat_map(axes: Axes, last: Rows, depth: int) -> None:
    from matplotlib.colors import LogNorm

    steps = np.array([row["step"] for row in last], float)
    shares = np.array([[row[name] for name in BINS] for row in last]).T
    shown = np.ma.masked_where(~(shares > 0), shares)
    if shown.count():
        scale = LogNorm(float(shown.min()), max(float(shown.max()), 2 * float(shown.min())))
        style: dict[str, Any] = {"norm": scale, "cmap": "viridis_r", "rasterized": True}
        picture = axes.pcolormesh(_between(steps), EDGES, shown, **style)
        colour_bar(axes, picture, "share of patches", percent=True)
    every: dict[str, Any] = {"markevery": max(1, len(steps) // 8), "markersize": 3.5, "linewidth": 1.0}
    axes.plot(steps, [row["max"] for row in last], color=INK, linestyle=":", marker="^", label="largest", **every)
    axes.plot(steps, [row["median"] for row in last], color=INK, marker="o", label="median", **every)
    axes.set_yscale("log")
    low, high = min(row["min"] for row in last), max(row["max"] for row in last)
    axes.set_ylim(0.85 * low, 1.9 * high)  # room for the legend
    plain_numbers(axes)
    axes.legend(**LEGEND, ncols=2, loc="upper left")
    label(axes, f"norms of patches after block {depth}", "step", "L2 norm")


def _between(steps: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Edges of columns around ascending steps, midway between neighbours."""
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    middle = (steps[1:] + steps[:-1]) / 2
    return np.array([steps[0], *middle, steps[-1]])


def blocks_shown(depth: int) -> list[int]:
    """Blocks 1..depth that have a line of their own: all, or `LINES_SHOWN` evenly spread."""
    return sorted({round(value) for value in np.linspace(1, depth, min(depth, LINES_SHOWN))})


def colour_of(block: int, depth: int) -> tuple[float, float, float, float]:
    """Colour of the line of a block 1..depth, darker for later ones."""
    import matplotlib

    return matplotlib.colormaps["viridis_r"](0.15 + 0.85 * block / depth)


def _shares(axes: Axes, rows: Rows, depth: int) -> None:
    blocks = blocks_shown(depth)
    for index, block in enumerate(blocks):
        points = [(row["step"], row["factor"]) for row in rows if row["block"] == block]
        every = max(1, len(points) // 8)
        style: dict[str, Any] = {"marker": MARKERS[index], "markersize": 3.5, "linewidth": 1.2, "markevery": every}
        axes.plot(*zip(*points, strict=True), color=colour_of(block, depth), label=f"block {block}", **style)
    largest = max(row["factor"] for row in rows)
    percents(axes)
    axes.set_ylim(top=1.45 * largest or 0.01)  # room for the legend
    if largest:
        axes.legend(**LEGEND, ncols=2 if len(blocks) < 5 else 3, columnspacing=1.0, loc="upper left")
    else:
        none(axes, "none, in any block at any step")
    label(axes, "patches above 3 × the median", "step", "share of patches")
