"""Charts of the registers of a model: how alike they are, and how far their attention maps differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from regvit_lightning.analysis.diversity import NORMED, RAW, Diversity
from regvit_lightning.figures.style import INK, PAPER, SMALL, TITLE, colour_bar, mean_and_deviation, none

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

FEW = "none: fewer than two registers"
LEAST_SCALE = 0.1  # bits at the bright end of the divergences: maps that are all alike look alike
WRITTEN = 8  # registers up to which the values are written into the cells


def cosine_matrix(axes: Axes, diversity: Diversity | None) -> None:
    """Mean cosine between registers: after the final norm above the diagonal, before it below.

    Below it stands the mean over pairs after the final norm with its standard deviation over images, in a bottom margin
    of 0.65 inches.
    """
    _title(axes, "cosine of registers")
    if diversity is None:
        none(axes, FEW)
        return
    normed, raw = (diversity.cosines[kind].numpy() for kind in (NORMED, RAW))
    _matrix(axes, np.triu(normed, 1) + np.tril(raw, -1), "cosine", {"cmap": "PuOr_r", "vmin": -1, "vmax": 1})
    _below(axes, "above: after the final norm, below: before it", diversity.scores["register_cosine"])


def divergence_matrix(axes: Axes, divergences: Tensor | None, of_images: Tensor | None = None) -> None:
    """Mean Jensen–Shannon divergence between the attention maps of registers in the last block, in bits.

    Args:
        axes: to draw into, with a bottom margin of 0.65 inches.
        divergences: (R, R), mean over images; None for fewer than two registers.
        of_images: (N,), mean over pairs of each image, of which mean and standard deviation are written below.
    """
    _title(axes, "divergence of maps, last block")
    if divergences is None:
        none(axes, FEW)
        return
    values = divergences.numpy()
    _matrix(
        axes, values, "Jensen–Shannon, bits", {"cmap": "viridis", "vmin": 0, "vmax": max(values.max(), LEAST_SCALE)}
    )
    _below(axes, "0: the same map, 1: no patch in common", of_images)


def _below(axes: Axes, words: str, of_images: Tensor | None) -> None:
    if of_images is not None:
        words += f"\nmean of pairs {mean_and_deviation(of_images)} (n = {len(of_images):,} images)"
    axes.set_xlabel(words, fontsize=SMALL, color=INK, labelpad=3)


def _title(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=TITLE, color=INK, loc="left", weight="bold", pad=6)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _matrix(axes: Axes, values: Any, title: str, style: dict[str, Any]) -> None:
    """Heat map of (R, R) values without the diagonal, with the values where there is room."""
    shown = np.where(np.eye(len(values), dtype=bool), np.nan, values)
    picture: Any = axes.imshow(shown, **style)
    every = range(len(values)) if len(values) <= WRITTEN else range(0, len(values), -(-len(values) // WRITTEN))
    axes.set_xticks(list(every), [str(index) for index in every])
    axes.set_yticks(list(every), [f"reg_{index}" for index in every])
    axes.tick_params(labelsize=SMALL, labelcolor=INK, length=0)
    for row, column in np.argwhere(np.isfinite(shown)) if len(values) <= WRITTEN else ():
        dark = picture.norm(shown[row, column])
        strong = abs(2 * dark - 1) > 0.6 if style["vmin"] < 0 else dark < 0.6  # a diverging map is dark at both ends
        text = f"{shown[row, column]:.2f}".replace("0.", ".", 1) if len(values) > 4 else f"{shown[row, column]:.2f}"
        axes.text(column, row, text, fontsize=SMALL, ha="center", va="center", color=PAPER if strong else INK)
    colour_bar(axes, picture, title)
