"""Scores of one token of each kind, with intervals, beside the score without a look at the images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from regvit_lightning.figures.style import GREY, INK, PAPER, SMALL, label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = tuple[float, tuple[float, float], int]

ROW = 0.32  # inches


def scores_of_tokens(rows: Mapping[str, Row], measure: str, floor: float) -> Figure:
    """A dot with its interval for each kind of token, from above in the order given.

    Args:
        rows: by kind of token, its score in percent, the 95 % interval, and the number of test images that have it.
        measure: what the score is, in words.
        floor: score without a look at the images.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 1.25 + ROW * len(rows)), dpi=100, facecolor=PAPER, layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(floor, color=GREY, linewidth=1, linestyle=":")
    for place, (score, (low, high), _) in enumerate(rows.values()):
        axes.plot([low, high], [place, place], color=INK, linewidth=1.2)
        axes.plot([score], [place], "o", color=INK, markersize=4.5)
    names = [f"{name} (n = {images:,})" for name, (_, _, images) in rows.items()]
    axes.set_yticks(range(len(rows)), names, fontsize=SMALL)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 101)
    label(axes, "Classes from one token", f"{measure}, %\ndotted: without a look at the images", "")
    return figure
