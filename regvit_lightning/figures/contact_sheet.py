"""Contact sheet of rendered scenes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from regvit_lightning.data.mini.scenes import CLASSES, FAR, SEMANTIC_IDS, Rendering
from regvit_lightning.figures.grids import column_title, depth_bar, depth_map, legend, present_labels, show
from regvit_lightning.figures.palettes import semantic_palette
from regvit_lightning.figures.style import INK, PAPER, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def contact_sheet(renderings: Sequence[Rendering]) -> Figure:
    """One row per rendering, below its caption: image, semantic map (white is unlabelled), depth, boxes."""
    from matplotlib.figure import Figure

    names_of_ids = {number: name for name, number in SEMANTIC_IDS.items()} | {0: "unlabelled"}
    rows = max(len(renderings), 1)
    height = 2.55 * rows + 0.3
    figure = Figure(figsize=(13.2, height), facecolor=PAPER)
    bands = figure.add_gridspec(rows, 1, left=0.012, right=0.988, top=1 - 0.62 / height, bottom=0.01, hspace=0.16)
    for row, rendering in enumerate(renderings):
        columns = bands[row].subgridspec(1, 6, width_ratios=[1, 1, 0.46, 1, 0.24, 1], wspace=0.04)
        image, semantic, names, depth, scale, boxes = (figure.add_subplot(columns[i]) for i in range(6))
        show(image, rendering.image)
        image.set_title(rendering.caption, loc="left", fontsize=9.5, color=INK, pad=5)
        show(semantic, semantic_palette()[rendering.semantic])
        legend(names, present_labels(rendering.semantic), names_of_ids, semantic_palette())
        scale.axis("off")
        bar = scale.inset_axes((0.0, 0.06, 0.13, 0.88))
        depth_bar(bar, depth_map(depth, rendering.depth, FAR), [0, 2, 4, 6, 8, 10], "m", 3)
        show(boxes, rendering.image)
        _draw_boxes(boxes, rendering)
        if row == 0:
            titles = {image: "image", semantic: "semantic map (white: unlabelled)", depth: "depth in metres"}
            for axes, title in {**titles, boxes: "boxes"}.items():
                column_title(figure, axes, title)
    return figure


def _draw_boxes(axes: Axes, rendering: Rendering) -> None:
    """Draw each box with the name of its class; the main class has a thicker line."""
    from matplotlib.patches import Rectangle

    palette = semantic_palette() / 255
    height, width = rendering.semantic.shape
    rows = list(zip(rendering.boxes.tolist(), rendering.labels.tolist(), strict=True))
    for (x1, y1, x2, y2), label in reversed(rows):
        colour = palette[SEMANTIC_IDS[CLASSES[label]]]
        line = 2.4 if label == rendering.main_label else 1.4
        # Pixel centres have integer coordinates in matplotlib, half a pixel off the corner convention of the boxes.
        for edge, wide in ((PAPER, line + 1.4), (colour, line)):
            corner = (x1 - 0.5, y1 - 0.5)
            axes.add_patch(Rectangle(corner, x2 - x1, y2 - y1, fill=False, edgecolor=edge, linewidth=wide))
        on_left = x1 < 0.6 * width
        bright = float(np.dot(colour, (0.3, 0.59, 0.11))) > 0.55
        axes.text(
            x1 - 0.5 if on_left else x2 - 0.5,
            max(y1 - 0.5, 0.07 * height),
            CLASSES[label],
            fontsize=SMALL,
            color=INK if bright else PAPER,
            horizontalalignment="left" if on_left else "right",
            verticalalignment="bottom",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.0},
        )
