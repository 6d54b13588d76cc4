"""Strips of videos: some frames of each with the masks that were predicted and the true contours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from regvit_lightning.figures.grids import shrunk, shrunk_image, write_score
from regvit_lightning.figures.style import INK, OUTLIER, PAPER, SMALL, TITLE, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, GAP, HEAD, LEGEND = 2.0, 0.06, 0.26, 0.3  # inches: a panel, between panels, title of a strip, line below all
OPACITY = 0.65  # of a mask on its frame
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#f0e442", "#d55e00")  # Okabe and Ito, of objects


@dataclass(frozen=True, eq=False)
class Panel:
    """One frame.

    Attributes:
        image: (H, W, 3).
        truth: (H, W), ids of the objects, 0 for the background.
        predicted: (H, W), 0 for the background and n for the n-th object; None for the frame whose mask is given.
        outliers: (h, w), patches whose norm is an outlier.
        text: text on the frame.
    """

    image: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.uint8]
    predicted: npt.NDArray[np.uint8] | None
    outliers: npt.NDArray[np.bool_]
    text: str


@dataclass(frozen=True, eq=False)
class Strip:
    """Frames of one video, in the order of time, the given one first."""

    title: str
    panels: Sequence[Panel]


def strips(rows: Sequence[Strip]) -> Figure:
    """One row of frames per video: masks in colour, true contours in white, outlier patches as small squares.

    Raises:
        ValueError: no rows, or a row without frames.
    """
    from matplotlib.figure import Figure

    if not rows or not all(row.panels for row in rows):
        raise ValueError(f"{len(rows)} strips with {[len(row.panels) for row in rows]} frames: expected at least one")
    columns, margin = max(len(row.panels) for row in rows), 0.12
    heights = [WIDTH * min(max(_ratio(row), 0.3), 1.8) for row in rows]
    width = columns * WIDTH + (columns - 1) * GAP + 2 * margin
    height = sum(heights) + len(rows) * (HEAD + GAP) + LEGEND
    figure = Figure(figsize=(width, height), dpi=100, facecolor=PAPER)
    top = height
    for row, tall in zip(rows, heights, strict=True):
        figure.text(margin / width, (top - 0.19) / height, row.title, fontsize=TITLE, weight="bold", color=INK)
        top -= HEAD + tall
        for column, panel in enumerate(row.panels):
            left = margin + column * (WIDTH + GAP)
            _draw(figure.add_axes((left / width, top / height, WIDTH / width, tall / height)), panel, row.panels[0])
        top -= GAP
    note = "colour: mask, given in the first frame and predicted in the others; white line: true mask"
    any_outlier = any(panel.outliers.any() for row in rows for panel in row.panels)
    note += "; orange squares: patches of outlier norm" if any_outlier else "; no patch of outlier norm in these frames"
    figure.text(margin / width, 0.1 / height, note, fontsize=SMALL, color=INK)
    return figure


def _ratio(row: Strip) -> float:
    height, width = row.panels[0].image.shape[:2]
    return height / width


def _draw(axes: Axes, panel: Panel, first: Panel) -> None:
    ids = [own for own in np.unique(first.truth).tolist() if own]
    truth = np.searchsorted([0, *ids], panel.truth).astype(np.uint8) * np.isin(panel.truth, ids)
    shown = shrunk(truth if panel.predicted is None else panel.predicted)
    image, contours = shrunk_image(panel.image), shrunk(truth)
    extent = (0, panel.image.shape[1], panel.image.shape[0], 0)
    axes.imshow(_tinted(image, shown), extent=extent, interpolation="antialiased")
    _contours(axes, contours, panel.image.shape[:2])
    _squares(axes, panel.outliers, panel.image.shape[:2])
    axes.set(xlim=extent[:2], ylim=extent[2:])
    bare(axes)
    write_score(axes, panel.text)


def _tinted(image: npt.NDArray[np.uint8], classes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The image (H, W, 3) with the colour of its object over every pixel of one."""
    from matplotlib.colors import to_rgb

    colours = 255 * np.array([to_rgb(COLOURS[(number - 1) % len(COLOURS)]) for number in range(256)])
    over = OPACITY * (classes > 0)[..., None]
    mixed: npt.NDArray[np.uint8] = np.rint((1 - over) * image + over * colours[classes]).astype(np.uint8)
    return mixed


def _contours(axes: Axes, classes: npt.NDArray[np.uint8], size: tuple[int, int]) -> None:
    rows, columns = ((np.arange(side) + 0.5) * whole / side for side, whole in zip(classes.shape, size, strict=True))
    for own in np.unique(classes)[1:] if (classes == 0).any() else np.unique(classes):
        mask = (classes == own).astype(float)
        if 0 < mask.sum() < mask.size and min(mask.shape) > 1:
            style: dict[str, Any] = {"levels": [0.5]}
            axes.contour(columns, rows, mask, colors=INK, linewidths=1.8, **style)
            axes.contour(columns, rows, mask, colors=PAPER, linewidths=0.9, **style)


def _squares(axes: Axes, outliers: npt.NDArray[np.bool_], size: tuple[int, int]) -> None:
    rows, columns = np.nonzero(outliers)
    high, wide = (whole / side for side, whole in zip(outliers.shape, size, strict=True))
    style: dict[str, Any] = {"marker": "s", "linestyle": "none", "markersize": 3, "markeredgewidth": 0.5}
    axes.plot((columns + 0.5) * wide, (rows + 0.5) * high, color=OUTLIER, markeredgecolor=PAPER, **style)
