"""Several scores over a training, one small panel for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from regvit_lightning.figures.style import LINES, MARKERS, PAPER, label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3
WIDE, HIGH = 2.5, 1.9  # inches of a panel


def figure(steps: Sequence[int], curves: Mapping[str, Sequence[float]]) -> Figure:
    """One panel for each score by its title, with the steps as a common axis."""
    from matplotlib.figure import Figure

    rows = -(-len(curves) // COLUMNS)
    drawn = Figure(figsize=(COLUMNS * WIDE, rows * HIGH), dpi=100, facecolor=PAPER, layout="constrained")
    grid: Any = drawn.subplots(rows, COLUMNS, sharex=True, squeeze=False)
    for axes in grid.flat[len(curves) :]:
        axes.set_visible(False)
    for number, (axes, (title, values)) in enumerate(zip(grid.flat, curves.items(), strict=False)):
        axes.plot(steps, values, color=LINES[number], marker=MARKERS[number], markersize=3, linewidth=1.2)
        label(axes, title, "step" if number + COLUMNS >= len(curves) else "", "")
    return drawn
