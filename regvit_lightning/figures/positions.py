"""Figures of where outliers sit: on the image, on the grid, from the border, and among their neighbours.

After Figs. 3, 5a and 10 of Darcet et al. 2023 (arXiv 2309.16588). Each function draws into the axes that it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from regvit_lightning.analysis.positions import Placement, rings
from regvit_lightning.figures.style import (
    GREY,
    INK,
    LEGEND,
    NORMAL,
    OUTLIER,
    SMALL,
    bare,
    colour_bar,
    label,
    none,
    percents,
)
from regvit_lightning.statistics import binomial_interval, bootstrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GRID = 400  # points at which a density is drawn
BANDWIDTH = 0.015  # of a density of cosines: the peaks of fig. 5a are about as narrow


def norm_map(
    axes: Sequence[Axes], image: npt.NDArray[np.uint8], norms: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_]
) -> None:
    """Fig. 3, left: an image and the norms of its patches, outliers encircled.

    Args:
        axes: two, for the image and the map.
        image: (H, W, 3).
        norms, mask: (h, w), norms and outliers.
    """
    bare(axes[0]).imshow(image, interpolation="antialiased")
    picture = bare(axes[1]).imshow(norms, cmap="viridis", interpolation="nearest")
    rows, columns = np.nonzero(mask)
    side = axes[1].get_position().height * axes[1].figure.bbox.height / 100 * 72 / norms.shape[0]
    ring: dict[str, Any] = {"facecolors": "none", "edgecolors": OUTLIER, "linewidths": 1.2}
    axes[1].scatter(columns, rows, s=max(4.0, 0.5 * side**2), **ring)
    colour_bar(axes[1], picture, "L2 norm")
    count = f"{int(mask.sum())} of {mask.size} patches: outliers ○" if mask.any() else "outliers in this image: none"
    for panel, title, note in zip(axes, ("image", "norms, last block"), ("", count), strict=True):
        panel.set_title(title, fontsize=9.5, color=INK, loc="left", weight="bold", pad=6)
        panel.set_xlabel(note, fontsize=SMALL, color=INK, labelpad=3, loc="left")


def share_map(axes: Axes, share: Tensor, images: int) -> None:
    """Fig. 10: share of `images` (h, w) in which each position of the grid holds an outlier.

    The largest share is written below with its exact 95 % interval over images.
    """
    picture = axes.imshow(share.numpy(), cmap="magma", vmin=0, vmax=max(float(share.max()), 1e-3))
    colour_bar(axes, picture, "share of images", percent=True)
    label(axes, f"where outliers sit (n = {images:,} images)", "", "")
    bare(axes)
    if share.any():
        most = float(share.max())
        low, high = binomial_interval(round(most * images), images)
        largest = f"largest share: {100 * most:.3g} % [{100 * low:.2g}, {100 * high:.2g}]"
        axes.set_xlabel(largest, fontsize=SMALL, color=INK, labelpad=3, loc="left")
    else:
        none(axes, "no outliers")


def ring_profile(axes: Axes, placement: Placement, mask: Tensor) -> None:
    """Share of outliers against distance from the border, with the 95 % band of shuffled outliers.

    Args:
        axes: to draw into.
        placement: of the outliers.
        mask: (N, h, w) outliers; error bars are 95 % intervals over images.
    """
    distance, null = np.arange(len(placement.rings)), placement.null_rings.numpy()
    axes.fill_between(distance, null[:, 0], null[:, 1], color=GREY, alpha=0.35, linewidth=0, label="shuffled, 95 %")
    measured, around = placement.rings.numpy(), _intervals(mask)
    style: dict[str, Any] = {"marker": "o", "markersize": 4, "linewidth": 1.2, "capsize": 2.5}
    bars = [np.maximum(measured - around[0], 0), np.maximum(around[1] - measured, 0)]
    axes.errorbar(distance, measured, bars, color=OUTLIER, label="measured, 95 % over images", **style)
    percents(axes)
    if measured.any():
        axes.set_ylim(top=1.4 * max(around[1].max(), null.max()))  # room for the legend
        axes.legend(**LEGEND, loc="upper right")
    else:
        axes.set_ylim(0, 0.01)
        none(axes, "no outliers")
    axes.set_xticks(distance[:: max(1, len(distance) // 12)])
    label(axes, f"outliers from the border (n = {len(mask):,} images)", "patches from the border", "share of patches")


def _intervals(mask: Tensor) -> npt.NDArray[np.floating]:
    """95 % intervals (2, K) over images of the share of outliers in each ring."""
    distance = rings(*mask.shape[1:])
    shares = [mask[:, distance == ring].double().mean(dim=1) for ring in range(int(distance.max()) + 1)]
    return np.array([bootstrap(share) for share in shares]).T


def neighbour_densities(axes: Axes, similarity: Tensor, mask: Tensor) -> None:
    """Fig. 5a: densities of the cosine to the four neighbours after the patch embedding, outliers against the rest.

    Args:
        axes: to draw into.
        similarity: (N, h, w), `Norms.neighbours`.
        mask: (N, h, w) outliers.
    """
    for name, kind, colour, style in (("normal", ~mask, NORMAL, "-"), ("outliers", mask, OUTLIER, "--")):
        values = similarity[kind].numpy()
        legend = f"{name} (n = {len(values):,})" if len(values) else f"{name}: none"
        cosine, density = _density(values)
        axes.plot(cosine, density, color=colour, linewidth=1.5, linestyle=style, label=legend)
        axes.fill_between(cosine, density, color=colour, alpha=0.2, linewidth=0)
    low = float(similarity.min())
    axes.set_xlim(max(min(0.0, low) - 0.05, -1.02), 1.02)
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])  # room for the legend
    axes.legend(**LEGEND, loc="upper left")
    label(axes, "similarity to the 4 neighbours", "cosine after the patch embedding", "density")


def _density(values: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
    """Gaussian kernel density of cosines, reflected at -1 and 1; zeros without values."""
    from scipy.ndimage import gaussian_filter1d

    edges = np.linspace(-1, 1, GRID + 1)
    counts = np.histogram(values.clip(-1, 1), edges)[0].astype(float)
    smooth = gaussian_filter1d(counts, BANDWIDTH * GRID / 2, mode="reflect")
    return (edges[1:] + edges[:-1]) / 2, smooth / max(len(values), 1) * GRID / 2
