"""Examples of object discovery: images with boxes, and the maps that led to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from regvit_lightning.figures.grids import (
    ABOVE,
    PANEL,
    column_title,
    rows_of_panels,
    same_titles,
    shrunk_image,
    write_score,
)
from regvit_lightning.figures.style import INK, PAPER, SMALL, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRUE, PREDICTED = "#ffffff", "#e8302a"  # boxes
NOTE = 0.14  # inches: a line in small print below the title of a column


@dataclass(frozen=True, eq=False)
class Example:
    """An image with the predicted box and the intermediate maps that led to it.

    Attributes:
        image: (H, W, 3), of any size.
        truths: (M, 4) true boxes x1, y1, x2, y2 in pixels of the image, like the fields below.
        box: (4,), predicted box.
        seed: x and y of the seed patch.
        maps: (h, w) each, by title; the same titles in every row. Integers are shown from bright (0) to dark,
            other values in a diverging colour map around 0, with the largest 1 % clipped.
        patch: width and height of one cell of the maps, which may extend over the right and lower edge of the image.
        score: text on the image, such as its score.
        own_boxes: box of each map by its title, for maps of shares, which are shown from dark (0) to bright; empty
            where the box is that of all maps.
    """

    image: npt.NDArray[np.uint8]
    truths: npt.NDArray[np.floating]
    box: npt.NDArray[np.floating]
    seed: tuple[float, float]
    maps: Mapping[str, npt.NDArray[Any]]
    patch: tuple[float, float]
    score: str = ""
    own_boxes: Mapping[str, npt.NDArray[np.floating]] = field(default_factory=dict)


def discovery_examples(rows: Sequence[Example]) -> Figure:
    """One row per image: image with the true boxes and the predicted one, then the maps with box and seed.

    Raises:
        ValueError: no rows, or rows with maps of different titles.
    """
    titles = same_titles([list(row.maps) for row in rows], "maps")
    figure, grid = rows_of_panels([row.image for row in rows], [PANEL] * (1 + len(titles)), above=ABOVE + NOTE)
    for number, row in enumerate(rows):
        panels = [figure.add_subplot(grid[number, column], anchor="NW") for column in range(1 + len(titles))]
        _show_in_pixels(panels[0], shrunk_image(row.image), row.image.shape[:2], interpolation="antialiased")
        for truth in row.truths:
            _outline(panels[0], truth, TRUE, 1.2)
        for axes, values in zip(panels[1:], row.maps.values(), strict=True):
            _show_map(axes, values, row)
        write_score(panels[0], row.score)
        for axes, title in zip(panels, ["", *titles], strict=True):
            _outline(axes, row.own_boxes.get(title, row.box), PREDICTED, 1.6)
        marked = panels if not row.own_boxes else panels[:1]
        for axes in marked:
            axes.plot(*row.seed, marker="o", markersize=4, color=PREDICTED, markeredgecolor=PAPER, markeredgewidth=0.8)
        for axes in panels:
            axes.set(xlim=(0, row.image.shape[1]), ylim=(row.image.shape[0], 0))  # maps extend over the edge
        if number == 0:
            _head_columns(figure, panels, row)
    return figure


def _head_columns(figure: Figure, panels: Sequence[Axes], row: Example) -> None:
    notes = ["bright: low" if _is_count(values) else "orange: above 0" for values in row.maps.values()]
    if row.own_boxes:
        notes = ["bright: high; red: its box"] * len(row.maps)
    for axes, title, note in zip(
        panels, ["image", *row.maps], ["white: objects, red: prediction", *notes], strict=True
    ):
        column_title(figure, axes, title)
        # Not beside the title: a panel is too narrow for both.
        axes.set_title(note, loc="left", fontsize=SMALL, color=INK, pad=3)


def _is_count(values: npt.NDArray[Any]) -> bool:
    return bool(np.issubdtype(values.dtype, np.integer))


def _show_in_pixels(axes: Axes, values: npt.NDArray[Any], shape: tuple[int, int], **style: Any) -> None:
    """Show values that cover (height, width) pixels of the image, from its upper left corner."""
    axes.imshow(values, extent=(0, shape[1], shape[0], 0), **style)
    bare(axes)


def _show_map(axes: Axes, values: npt.NDArray[Any], row: Example) -> None:
    shape = values.shape[0] * row.patch[1], values.shape[1] * row.patch[0]
    if _is_count(values):
        style: dict[str, Any] = {"cmap": "magma_r", "vmin": 0}
    elif row.own_boxes:
        style = {"cmap": "viridis", "vmin": 0, "vmax": max(float(np.quantile(values, 0.99)), 1e-12)}
    else:
        largest = max(float(np.quantile(np.abs(values), 0.99)), 1e-12)
        style = {"cmap": "PuOr_r", "vmin": -largest, "vmax": largest}
    _show_in_pixels(axes, values, shape, interpolation="nearest", **style)


def _outline(axes: Axes, box: npt.NDArray[np.floating], colour: str, line: float) -> None:
    """Draw a box in pixels with a dark edge, so that it is visible on any background."""
    from matplotlib.patches import Rectangle

    for edge, wide in ((INK, line + 1.2), (colour, line)):
        corner = float(box[0]), float(box[1])
        axes.add_patch(Rectangle(corner, *(box[2:] - box[:2]).tolist(), fill=False, edgecolor=edge, linewidth=wide))
