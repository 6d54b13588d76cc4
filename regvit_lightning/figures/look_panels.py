"""Maps of what one model sees in one image, each with its title, drawn in the pixels of the stored image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from regvit_lightning.analysis.token_maps import Discovered, ModelMaps, TokenMaps
from regvit_lightning.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize

Values = npt.NDArray[np.floating]
Frame = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the stored image

FONT = style.SMALL  # points
SHARE, NORM, COSINE = "viridis", "cividis", "RdBu_r"
BACKGROUND, UNSEEN, GREY = "#d5d8de", "#eef0f3", "#5d6672"
MARK = BOX = "#e8302a"


@dataclass(frozen=True)
class Panel:
    """A map with its title.

    Attributes:
        name: stem of its files.
        title: what it shows.
        draw: draws it into axes; None where there is nothing to draw.
        scale: colour map and range of its colour bar when it stands alone, or None.
        largest: its largest value, where its colours are relative to that.
    """

    name: str
    title: str
    draw: Callable[[Axes], None] | None
    scale: tuple[str, Normalize] | None = None
    largest: str = ""


def norm_scale(models: Sequence[ModelMaps]) -> Normalize:
    """Logarithmic range of the norms of all models and images, so that equal colours are equal norms."""
    from matplotlib.colors import LogNorm

    every = np.concatenate([maps.norms.ravel() for model in models for maps in model.images])
    low = max(float(every.min()), 1e-6)
    return LogNorm(low, max(float(every.max()), 1.01 * low))


def frame_of(models: Sequence[ModelMaps], index: int) -> Frame:
    """The smallest frame that holds what any of the models sees of image `index`."""
    regions = [model.images[index].region for model in models]
    lefts, tops, rights, bottoms = zip(*regions, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def main_panels(maps: TokenMaps, frame: Frame, norms: Normalize) -> list[Panel]:
    """CLS attention, similarity to a patch, norms with outliers, components as colours, and LOST's box."""
    count, discovered = int(maps.outliers.sum()), maps.discovered
    return [
        _share("cls", "CLS", maps.cls, maps, frame),
        _similarity(maps, frame),
        Panel(
            "norms",
            f"norms, {count:,} outlier{'s' * (count != 1)}",
            lambda axes: _norms(axes, maps, frame, norms),
            (NORM, norms),
        ),
        Panel("components", "components", lambda axes: _components(axes, maps, frame)),
        Panel("lost", discovered.method, lambda axes: _discovered(axes, maps, discovered, frame))
        if discovered
        else Panel("lost", "LOST", None),
    ]


def register_panels(maps: TokenMaps, frame: Frame) -> list[Panel]:
    """Attention of each register, mean over heads; one empty panel without registers."""
    if maps.registers is None or not len(maps.registers):
        return [Panel("registers", "registers", None)]
    trained = len(maps.registers) - maps.added
    titles = [f"reg_{index}" + ", at test time" * (index >= trained) for index in range(len(maps.registers))]
    return [_share(f"reg_{index}", titles[index], values, maps, frame) for index, values in enumerate(maps.registers)]


def head_panels(maps: TokenMaps, frame: Frame) -> list[Panel]:
    """Attention of CLS by head; one empty panel without CLS or attention."""
    if maps.heads is None:
        return [Panel("heads", "heads", None)]
    return [_share(f"head_{index}", str(index), values, maps, frame) for index, values in enumerate(maps.heads)]


def _share(name: str, title: str, values: Values | None, maps: TokenMaps, frame: Frame) -> Panel:
    """Attention from 0 to its largest share."""
    from matplotlib.colors import Normalize

    if values is None:
        return Panel(name, title, None)
    largest = float(values.max())
    scale, words = Normalize(0, max(largest, 0) or 1), f"{100 * largest:.2g} %" if largest < 0.995 else "100 %"
    return Panel(
        name, title, lambda axes: draw_map(axes, values, maps, frame, cmap=SHARE, norm=scale), (SHARE, scale), words
    )


def _similarity(maps: TokenMaps, frame: Frame) -> Panel:
    from matplotlib.colors import Normalize

    scale = Normalize(-1, 1)

    def draw(axes: Axes) -> None:
        draw_map(axes, maps.similarity, maps, frame, cmap=COSINE, norm=scale)
        mark_patch(axes, maps)

    return Panel("similarity", "similarity to ×", draw, (COSINE, scale))


def _norms(axes: Axes, maps: TokenMaps, frame: Frame, scale: Normalize) -> None:
    from matplotlib.patches import Rectangle

    draw_map(axes, maps.norms, maps, frame, cmap=NORM, norm=scale)
    for row, column in np.argwhere(maps.outliers):
        x, y, width, height = _cell(maps, int(row), int(column))
        axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=MARK, linewidth=0.9))


def _components(axes: Axes, maps: TokenMaps, frame: Frame) -> None:
    from matplotlib.colors import to_rgb

    painted = np.where(maps.foreground[..., None], maps.colours, to_rgb(BACKGROUND))
    draw_map(axes, painted, maps, frame)


def _discovered(axes: Axes, maps: TokenMaps, discovered: Discovered, frame: Frame) -> None:
    from matplotlib.patches import Rectangle

    pale = 255 - (255 - maps.pixels.astype(float)) * 0.6
    draw_map(axes, pale.astype(np.uint8), maps, frame, interpolation="antialiased")
    x, y, width, height = _cell(maps, *discovered.seed)
    seed: Any = {"marker": "s", "markersize": 4.5, "color": MARK, "markeredgecolor": "white", "markeredgewidth": 0.8}
    axes.plot([x + width / 2], [y + height / 2], **seed)
    x1, y1, x2, y2 = discovered.box
    left, top, *_ = _cell(maps, y1, x1)
    for colour, line in (("white", 2.6), (BOX, 1.4)):
        corner, size = (left, top), ((x2 - x1) * width, (y2 - y1) * height)
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=line))


def draw_map(axes: Axes, values: Any, maps: TokenMaps, frame: Frame, **style: Any) -> None:
    """Draw values over what the model sees; what it does not see of the frame stays pale."""
    left, top, right, bottom = maps.region
    axes.imshow(values, extent=(left, right, bottom, top), **{"interpolation": "nearest", "aspect": "auto", **style})
    no_axes(axes, frame)


def no_axes(axes: Axes, frame: Frame) -> None:
    """Axes over a frame, without ticks."""
    left, top, right, bottom = frame
    style.bare(axes).set(xlim=(left, right), ylim=(bottom, top), facecolor=UNSEEN)


def _cell(maps: TokenMaps, row: int, column: int) -> tuple[float, float, float, float]:
    """Left, top, width and height of a patch in pixels of the stored image."""
    rows, columns = maps.norms.shape
    left, top, right, bottom = maps.region
    width, height = (right - left) / columns, (bottom - top) / rows
    return left + column * width, top + row * height, width, height


def mark_patch(axes: Axes, maps: TokenMaps) -> None:
    """A cross on the patch that others are compared with."""
    x, y, width, height = _cell(maps, *maps.patch)
    for colour, line in (("white", 2.6), ("black", 1.2)):
        style: Any = {"marker": "x", "markersize": 6, "markeredgewidth": line, "color": colour}
        axes.plot([x + width / 2], [y + height / 2], **style)


def in_corner(axes: Axes, text: str) -> None:
    box = {"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "pad": 1.2}
    where: Any = {"transform": axes.transAxes, "ha": "left", "va": "bottom"}
    axes.text(0.02, 0.03, text, fontsize=FONT, color="white", bbox=box, **where)
