"""Figures drawn from arrays: no data loading and no files; each function returns a matplotlib Figure."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from regvit_lightning.data.layout import IGNORED
from regvit_lightning.data.mini.scenes import CLASSES, FAR, SEMANTIC_IDS, Rendering

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec
    from matplotlib.image import AxesImage

INK, PAPER = "#1f2430", "#ffffff"
UNMEASURED = "#d5d8de"  # paler than all depths but the nearest, which is yellow
TRUE, FOUND = "#ffffff", "#e8302a"  # boxes

LONGEST = 320  # pixels: maximum size of a picture in a row of examples, which keeps the files small
PANEL, GAP = 2.2, 0.08  # inches: the widest panel in a row of examples, and the gap between panels
ABOVE, TITLE = 0.34, 0.24  # inches from the upper edge: the first row of examples, the titles of the columns
LEGEND_LINES = 11
LEGEND_LINE = 0.164  # inches, at the legend's font size
NAME_LENGTH = 26  # characters: longer names are truncated, so that a legend stays in its column


def palette(classes: int) -> npt.NDArray[np.uint8]:
    """Default colours (classes, 3) for class indices 0..classes-1; none is near white.

    The hue advances by the golden angle, lightness and saturation by fixed steps of their own, so more classes change
    no colour. The two steps are from a random search for a large minimum distance in CIELAB among the first 8, 21, 60,
    150 and 255 colours, and among those of the rendered scenes: it is 18 among the first 21, and 4 among all 255 that
    a uint8 label map can hold.
    """
    number = np.arange(classes)
    hue = number * (math.sqrt(5) - 1) / 2 % 1
    lightness, saturation = 0.3 + 0.45 * (number * 0.193 % 1), 0.4 + 0.6 * (number * 0.456 % 1)
    rows = [colorsys.hls_to_rgb(*row) for row in zip(hue, lightness, saturation, strict=True)]
    return np.round(255 * np.array(rows).reshape(-1, 3)).astype(np.uint8)


def semantic_palette() -> npt.NDArray[np.uint8]:
    """Colours (256, 3) of the semantic ids; 0, unlabelled, is white.

    Grounds and walls are pale, objects are saturated, each with hues once around the wheel; ids that the
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
        _show(image, rendering.image)
        image.set_title(rendering.caption, loc="left", fontsize=9.5, color=INK, pad=5)
        _show(semantic, semantic_palette()[rendering.semantic])
        _legend(names, rendering.semantic, names_of_ids, semantic_palette())
        scale.axis("off")
        bar = scale.inset_axes((0.0, 0.06, 0.13, 0.88))
        _depth_bar(bar, _depth_map(depth, rendering.depth, FAR), [0, 2, 4, 6, 8, 10], "m", 3)
        _show(boxes, rendering.image)
        _draw_boxes(boxes, rendering)
        if row == 0:
            titles = {image: "image", semantic: "semantic map (white: unlabelled)", depth: "depth in metres"}
            for axes, title in {**titles, boxes: "boxes"}.items():
                _column_title(figure, axes, title)
    return figure


def segmentation_examples(
    images: Sequence[npt.NDArray[np.uint8]],
    truths: Sequence[npt.NDArray[np.uint8]],
    predictions: Sequence[npt.NDArray[np.uint8]],
    names: Sequence[str],
    palette: npt.NDArray[np.uint8],
) -> Figure:
    """One row per image: image, ground truth, prediction, and the names of the classes in the last two.

    Names are ordered by their number of pixels in both maps together; those that do not fit are counted.

    Args:
        images: (H, W, 3) each, of any sizes.
        truths: (H, W) each, class indices 0..classes-1, and 255 for unlabelled pixels, which are shown white.
        predictions: (H, W) each, class indices; shown for all pixels, including unlabelled ones.
        names: one name per class.
        palette: (classes, 3), colours of the classes.

    Raises:
        ValueError: counts or sizes do not match, or a map has an invalid class index.
    """
    _check_rows(images, truths, predictions)
    _check_classes([*truths, *predictions], len(names), palette)
    colours = np.full((256, 3), 255, np.uint8)
    colours[: len(names)] = palette
    figure, grid = _examples(images, 1.8)
    for row, (image, truth, prediction) in enumerate(zip(images, truths, predictions, strict=True)):
        panels = _panels(figure, grid, row)
        _show(panels[0], _shrunk_image(image), interpolation="antialiased")
        _show(panels[1], colours[_shrunk(truth)])
        _show(panels[2], colours[_shrunk(prediction)])
        for axes in panels[1:]:  # the line shows the extent of a map whose edge is white
            axes.spines[:].set(visible=True, linewidth=0.4, edgecolor=INK)
        labels = np.concatenate([truth.ravel(), prediction.ravel()])
        lines = min(LEGEND_LINES, int(_panel_height(image) / LEGEND_LINE))
        legend = figure.add_subplot(grid[row, 3])
        _legend(legend, labels[labels != IGNORED], dict(enumerate(names)), colours, lines, left=0.0)
        if row == 0:
            ignored = any((truth == IGNORED).any() for truth in truths)
            _example_titles(figure, panels, "white: unlabelled" if ignored else "")
    return figure


