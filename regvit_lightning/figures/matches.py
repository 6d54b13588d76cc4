"""Matches between two images: lines from keypoints of the one to the points that they are matched to in the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from regvit_lightning.figures.grids import shrunk_image
from regvit_lightning.figures.style import INK, NORMAL, OUTLIER, PAPER, SMALL, TITLE, bare

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEIGHT, WIDTH = 2.2, 3.0  # inches, of an image at most
GAP, HEAD, LEGEND, MARGIN = 0.5, 0.26, 0.3, 0.12  # inches: between images, title, line below all, edge


@dataclass(frozen=True, eq=False)
class Row:
    """One pair.

    Attributes:
        title: text above it.
        source, target: images (H, W, 3).
        points: (2, N, 2), true keypoints in pixels of both images.
        matched: (N, 2), points in the target that they are matched to.
        right: (N,) bool.
    """

    title: str
    source: npt.NDArray[np.uint8]
    target: npt.NDArray[np.uint8]
    points: npt.NDArray[np.floating]
    matched: npt.NDArray[np.floating]
    right: npt.NDArray[np.bool_]


def matches(rows: Sequence[Row]) -> Figure:
    """One row per pair: blue lines are right, orange dashed ones are wrong, rings are the true points.

    Raises:
        ValueError: no rows.
    """
    from matplotlib.figure import Figure

    if not rows:
        raise ValueError("no pair to show: expected at least one")
    width = max(sum(_sizes(row)[0]) for row in rows) + GAP + 2 * MARGIN
    step = HEIGHT + HEAD + 0.06
    height = len(rows) * step + LEGEND
    figure = Figure(figsize=(width, height), dpi=100, facecolor=PAPER)
    for number, row in enumerate(rows):
        top = height - number * step
        figure.text(MARGIN / width, (top - 0.19) / height, row.title, fontsize=TITLE, weight="bold", color=INK)
        _draw(figure, row, MARGIN, top - HEAD - HEIGHT)
    note = "blue: right; orange, dashed: wrong; white rings: the true keypoints"
    figure.text(MARGIN / width, 0.1 / height, note, fontsize=SMALL, color=INK)
    return figure


def _sizes(row: Row) -> tuple[list[float], list[float]]:
    """Widths and heights in inches of the two images, in their own shapes."""
    ratios = [image.shape[1] / image.shape[0] for image in (row.source, row.target)]
    widths = [min(WIDTH, HEIGHT * ratio) for ratio in ratios]
    return widths, [width / ratio for width, ratio in zip(widths, ratios, strict=True)]


def _draw(figure: Figure, row: Row, left: float, bottom: float) -> None:
    from matplotlib.patches import ConnectionPatch

    width, height = figure.get_size_inches()
    panels, (across, down) = [], _sizes(row)
    for column, image in enumerate((row.source, row.target)):
        start = left + column * (across[0] + GAP), bottom + HEIGHT - down[column]
        size = across[column] / width, down[column] / height
        axes = figure.add_axes((start[0] / width, start[1] / height, *size))
        axes.imshow(shrunk_image(image), extent=(0, image.shape[1], image.shape[0], 0), interpolation="antialiased")
        bare(axes)
        panels.append(axes)
    for start, end, right in zip(row.points[0], row.matched, row.right, strict=True):
        colour, style = (NORMAL, "-") if right else (OUTLIER, "--")
        ends: dict[str, Any] = {"coordsA": "data", "coordsB": "data", "axesA": panels[0], "axesB": panels[1]}
        figure.add_artist(
            ConnectionPatch(tuple(start), tuple(end), **ends, color=colour, linestyle=style, linewidth=1.2)
        )
    dots: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 4, "markeredgewidth": 0.8}
    panels[0].plot(*row.points[0].T, color=INK, markeredgecolor=PAPER, **dots)
    panels[1].plot(*row.points[1].T, **{**dots, "markersize": 6}, color="none", markeredgecolor=PAPER)
    for right, colour in ((True, NORMAL), (False, OUTLIER)):
        panels[1].plot(*row.matched[row.right == right].T, color=colour, markeredgecolor=PAPER, **dots)
