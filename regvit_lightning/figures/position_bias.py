"""Position bias on a page: share of variance over the blocks, matches of shifted content, and where outliers sit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from regvit_lightning.figures.positions import share_map
from regvit_lightning.figures.style import GREY, LEGEND, LINES, MARKERS, PAPER, label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE, HIGH = 3.1, 2.7  # inches of a panel


def page(kinds: Mapping[str, Any]) -> Figure:
    """One page of panels.

    Args:
        kinds: what was measured, `position_bias.Measured`, by what the model is: as it is, or without its embedding.
    """
    from matplotlib.figure import Figure

    panels = 2 + len(kinds)
    figure = Figure(figsize=(panels * WIDE, HIGH), dpi=100, facecolor=PAPER, layout="constrained")
    axes: Any = figure.subplots(1, panels)
    for number, (name, own) in enumerate(kinds.items()):
        style: dict[str, Any] = {"color": LINES[number], "marker": MARKERS[number], "markersize": 3.5, "linewidth": 1.2}
        axes[0].plot(range(1, len(own.shares) + 1), own.shares, label=name, **style)
        shifts = list(own.matches)
        content, place = (
            [float(getattr(own.matches[s], kind).mean()) for s in shifts] for kind in ("content", "position")
        )
        axes[1].plot(shifts, content, label=f"same content, {name}", **style)
        axes[1].plot(shifts, place, label=f"same place, {name}", linestyle=":", **style)
        share_map(axes[2 + number], own.placement.share, len(own.mask))
        axes[2 + number].set_title(f"outliers, {name}", loc="left", fontsize=9.5, weight="bold")
    axes[0].axhline(100 / len(own.mask), color=GREY, linewidth=0.8, linestyle="--", label="no position")
    label(axes[0], "Variance by position", "block, final norm last", "%")
    label(axes[1], "Nearest patch of a shifted crop", "shift, patches", "% of patches")
    axes[0].set_ylim(bottom=0)
    axes[1].set_xticks(shifts)
    axes[1].set_ylim(0, 100)
    for panel in axes[:2]:
        panel.legend(**LEGEND)
    return figure