def depth_examples(
    images: Sequence[npt.NDArray[np.uint8]],
    truths: Sequence[npt.NDArray[np.floating]],
    predictions: Sequence[npt.NDArray[np.floating]],
    max_depth: float,
) -> Figure:
    """One row per image: image, ground truth, prediction; all depths on one scale, near is bright.

    The scale ends at the largest true depth in whole metres, rounded up, and at `max_depth` at most; larger depths
    are clipped to its end.

    Args:
        images: (H, W, 3) each, of any sizes.
        truths: (H, W) each, metres; 0 or NaN is a pixel without a measurement, which is shown grey.
        predictions: (H, W) each, metres.
        max_depth: metres, above 0.

    Raises:
        ValueError: counts or sizes do not match.
    """
    _check_rows(images, truths, predictions)
    measured = [np.ma.masked_where(~(truth > 0), truth) for truth in truths]
    largest = max((float(truth.max()) for truth in measured if truth.count()), default=math.inf)
    farthest = min(max_depth, math.ceil(largest)) if math.isfinite(largest) else max_depth
    figure, grid = _examples(images, 0.45)
    for row, (image, truth, prediction) in enumerate(zip(images, measured, predictions, strict=True)):
        panels = _panels(figure, grid, row)
        _show(panels[0], _shrunk_image(image), interpolation="antialiased")
        _depth_map(panels[1], _shrunk(truth), farthest)
        picture = _depth_map(panels[2], _shrunk(prediction), farthest)
        if row == 0:
            _example_titles(figure, panels, "grey: unmeasured" if any(truth.mask.any() for truth in measured) else "")
    side = figure.add_subplot(grid[:, 3])
    side.axis("off")
    bar = side.inset_axes((0.12, 0.0, 0.28, 1.0))
    _depth_bar(bar, picture, _ticks(farthest), f"0–{farthest:g} m", 72 * (ABOVE - TITLE))
    return figure


@dataclass(frozen=True, eq=False)
class Discovered:
    """An image with the predicted box and the intermediate maps that led to it.

    Attributes:
        image: (H, W, 3), of any size.
        truths: (M, 4) true boxes x1, y1, x2, y2 in pixels of the image, like the fields below.
        box: (4,), predicted box.
        seed: x and y of the seed patch.
        maps: (h, w) each, by title; the same titles in every row. Integers are shown from bright (0) to dark,
            other values in a diverging colour map around 0, with the largest 1 % clipped.
        patch: width and height of one cell of the maps, which may extend over the right and lower edge of the image.
    """

    image: npt.NDArray[np.uint8]
    truths: npt.NDArray[np.floating]
    box: npt.NDArray[np.floating]
    seed: tuple[float, float]
    maps: Mapping[str, npt.NDArray[Any]]
    patch: tuple[float, float]


def discovery_examples(rows: Sequence[Discovered]) -> Figure:
    """One row per image: image with the true boxes and the predicted one, then the maps with box and seed.

    Raises:
        ValueError: no rows, or rows with maps of different titles.
    """
    titles = list(rows[0].maps) if rows else []
    if not titles or any(list(row.maps) != titles for row in rows):
        raise ValueError(f"{len(rows)} rows of maps {titles}: expected at least one, and the same titles in all")
    figure, grid = _rows([row.image for row in rows], [PANEL] * (1 + len(titles)))
    for number, row in enumerate(rows):
        panels = [figure.add_subplot(grid[number, column], anchor="W") for column in range(1 + len(titles))]
        _show_in_pixels(panels[0], _shrunk_image(row.image), row.image.shape[:2], interpolation="antialiased")
        for truth in row.truths:
            _outline(panels[0], truth, TRUE, 1.2)
        for axes, values in zip(panels[1:], row.maps.values(), strict=True):
            _show_map(axes, values, row)
        for axes in panels:
            _outline(axes, row.box, FOUND, 1.6)
            axes.plot(*row.seed, marker="o", markersize=4, color=FOUND, markeredgecolor=PAPER, markeredgewidth=0.8)
            axes.set(xlim=(0, row.image.shape[1]), ylim=(row.image.shape[0], 0))  # maps extend over the edge
        if number == 0:
            _column_title(figure, panels[0], "image", "white: objects, red: prediction")
            for axes, (title, values) in zip(panels[1:], row.maps.items(), strict=True):
                _column_title(figure, axes, title, "bright: low" if _is_count(values) else "orange: above 0")
    return figure


