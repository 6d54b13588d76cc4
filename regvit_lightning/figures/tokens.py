"""Maps of attention, norms and principal components, drawn from arrays into a Figure or a SubFigure.

A map has one cell per patch. `size` gives the intended size of each kind of figure in inches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from regvit_lightning.figures.style import INK, SMALL, TITLE, bare, size_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

Maps = npt.NDArray[np.floating]  # (N, h, w)

CELL = 1.3  # inches: the widest panel
WIDTH = 12.6  # inches: panels shrink if their total width exceeds this
GAP = 0.06  # between panels, relative to a panel
MARGIN = 0.1  # inches, left and right
HEADING, FOOT = 0.72, 0.1  # inches above the first row and below the last
BAR = 0.62  # inches for a colour bar on the right
LEAST_WIDTH = 3.4  # inches: room for the title of a figure with few panels
SHARES = "share of attention, 0 (dark) to that in the corner (yellow)"
SIGMAS = 3  # range of the colour scale of the whitened component (Fig. 20)


def size(rows: int, columns: int, bar: bool = False) -> tuple[float, float]:
    """Width and height in inches of a figure of square panels, including titles.

    Args:
        bar: include a colour bar on the right (`component_maps`).
    """
    around = 2 * MARGIN + (BAR if bar else 0)
    panel = _panel(columns, around)
    across, down = (n * panel + (n - 1) * GAP * panel for n in (columns, rows))
    return max(across + around, LEAST_WIDTH), down + HEADING + FOOT


def attention_maps(
    figure: Figure | SubFigure, images: Sequence[npt.NDArray[np.uint8]], maps: Mapping[str, Maps], title: str
) -> None:
    """Attention maps (Figs. 1 and 9): a row of image and maps per image, each map from 0 to its own largest share.

    The intended size is `size(len(images), 1 + len(maps))`.

    Args:
        images: (H, W, 3) each.
        maps: maps by name, such as CLS and reg_0, (N, h, w): the share of attention that each patch receives.
        title: title above the figure.

    Raises:
        ValueError: the numbers of images and maps differ.
    """
    _check(images, list(maps.values()))
    panels = _panels(figure, len(images), 1 + len(maps), title, SHARES)
    for row, image in enumerate(images):
        _image(panels[row][0], image)
        for axes, values in zip(panels[row][1:], maps.values(), strict=True):
            _share(axes, values[row])
    _titles(panels[0], ["image", *maps])


def head_maps(figure: Figure | SubFigure, images: Sequence[npt.NDArray[np.uint8]], heads: Maps, title: str) -> None:
    """Attention of CLS by head (Fig. 18): a row of image and maps per image, each map from 0 to its largest share.

    The intended size is `size(len(images), 1 + number of heads)`.

    Args:
        images: (H, W, 3) each.
        heads: (N, heads, h, w).
        title: title above the figure.

    Raises:
        ValueError: the numbers of images and maps differ.
    """
    attention_maps(figure, images, {f"head {index}": heads[:, index] for index in range(heads.shape[1])}, title)


def norm_maps(
    figure: Figure | SubFigure, images: Sequence[npt.NDArray[np.uint8]], columns: Mapping[str, Maps], title: str
) -> None:
    """Norm maps (Fig. 21): a row of image and maps per image, with one scale per column.

    The intended size is `size(len(images), 1 + len(columns))`.

    Args:
        images: (H, W, 3) each.
        columns: norms (N, h, w) of the images by title, such as blocks or models.
        title: title above the figure.

    Raises:
        ValueError: the numbers of images and maps differ.
    """
    _check(images, list(columns.values()))
    panels = _panels(
        figure,
        len(images),
        1 + len(columns),
        title,
        "L2 norm; one scale for each column, least (dark) to largest (yellow)",
    )
    for row, image in enumerate(images):
        _image(panels[row][0], image)
        for axes, norms in zip(panels[row][1:], columns.values(), strict=True):
            low, high = float(norms.min()), float(norms.max())
            _bare(axes).imshow(norms[row], cmap="viridis", vmin=low, vmax=high, interpolation="nearest")
    ranges = [f"{name}\n{norms.min():.3g}–{norms.max():.3g}" for name, norms in columns.items()]
    _titles(panels[0], ["image", *ranges])


def mean_attention(figure: Figure | SubFigure, maps: Mapping[str, Maps], title: str) -> None:
    """Mean attention maps over images (Fig. 16) in one row, each scaled from 0 to its own largest share.

    The intended size is `size(1, len(maps))`.

    Args:
        maps: maps by name, (N, h, w) of all images.
        title: title above the figure.
    """
    (panels,) = _panels(figure, 1, len(maps), title, SHARES)
    for axes, values in zip(panels, maps.values(), strict=True):
        _share(axes, values.mean(axis=0))
    _titles(panels, list(maps))


def component_maps(
    figure: Figure | SubFigure, images: Sequence[npt.NDArray[np.uint8]], component: Maps, title: str
) -> None:
    """First principal component of the patches (Fig. 20), below each image, on one scale of ±3 sigma.

    The intended size is `size(2, len(images), bar=True)`.

    Args:
        images: (H, W, 3) each.
        component: (N, h, w), whitened: mean 0 and standard deviation 1 in each image.
        title: title above the figure.

    Raises:
        ValueError: the numbers of images and maps differ.
    """
    _check(images, [component])
    above, below = _panels(figure, 2, len(images), title, "each image alone, the farthest value red", BAR)
    for axes, image in zip(above, images, strict=True):
        _image(axes, image)
    for axes, values in zip(below, component, strict=True):
        style: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -SIGMAS, "vmax": SIGMAS, "interpolation": "nearest"}
        picture = _bare(axes).imshow(values, **style)
    bar = below[-1].inset_axes((1.08, 0.0, 0.08, 1.0))
    scale = below[-1].figure.colorbar(picture, cax=bar, ticks=[-SIGMAS, 0, SIGMAS])
    scale.ax.set_yticklabels([f"−{SIGMAS} σ", "0", f"{SIGMAS} σ"], fontsize=SMALL, color=INK)
    scale.ax.tick_params(length=2, color=INK, pad=2)
    scale.outline.set_visible(False)


def _check(images: Sequence[npt.NDArray[np.uint8]], maps: Sequence[Maps]) -> None:
    if not images or any(len(values) != len(images) for values in maps):
        raise ValueError(f"{len(images)} images and maps of {', '.join(str(len(values)) for values in maps)}")


def _panel(columns: int, around: float) -> float:
    """Side in inches of a panel in a row of `columns` panels with `around` inches of margins."""
    return min(CELL, (WIDTH - around) / (columns + (columns - 1) * GAP))


def _panels(
    figure: Figure | SubFigure, rows: int, columns: int, title: str, note: str, right: float = 0
) -> list[list[Axes]]:
    """Axes by row and column from the upper left, sized as in `size`, below the title and a small note."""
    width, height = size_of(figure)
    panel = _panel(columns, 2 * MARGIN + right)
    across, down = (n * panel + (n - 1) * GAP * panel for n in (columns, rows))
    grid = figure.add_gridspec(
        rows,
        columns,
        left=MARGIN / width,
        right=(MARGIN + across) / width,
        top=1 - HEADING / height,
        bottom=1 - (HEADING + down) / height,
        wspace=GAP,
        hspace=GAP,
    )
    panels = [[figure.add_subplot(grid[row, column]) for column in range(columns)] for row in range(rows)]
    line = 1 - 0.2 / height
    figure.text(MARGIN / width, line, title, fontsize=TITLE, weight="bold", color=INK)
    figure.text(MARGIN / width, line - 0.17 / height, note, fontsize=SMALL, color=INK)
    return panels


def _titles(panels: Sequence[Axes], names: Sequence[str]) -> None:
    for axes, name in zip(panels, names, strict=True):
        axes.set_title(name, fontsize=SMALL, color=INK, pad=2.5)


def _image(axes: Axes, image: npt.NDArray[np.uint8]) -> None:
    _bare(axes).imshow(image, interpolation="antialiased")


def _share(axes: Axes, values: npt.NDArray[np.floating]) -> None:
    """Draw a map with the share of its brightest patch in the corner, since each map has a scale of its own."""
    largest = float(values.max())
    share = 100 * largest
    highest = max(largest, 0) or 1  # the weights of `diff` may all be negative
    _bare(axes).imshow(values, cmap="viridis", vmin=0, vmax=highest, interpolation="nearest")
    where: dict[str, Any] = {"transform": axes.transAxes, "ha": "left", "va": "bottom"}
    box = {"facecolor": "black", "alpha": 0.55, "edgecolor": "none", "pad": 1.0}
    axes.text(
        0.03, 0.03, f"{share:.2g} %" if share < 99.5 else "100 %", fontsize=SMALL, color="white", bbox=box, **where
    )


def _bare(axes: Axes) -> Axes:
    bare(axes).set_anchor("N")  # wide images stay directly below their title
    return axes
