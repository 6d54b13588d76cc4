"""Pictures from arrays: no data loading and no files; each function returns a matplotlib Figure."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from regvit_lightning.data.scenes import CLASSES, FAR, SEMANTIC_IDS, Rendering

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, PAPER = "#1f2430", "#ffffff"


def semantic_palette() -> npt.NDArray[np.uint8]:
    """A colour for each semantic id, (256, 3); 0, the unlabelled, is white.

    Grounds and walls are pale, objects are strong, in hues that run once around the wheel for each; ids that the
    rendered scenes do not use are grey.
    """
    palette = np.full((256, 3), 160, np.uint8)
    palette[0] = 255
    surfaces = len(SEMANTIC_IDS) - len(CLASSES)
    for rank, number in enumerate(SEMANTIC_IDS.values()):
        if rank < surfaces:
            colour = colorsys.hsv_to_rgb(rank * 5 / surfaces % 1, 0.22, (0.93, 0.72)[rank % 2])
        else:
            colour = colorsys.hsv_to_rgb(rank / len(CLASSES) % 1, 0.85, (0.95, 0.58)[rank % 2])
        palette[number] = np.round(255 * np.array(colour))
    return palette


def contact_sheet(renderings: Sequence[Rendering]) -> Figure:
    """One row for each rendering, with the caption above: image, semantic map (white is unlabelled), depth, boxes."""
    from matplotlib.figure import Figure

    rows = max(len(renderings), 1)
    height = 2.55 * rows + 0.3
    figure = Figure(figsize=(13.2, height), facecolor=PAPER)
    bands = figure.add_gridspec(rows, 1, left=0.012, right=0.988, top=1 - 0.62 / height, bottom=0.01, hspace=0.16)
    for row, rendering in enumerate(renderings):
        columns = bands[row].subgridspec(1, 6, width_ratios=[1, 1, 0.46, 1, 0.24, 1], wspace=0.04)
        image, semantic, names, depth, scale, boxes = (figure.add_subplot(columns[i]) for i in range(6))
        _show(image, rendering.image)
        image.set_title(rendering.caption, loc="left", fontsize=9.5, color=INK, pad=5)
        _show(semantic, semantic_palette()[rendering.semantic])
        _semantic_legend(names, rendering.semantic)
        _depth_map(depth, scale, rendering.depth)
        _show(boxes, rendering.image)
        _draw_boxes(boxes, rendering)
        if row == 0:
            titles = {image: "image", semantic: "semantic map (white: unlabelled)", depth: "depth in metres"}
            for axes, title in {**titles, boxes: "boxes"}.items():
                place = axes.get_position()
                where = place.x0, 1 - 0.24 / height
                figure.text(*where, title, fontsize=10.5, weight="bold", color=INK)
    return figure


def _show(axes: Axes, image: npt.NDArray[np.uint8]) -> None:
    axes.imshow(image, interpolation="nearest")
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _semantic_legend(axes: Axes, semantic: npt.NDArray[np.uint8]) -> None:
    """The names that are present, those with most pixels first."""
    from matplotlib.patches import Patch

    name_of = {number: name for name, number in SEMANTIC_IDS.items()} | {0: "unlabelled"}
    numbers, counts = np.unique(semantic, return_counts=True)
    present = numbers[np.argsort(-counts, kind="stable")]
    palette = semantic_palette() / 255
    patches = [
        Patch(facecolor=palette[n], edgecolor=INK, linewidth=0.4, label=name_of.get(int(n), f"class {n}"))
        for n in present
    ]
    style = {"fontsize": 7.5, "frameon": False, "labelcolor": INK, "handlelength": 1.1, "handleheight": 1.1}
    axes.legend(handles=patches, loc="center left", bbox_to_anchor=(-0.06, 0.5), borderaxespad=0, **style)
    axes.axis("off")


def _depth_map(axes: Axes, scale: Axes, depth: npt.NDArray[np.floating]) -> None:
    """Near is bright; the same range in every row, so that rows can be compared."""
    picture = axes.imshow(depth, cmap="magma_r", vmin=0, vmax=FAR, interpolation="nearest")
    _bare(axes)
    scale.axis("off")
    bar_axes = scale.inset_axes((0.0, 0.06, 0.13, 0.88))
    bar = axes.figure.colorbar(picture, cax=bar_axes, ticks=[0, 2, 4, 6, 8, 10])
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, length=2, color=INK, labelcolor=INK, pad=2)
    bar.ax.set_title("m", fontsize=7.5, color=INK, pad=3)


def _draw_boxes(axes: Axes, rendering: Rendering) -> None:
    """Each box with the name of its class; the main class has a thicker line."""
    from matplotlib.patches import Rectangle

    palette = semantic_palette() / 255
    height, width = rendering.semantic.shape
    rows = list(zip(rendering.boxes.tolist(), rendering.labels.tolist(), strict=True))
    for (x1, y1, x2, y2), label in reversed(rows):
        colour = palette[SEMANTIC_IDS[CLASSES[label]]]
        line = 2.4 if label == rendering.main_label else 1.4
        # Pixel centres lie on whole numbers in matplotlib, half a pixel off the corner convention of the boxes.
        for edge, wide in ((PAPER, line + 1.4), (colour, line)):
            corner = (x1 - 0.5, y1 - 0.5)
            axes.add_patch(Rectangle(corner, x2 - x1, y2 - y1, fill=False, edgecolor=edge, linewidth=wide))
        on_left = x1 < 0.6 * width
        bright = float(np.dot(colour, (0.3, 0.59, 0.11))) > 0.55
        axes.text(
            x1 - 0.5 if on_left else x2 - 0.5,
            max(y1 - 0.5, 0.07 * height),
            CLASSES[label],
            fontsize=6.5,
            color=INK if bright else PAPER,
            horizontalalignment="left" if on_left else "right",
            verticalalignment="bottom",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.0},
        )