def _is_count(values: npt.NDArray[Any]) -> bool:
    return bool(np.issubdtype(values.dtype, np.integer))


def _show_in_pixels(axes: Axes, values: npt.NDArray[Any], shape: tuple[int, int], **style: Any) -> None:
    """Show values that cover (height, width) pixels of the image, from its upper left corner."""
    axes.imshow(values, extent=(0, shape[1], shape[0], 0), **style)
    _bare(axes)


def _show_map(axes: Axes, values: npt.NDArray[Any], row: Discovered) -> None:
    shape = values.shape[0] * row.patch[1], values.shape[1] * row.patch[0]
    if _is_count(values):
        style: dict[str, Any] = {"cmap": "magma_r", "vmin": 0}
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


def _check_rows(
    images: Sequence[npt.NDArray[np.uint8]],
    truths: Sequence[npt.NDArray[Any]],
    predictions: Sequence[npt.NDArray[Any]],
) -> None:
    if not 0 < len(images) == len(truths) == len(predictions):
        raise ValueError(f"{len(images)} images, {len(truths)} truths and {len(predictions)} predictions")
    for row, three in enumerate(zip(images, truths, predictions, strict=True)):
        shapes = [array.shape for array in three]
        if not shapes[0] == (*shapes[1], 3) == (*shapes[2], 3):
            raise ValueError(f"row {row}: image, truth and prediction are {', '.join(map(str, shapes))}")


def _check_classes(maps: Sequence[npt.NDArray[np.uint8]], classes: int, palette: npt.NDArray[np.uint8]) -> None:
    if palette.shape != (classes, 3):
        raise ValueError(f"{classes} names and a palette of shape {palette.shape}")
    for labels in maps:
        largest = labels[labels != IGNORED].max(initial=0)
        if largest >= classes:
            raise ValueError(f"class number {largest} among {classes} classes")


# ------------------------------------------------------------------------------------------- rows of three panels


def _examples(images: Sequence[npt.NDArray[np.uint8]], side: float) -> tuple[Figure, GridSpec]:
    """Figure with rows of three panels and a column that is `side` inches wide."""
    return _rows(images, [PANEL, PANEL, PANEL, side])


def _rows(images: Sequence[npt.NDArray[np.uint8]], widths: Sequence[float]) -> tuple[Figure, GridSpec]:
    """Figure with columns of these widths in inches and rows as high as their images in a panel."""
    from matplotlib.figure import Figure

    heights = [_panel_height(image) for image in images]
    margin = 0.12
    width = sum(widths) + (len(widths) - 1) * GAP + 2 * margin
    height = sum(heights) + (len(heights) - 1) * GAP + ABOVE + margin
    figure = Figure(figsize=(width, height), dpi=100, facecolor=PAPER)
    grid = figure.add_gridspec(
        len(heights),
        len(widths),
        left=margin / width,
        right=1 - margin / width,
        top=1 - ABOVE / height,
        bottom=margin / height,
        wspace=GAP / float(np.mean(widths)),
        hspace=GAP / float(np.mean(heights)),
        width_ratios=widths,
        height_ratios=heights,
    )
    return figure, grid


def _panel_height(image: npt.NDArray[np.uint8]) -> float:
    """Height in inches: a portrait image is as high as a panel is wide; a very wide one leaves room for its legend."""
    height, width = image.shape[:2]
    return PANEL * min(max(height / width, 0.3), 1.0)


def _panels(figure: Figure, grid: GridSpec, row: int) -> list[Axes]:
    """Axes of image, ground truth and prediction; a picture that does not fill its panel is left-aligned."""
    return [figure.add_subplot(grid[row, column], anchor="W") for column in range(3)]


def _example_titles(figure: Figure, panels: Sequence[Axes], on_truth: str) -> None:
    for axes, title, note in zip(panels, ("image", "ground truth", "prediction"), ("", on_truth, ""), strict=True):
        _column_title(figure, axes, title, note)


