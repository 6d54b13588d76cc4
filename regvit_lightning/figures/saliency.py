"""Examples of saliency: images with their true contours beside the mask of every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from regvit_lightning.figures.grids import (
    ABOVE,
    PANEL,
    column_title,
    rows_of_panels,
    same_titles,
    shrunk,
    shrunk_image,
    write_score,
)
from regvit_lightning.figures.style import INK, OUTLIER, PAPER, SMALL, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOTE = 0.14  # inches: a line in small print below the title of a column
DIMMED = 0.3  # brightness of the image outside a mask


@dataclass(frozen=True, eq=False)
class Example:
    """An image with its masks.

    Attributes:
        image: (H, W, 3), of any size.
        truth: (H, W), true foreground.
        masks: (h, w) bool by title, one value a patch; the same titles in every row.
        maps: (h, w) by title, shown in place of the image; for some of the masks.
        scores: text on each mask by its title.
        text: text on the image.
    """

    image: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.bool_]
    masks: Mapping[str, npt.NDArray[np.bool_]]
    maps: Mapping[str, npt.NDArray[np.floating]]
    scores: Mapping[str, str]
    text: str = ""


def examples(rows: Sequence[Example]) -> Figure:
    """One row per image: the image, then the mask of each method; the true contour is white everywhere.

    Raises:
        ValueError: no rows, or rows with masks of different titles.
    """
    titles = same_titles([list(row.masks) for row in rows], "masks")
    columns = 1 + len(titles)
    figure, grid = rows_of_panels([row.image for row in rows], [PANEL] * columns, above=ABOVE + NOTE)
    for number, row in enumerate(rows):
        panels = [figure.add_subplot(grid[number, column], anchor="NW") for column in range(columns)]
        _show(panels[0], shrunk_image(row.image), row, interpolation="antialiased")
        write_score(panels[0], row.text)
        for axes, (title, mask) in zip(panels[1:], row.masks.items(), strict=True):
            _show_mask(axes, title, mask, row)
            write_score(axes, row.scores[title])
        if number == 0:
            _head(figure, panels, row)
    return figure


def _head(figure: Figure, panels: Sequence[Axes], row: Example) -> None:
    notes = ["attention, orange: mask" if title in row.maps else "bright: mask" for title in row.masks]
    for axes, title, note in zip(panels, ["image", *row.masks], ["white: true contour", *notes], strict=True):
        column_title(figure, axes, title)
        axes.set_title(note, loc="left", fontsize=SMALL, color=INK, pad=3)


def _show(axes: Axes, values: npt.NDArray[Any], row: Example, **style: Any) -> None:
    height, width = row.truth.shape
    axes.imshow(values, extent=(0, width, height, 0), **style)
    _contour(axes, shrunk(row.truth), (height, width), PAPER)
    axes.set(xlim=(0, width), ylim=(height, 0))
    bare(axes)


def _show_mask(axes: Axes, title: str, mask: npt.NDArray[np.bool_], row: Example) -> None:
    height, width = row.truth.shape
    fine = _upsampled(mask, (height, width))
    if title in row.maps:
        values = row.maps[title]
        top = max(float(np.quantile(values, 0.99)), 1e-12)
        _show(axes, values, row, cmap="viridis", vmin=0, vmax=top, interpolation="nearest")
        _contour(axes, shrunk(fine), (height, width), OUTLIER)
        return
    image = shrunk_image(row.image)
    inside = _upsampled(fine, (image.shape[0], image.shape[1]))[..., None]
    _show(axes, np.where(inside, image, DIMMED * image).astype(np.uint8), row, interpolation="antialiased")


def _upsampled(mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """A mask at another size by nearest neighbour."""
    rows, columns = (np.arange(side) * cells // side for side, cells in zip(size, mask.shape, strict=True))
    return mask[rows][:, columns]


def _contour(axes: Axes, mask: npt.NDArray[np.bool_], size: tuple[int, int], colour: str) -> None:
    if mask.all() or not mask.any() or min(mask.shape) < 2:
        return
    rows, columns = ((np.arange(side) + 0.5) * whole / side for side, whole in zip(mask.shape, size, strict=True))
    style: dict[str, Any] = {"levels": [0.5]}
    for edge, line in ((INK, 1.8), (colour, 0.9)):
        axes.contour(columns, rows, mask.astype(float), colors=edge, linewidths=line, **style)
