"""Examples of segmentation and depth, a row for each image, and what rows of panels have in common.

Drawn from arrays: no data loading and no files; each function returns a matplotlib Figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from regvit_lightning.data.image_sets import IGNORED
from regvit_lightning.figures.style import INK, PAPER, SMALL, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec
    from matplotlib.image import AxesImage

UNMEASURED = "#d5d8de"  # paler than all depths but the nearest, which is yellow

LONGEST = 320  # pixels: maximum size of a picture in a row of examples, which keeps the files small
PANEL, GAP = 2.2, 0.08  # inches: the widest panel in a row of examples, and the gap between panels
ABOVE, TITLE = 0.34, 0.24  # inches from the upper edge: the first row of examples, the titles of the columns
LEGEND_LINES = 12  # names in a column of a legend at most
LEGEND_LINE, LEGEND_WIDTH = 0.178, 1.85  # inches, at the legend's font size
NAME_LENGTH = 26  # characters: longer names are truncated, so that a legend stays in its column


def segmentation_examples(
    images: Sequence[npt.NDArray[np.uint8]],
    truths: Sequence[npt.NDArray[np.uint8]],
    predictions: Sequence[npt.NDArray[np.uint8]],
    names: Sequence[str],
    palette: npt.NDArray[np.uint8],
    scores: Sequence[str] = (),
) -> Figure:
    """One row per image: image, ground truth, prediction, and the names of all classes in the last two.

    Names are ordered by their number of pixels in both maps together.

    Args:
        images: (H, W, 3) each, of any sizes.
        truths: (H, W) each, class indices 0..classes-1, and 255 for unlabelled pixels, which are shown white.
        predictions: (H, W) each, class indices; shown for all pixels, including unlabelled ones.
        names: one name per class.
        palette: (classes, 3), colours of the classes.
        scores: text on each image, such as its score.

    Raises:
        ValueError: counts or sizes do not match, or a map has an invalid class index.
    """
    _check_rows(images, truths, predictions)
    _check_classes([*truths, *predictions], len(names), palette)
    colours = np.full((256, 3), 255, np.uint8)
    colours[: len(names)] = palette
    present = [present_labels(truth, prediction) for truth, prediction in zip(truths, predictions, strict=True)]
    least = [min(len(labels), LEGEND_LINES) * LEGEND_LINE for labels in present]
    lines = [int(max(_panel_height(image), low) / LEGEND_LINE + 1e-6) for image, low in zip(images, least, strict=True)]
    columns = max(math.ceil(len(labels) / most) for labels, most in zip(present, lines, strict=True))
    figure, grid = rows_of_panels(images, [PANEL, PANEL, PANEL, LEGEND_WIDTH * columns], least)
    for row, (image, truth, prediction) in enumerate(zip(images, truths, predictions, strict=True)):
        panels = _panels(figure, grid, row)
        show(panels[0], shrunk_image(image), interpolation="antialiased")
        show(panels[1], colours[shrunk(truth)])
        show(panels[2], colours[shrunk(prediction)])
        for axes in panels[1:]:  # the line shows the extent of a map whose edge is white
            axes.spines[:].set(visible=True, linewidth=0.4, edgecolor=INK)
        legend(figure.add_subplot(grid[row, 3]), present[row], dict(enumerate(names)), colours, lines[row], left=0.0)
        write_score(panels[0], scores[row] if scores else "")
        if row == 0:
            ignored = any((truth == IGNORED).any() for truth in truths)
            _example_titles(figure, panels, "white: unlabelled" if ignored else "")
    return figure


def depth_examples(
    images: Sequence[npt.NDArray[np.uint8]],
    truths: Sequence[npt.NDArray[np.floating]],
    predictions: Sequence[npt.NDArray[np.floating]],
    max_depth: float,
    scores: Sequence[str] = (),
) -> Figure:
    """One row per image: image, ground truth, prediction; all depths on one scale, near is bright.

    The scale ends at the largest true depth in whole metres, rounded up, and at `max_depth` at most; larger depths
    are clipped to its end.

    Args:
        images: (H, W, 3) each, of any sizes.
        truths: (H, W) each, metres; 0 or NaN is a pixel without a measurement, which is shown grey.
        predictions: (H, W) each, metres.
        max_depth: metres, above 0.
        scores: text on each image, such as its score.

    Raises:
        ValueError: counts or sizes do not match.
    """
    _check_rows(images, truths, predictions)
    measured = [np.ma.masked_where(~(truth > 0), truth) for truth in truths]
    largest = max((float(truth.max()) for truth in measured if truth.count()), default=math.inf)
    farthest = min(max_depth, math.ceil(largest)) if math.isfinite(largest) else max_depth
    figure, grid = rows_of_panels(images, [PANEL, PANEL, PANEL, 0.5])
    for row, (image, truth, prediction) in enumerate(zip(images, measured, predictions, strict=True)):
        panels = _panels(figure, grid, row)
        show(panels[0], shrunk_image(image), interpolation="antialiased")
        depth_map(panels[1], shrunk(truth), farthest)
        picture = depth_map(panels[2], shrunk(prediction), farthest)
        write_score(panels[0], scores[row] if scores else "")
        if row == 0:
            _example_titles(figure, panels, "grey: unmeasured" if any(truth.mask.any() for truth in measured) else "")
    side = figure.add_subplot(grid[:, 3])
    side.axis("off")
    bar = side.inset_axes((0.12, 0.0, 0.28, 1.0))
    depth_bar(bar, picture, _ticks(farthest), f"0–{farthest:g} m", 72 * (ABOVE - TITLE))
    return figure


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


def rows_of_panels(
    images: Sequence[npt.NDArray[np.uint8]],
    widths: Sequence[float],
    least: Sequence[float] = (),
    above: float = ABOVE,
) -> tuple[Figure, GridSpec]:
    """Figure with columns of these widths and rows as high as their images in a panel or as `least`, in inches.

    Args:
        above: inches above the first row.
    """
    from matplotlib.figure import Figure

    heights = [_panel_height(image) for image in images]
    if least:
        heights = [max(pair) for pair in zip(heights, least, strict=True)]
    margin = 0.12
    width = sum(widths) + (len(widths) - 1) * GAP + 2 * margin
    height = sum(heights) + (len(heights) - 1) * GAP + above + margin
    figure = Figure(figsize=(width, height), dpi=100, facecolor=PAPER)
    grid = figure.add_gridspec(
        len(heights),
        len(widths),
        left=margin / width,
        right=1 - margin / width,
        top=1 - above / height,
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
        column_title(figure, axes, title, note)


def column_title(figure: Figure, axes: Axes, title: str, note: str = "") -> None:
    """Write a column title at the upper edge of the figure, followed by the note in small print."""
    where = axes.get_position().x0, 1 - TITLE / figure.get_figheight()
    text = figure.text(*where, title, fontsize=10.5, weight="bold", color=INK)
    if note:
        style: dict[str, Any] = {
            "textcoords": "offset points",
            "verticalalignment": "baseline",
            "fontsize": SMALL,
            "color": INK,
        }
        axes.annotate(note, (1, where[1]), (6, 0), xycoords=(text, "figure fraction"), annotation_clip=False, **style)


def _stride(height: int, width: int) -> float:
    return max(height / LONGEST, width / LONGEST, 1.0)


def shrunk_image(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Shrink an image (H, W, 3) to at most LONGEST pixels on the longer side by averaging."""
    height, width = image.shape[:2]
    stride = _stride(height, width)
    if stride == 1:
        return image
    size = max(round(width / stride), 1), max(round(height / stride), 1)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def shrunk(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Shrink a map (H, W) to at most LONGEST pixels on the longer side by subsampling: labels do not mix."""
    stride = _stride(*values.shape)
    rows, columns = (
        np.minimum((np.arange(max(round(side / stride), 1)) + 0.5) * stride, side - 1).astype(int)
        for side in values.shape
    )
    return values[np.ix_(rows, columns)]


# ------------------------------------------------------------------------------------------------------- one panel


def show(axes: Axes, image: npt.NDArray[np.uint8], interpolation: str = "nearest") -> None:
    axes.imshow(image, interpolation=interpolation)
    bare(axes)


def legend(
    axes: Axes,
    labels: npt.NDArray[np.uint8],
    names: Mapping[int, str],
    colours: npt.NDArray[np.uint8],
    lines: int = 256,
    left: float = -0.06,
) -> None:
    """Legend of all names present, in their order, in columns of at most `lines` names.

    Args:
        labels: labels present, each once, keys of `names`.
        names: names by label.
        colours: (256, 3), by label.
        lines: maximum number of names in a column, at least 1.
        left: left edge, in widths of the axes.
    """
    from matplotlib.patches import Patch

    shown = labels.tolist()
    patches = [Patch(facecolor=colours[n] / 255, edgecolor=INK, linewidth=0.4, label=_cut(names[n])) for n in shown]
    style: dict[str, Any] = {"fontsize": SMALL, "frameon": False, "labelcolor": INK, "handlelength": 1.1}
    style |= {"handleheight": 1.1, "ncols": max(1, math.ceil(len(shown) / lines)), "columnspacing": 0.8}
    axes.legend(handles=patches, loc="center left", bbox_to_anchor=(left, 0.5), borderaxespad=0, **style)
    axes.axis("off")


def present_labels(*maps: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Labels of the maps, each once, by decreasing number of pixels, without those of unlabelled pixels."""
    labels, counts = np.unique(np.concatenate([labels.ravel() for labels in maps]), return_counts=True)
    ordered: npt.NDArray[np.uint8] = labels[np.argsort(-counts, kind="stable")]
    return ordered[ordered != IGNORED]


def write_score(axes: Axes, text: str) -> None:
    """Write a text, such as the score of an image, into the upper left corner of its picture."""
    if text:
        box = {"facecolor": "black", "alpha": 0.65, "edgecolor": "none", "pad": 1.5}
        where: dict[str, Any] = {"transform": axes.transAxes, "ha": "left", "va": "top"}
        axes.text(0.02, 0.98, text, fontsize=SMALL, color=PAPER, bbox=box, **where)


def _cut(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1].rstrip() + "…"


def depth_map(axes: Axes, depth: npt.NDArray[np.floating], farthest: float) -> AxesImage:
    """Show a depth map: near is bright, masked pixels are grey, and all rows share one range."""
    import matplotlib

    colours = matplotlib.colormaps["magma_r"].with_extremes(bad=UNMEASURED)
    picture = axes.imshow(depth, cmap=colours, vmin=0, vmax=farthest, interpolation="nearest")
    bare(axes)
    return picture


def depth_bar(axes: Axes, picture: AxesImage, ticks: Sequence[float], title: str, pad: float) -> None:
    """Draw a colour bar for depth with the title `pad` points above it."""
    bar = axes.figure.colorbar(picture, cax=axes, ticks=ticks)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=SMALL, length=2, color=INK, labelcolor=INK, pad=2)
    bar.ax.set_title(title, fontsize=SMALL, color=INK, pad=pad)


def _ticks(farthest: float) -> list[float]:
    """Round tick values from 0, and the end of the scale instead of a tick that would overlap it."""
    from matplotlib.ticker import MaxNLocator

    inner = MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(0, farthest)
    return [*(float(tick) for tick in inner if tick < 0.95 * farthest), farthest]


def same_titles(rows: Sequence[Sequence[str]], what: str) -> list[str]:
    """Titles of the panels of every row, of which each row gives its own.

    Raises:
        ValueError: no rows or titles, or rows of `what` with different titles.
    """
    titles = list(rows[0]) if rows else []
    if not titles or any(list(row) != titles for row in rows):
        raise ValueError(f"{len(rows)} rows of {what} {titles}: expected at least one, and the same titles in all")
    return titles