def _column_title(figure: Figure, axes: Axes, title: str, note: str = "") -> None:
    """Write a column title at the upper edge of the figure, followed by the note in small print."""
    where = axes.get_position().x0, 1 - TITLE / figure.get_figheight()
    text = figure.text(*where, title, fontsize=10.5, weight="bold", color=INK)
    if note:
        style: dict[str, Any] = {
            "textcoords": "offset points",
            "verticalalignment": "baseline",
            "fontsize": 7.5,
            "color": INK,
        }
        axes.annotate(note, (1, where[1]), (6, 0), xycoords=(text, "figure fraction"), annotation_clip=False, **style)


def _stride(height: int, width: int) -> float:
    return max(height / LONGEST, width / LONGEST, 1.0)


def _shrunk_image(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Shrink an image (H, W, 3) to at most LONGEST pixels on the longer side by averaging."""
    height, width = image.shape[:2]
    stride = _stride(height, width)
    if stride == 1:
        return image
    size = max(round(width / stride), 1), max(round(height / stride), 1)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _shrunk(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Shrink a map (H, W) to at most LONGEST pixels on the longer side by subsampling: labels do not mix."""
    stride = _stride(*values.shape)
    rows, columns = (
        np.minimum((np.arange(max(round(side / stride), 1)) + 0.5) * stride, side - 1).astype(int)
        for side in values.shape
    )
    return values[np.ix_(rows, columns)]


# ------------------------------------------------------------------------------------------------------- one panel


def _show(axes: Axes, image: npt.NDArray[np.uint8], interpolation: str = "nearest") -> None:
    axes.imshow(image, interpolation=interpolation)
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _legend(
    axes: Axes,
    labels: npt.NDArray[np.uint8],
    names: Mapping[int, str],
    colours: npt.NDArray[np.uint8],
    lines: int = 256,
    left: float = -0.06,
) -> None:
    """Legend of the names present, by decreasing number of pixels; the last line counts those that do not fit.

    Args:
        labels: labels of any shape, keys of `names`.
        names: names by label.
        colours: (256, 3), by label.
        lines: maximum number of lines, at least 1.
        left: left edge, in widths of the axes.
    """
    from matplotlib.patches import Patch

    numbers, counts = np.unique(labels, return_counts=True)
    present = numbers[np.argsort(-counts, kind="stable")].tolist()
    shown = present if len(present) <= lines else present[: lines - 1]
    patches = [Patch(facecolor=colours[n] / 255, edgecolor=INK, linewidth=0.4, label=_cut(names[n])) for n in shown]
    if len(shown) < len(present):
        patches.append(Patch(facecolor="none", edgecolor="none", label=f"and {len(present) - len(shown)} more"))
    style = {"fontsize": 7.5, "frameon": False, "labelcolor": INK, "handlelength": 1.1, "handleheight": 1.1}
    axes.legend(handles=patches, loc="center left", bbox_to_anchor=(left, 0.5), borderaxespad=0, **style)
    axes.axis("off")


def _cut(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1].rstrip() + "…"


def _depth_map(axes: Axes, depth: npt.NDArray[np.floating], farthest: float) -> AxesImage:
    """Show a depth map: near is bright, masked pixels are grey, and all rows share one range."""
    import matplotlib

    colours = matplotlib.colormaps["magma_r"].with_extremes(bad=UNMEASURED)
    picture = axes.imshow(depth, cmap=colours, vmin=0, vmax=farthest, interpolation="nearest")
    _bare(axes)
    return picture


def _depth_bar(axes: Axes, picture: AxesImage, ticks: Sequence[float], title: str, pad: float) -> None:
    """Draw a colour bar for depth with the title `pad` points above it."""
    bar = axes.figure.colorbar(picture, cax=axes, ticks=ticks)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, length=2, color=INK, labelcolor=INK, pad=2)
    bar.ax.set_title(title, fontsize=7.5, color=INK, pad=pad)


def _ticks(farthest: float) -> list[float]:
    """Round tick values from 0, and the end of the scale instead of a tick that would overlap it."""
    from matplotlib.ticker import MaxNLocator

    inner = MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(0, farthest)
    return [*(float(tick) for tick in inner if tick < 0.95 * farthest), farthest]


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
            fontsize=6.5,
            color=INK if bright else PAPER,
            horizontalalignment="left" if on_left else "right",
            verticalalignment="bottom",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.0},
        )
