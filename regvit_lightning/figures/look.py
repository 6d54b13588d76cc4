"""One figure of what models see in images: models side by side, a row for each image; and each of its maps alone.

Maps are drawn in the pixels of the stored image, so that those of models that see the whole image and of those that
see a square lie at the same position. Fonts are at least 8 pt at the size at which a figure is saved; the colour maps
are legible without colour vision, and outliers, seed and patch are marked by shapes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from regvit_lightning.analysis.token_maps import ModelMaps, TokenMaps
from regvit_lightning.figures.look_panels import (
    COSINE,
    FONT,
    GREY,
    NORM,
    SHARE,
    Frame,
    Panel,
    draw_map,
    frame_of,
    head_panels,
    in_corner,
    main_panels,
    mark_patch,
    no_axes,
    norm_scale,
    register_panels,
)
from regvit_lightning.figures.style import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

HEADING = 10.0  # points
PANEL, SMALL = 1.2, 0.56  # inches: width of a map, and of one of a head
MAIN = 5  # maps of each image beside those of registers and heads, see `main_panels`
MOST, LEAST = 5, 2  # maps in a line; of heads, which are half as wide, twice as many
GAP = 0.1  # inches between maps
WIDEST = 11.0  # inches: a page in landscape; lines of maps are shorter where models would not fit beside each other
TITLE = 0.19  # inches above a map
IMAGE = 1.9  # inches: width of the image at the left
MARGIN, BETWEEN = 0.15, 0.4  # inches: at the edges, and between models
NAME, FACT, FOOT = 0.4, 0.15, 0.78  # inches: names of the models, a line of facts, colour bars
FACT_LETTERS = 17  # in an inch of a line of facts
ALONE = 3.2  # inches: long side of a map alone
TALLEST = 1.5  # height of a map relative to its width; a taller image is drawn narrower
LONGEST_TITLE = 26  # characters of an image's name


def maps_in_a_line(models: int) -> int:
    """Maps in a line of each model: the most, so that `models` fit beside each other in `WIDEST` inches."""
    return next((across for across in range(MOST, LEAST, -1) if _figure_width(models, across) <= WIDEST), LEAST)


def _card(across: int) -> float:
    """Width in inches of all maps of an image in a model, `across` of them in a line."""
    return across * PANEL + (across - 1) * GAP


def _figure_width(models: int, across: int) -> float:
    return 2 * MARGIN + IMAGE + models * (BETWEEN + _card(across))


@dataclass(frozen=True)
class _Band:
    """Heights in inches of the row of an image, from the frame that its maps share.

    Attributes:
        frame: see `frame_of`.
        across: maps in a line.
        registers, heads: largest number of registers and of heads in a model; more than `MOST` registers are drawn
            as small as heads, fewer follow the other maps.
    """

    frame: Frame
    across: int
    registers: int
    heads: int

    def line(self, width: float) -> float:
        """Height of a line of maps of this width, with their titles."""
        return self.size(width)[1] + TITLE + (GAP if width == PANEL else 0)

    @property
    def few_registers(self) -> bool:
        """Whether registers are drawn as large as the other maps."""
        return self.registers <= MOST

    @property
    def before_registers(self) -> float:
        """Height of the large maps."""
        large = MAIN + (self.registers if self.few_registers else 0)
        return -(-large // self.across) * self.line(PANEL)

    @property
    def before_heads(self) -> float:
        """Height of what is above the maps of the heads and their common title."""
        small = 0 if self.few_registers else self.registers
        return self.before_registers + self._small_lines(small) + GAP

    def _small_lines(self, maps: int) -> float:
        return -(-maps // (2 * self.across)) * self.line(SMALL)

    def size(self, width: float) -> tuple[float, float]:
        """Width and height of a map in a column of `width` inches."""
        left, top, right, bottom = self.frame
        ratio = (bottom - top) / (right - left)
        return (width, width * ratio) if ratio <= TALLEST else (width * TALLEST / ratio, width * TALLEST)

    @property
    def height(self) -> float:
        heads = TITLE + self._small_lines(self.heads)
        return max(self.before_heads + heads, self.size(IMAGE)[1] + TITLE) + 2 * GAP


def overview(models: Sequence[ModelMaps], titles: Sequence[str]) -> Figure:
    """Models side by side, a row for each image; up to three models fit into `WIDEST` inches.

    In each row, from above: attention of CLS, similarity to a patch, norms with outliers, components and LOST's box;
    attention of each register; attention of CLS by head.

    Args:
        models: maps of the same images in each model.
        titles: name of each image.

    Raises:
        ValueError: the numbers of images and titles differ, or there are none.
    """
    from matplotlib.figure import Figure

    if not models or not titles or any(len(model.images) != len(titles) for model in models):
        raise ValueError(f"{len(titles)} titles and maps of {[len(model.images) for model in models]} images")
    across = maps_in_a_line(len(models))
    bands, card = [_band(models, index, across) for index in range(len(titles))], _card(across)
    facts = [textwrap.wrap(_facts(model), int(card * FACT_LETTERS)) for model in models]
    top = NAME + FACT * max(map(len, facts))
    height = top + sum(band.height for band in bands) + FOOT
    figure = Figure((_figure_width(len(models), across), height), dpi=200, facecolor="white")
    norms = norm_scale(models)
    lefts = [MARGIN + IMAGE + BETWEEN + index * (card + BETWEEN) for index in range(len(models))]
    for model, lines, left in zip(models, facts, lefts, strict=True):
        _text(figure, left, 0.12, short(model.model, int(card * 12)), fontsize=HEADING, weight="bold")
        _text(figure, left, 0.34, "\n".join(lines))
    for index, (band, title) in enumerate(zip(bands, titles, strict=True)):
        _image(figure, _widest(models, index), band, short(title, LONGEST_TITLE), top)
        for model, left in zip(models, lefts, strict=True):
            _maps_of_image(figure, model.images[index], band, norms, left, top)
        top += band.height
    _foot(figure, norms)
    return figure


def _facts(model: ModelMaps) -> str:
    return f"{model.blocks_in_words}; {model.outliers_in_words}"


def _band(models: Sequence[ModelMaps], index: int, across: int) -> _Band:
    maps = [model.images[index] for model in models]
    frame = frame_of(models, index)
    registers = max(len(register_panels(one, frame)) for one in maps)
    heads = max(len(head_panels(one, frame)) for one in maps)
    return _Band(frame, across, registers, heads)


def _widest(models: Sequence[ModelMaps], index: int) -> TokenMaps:
    """Maps of the model that sees most of the image."""
    return max((model.images[index] for model in models), key=lambda maps: maps.region[2] - maps.region[0])


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes whose upper left corner is at `left` and `top`, inches from that of the figure."""
    across, down = figure.get_size_inches()
    axes: Axes = figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))
    return axes


def _text(figure: Figure, left: float, top: float, text: str, **options: Any) -> None:
    """Text whose upper left corner is at `left` and `top`, inches from that of the figure."""
    across, down = figure.get_size_inches()
    options = {"fontsize": FONT, "color": INK, "va": "top", "ha": "left", **options}
    figure.text(left / across, 1 - top / down, text, **options)


def short(text: str, longest: int) -> str:
    """Text of at most `longest` characters, the middle left out where it is longer."""
    kept = longest - 1
    return text if len(text) <= longest else f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def _image(figure: Figure, maps: TokenMaps, band: _Band, title: str, top: float) -> None:
    axes = _axes(figure, MARGIN, top + TITLE, *band.size(IMAGE))
    draw_map(axes, maps.pixels, maps, band.frame, interpolation="antialiased")
    mark_patch(axes, maps)
    _title(axes, title)


def _title(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=FONT, color=INK, loc="left", pad=2.5)


def _maps_of_image(figure: Figure, maps: TokenMaps, band: _Band, norms: Normalize, left: float, top: float) -> None:
    """All maps of one image in one model."""
    large, registers = main_panels(maps, band.frame, norms), register_panels(maps, band.frame)
    if band.few_registers:
        large += registers
    else:
        _lines(figure, registers, band, SMALL, left, top + band.before_registers)
    _lines(figure, large, band, PANEL, left, top)
    heads, top = head_panels(maps, band.frame), top + band.before_heads
    _text(figure, left, top, "CLS by head" if heads[0].draw else "CLS by head: none")
    if heads[0].draw:
        _lines(figure, heads, band, SMALL, left, top + TITLE - 0.04)


def _lines(figure: Figure, panels: Sequence[Panel], band: _Band, width: float, left: float, top: float) -> None:
    """Maps of `width` inches in lines, each with its title; `none` where there is nothing to draw."""
    across = band.across if width == PANEL else 2 * band.across
    step = (_card(band.across) - width) / (across - 1)
    for index, panel in enumerate(panels):
        line, column = divmod(index, across)
        axes = _axes(figure, left + column * step, top + line * band.line(width) + TITLE, *band.size(width))
        if panel.draw is None:
            no_axes(axes, band.frame)
            axes.text(0.5, 0.5, "none", transform=axes.transAxes, fontsize=FONT, color=GREY, ha="center", va="center")
        else:
            panel.draw(axes)
            if width == PANEL and panel.largest:
                in_corner(axes, panel.largest)
        _title(axes, panel.title)


def _foot(figure: Figure, norms: Normalize) -> None:
    """Colour bars of shares, cosines and norms, and what the marks mean."""
    from matplotlib.colors import Normalize as Linear

    top, width = figure.get_size_inches()[1] - FOOT + 0.12, 1.75
    bars: list[tuple[str, Normalize, str, Sequence[float], Sequence[str]]] = [
        (SHARE, Linear(0, 1), "share of attention (largest in the corner)", [0, 1], ["0", "largest"]),
        (COSINE, Linear(-1, 1), "cosine similarity", [-1, 0, 1], ["−1", "0", "1"]),
        (NORM, norms, "L2 norm, all models", *_round_numbers(norms)),
    ]
    left = MARGIN + 0.1
    for colours, scale, title, ticks, names in bars:
        axes = _axes(figure, left, top + 0.18, width, 0.1)
        _bar(axes, colours, scale, ticks, names, "horizontal")
        _text(figure, left, top, title)
        left += width + 0.6
    _text(figure, left, top, "× patch compared\n□ outlier\n■ LOST's seed, and its box", linespacing=1.25)


def _round_numbers(scale: Normalize) -> tuple[list[float], list[str]]:
    """At most four round numbers on a logarithmic scale that are apart from each other; else its ends."""
    low, high = float(scale.vmin or 1), float(scale.vmax or 1)
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        inside = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if 2 <= len(inside) <= 5:
            return inside, [f"{value:g}" for value in inside]
    return [low, high], [f"{low:.3g}", f"{high:.3g}"]


def _bar(
    axes: Axes, colours: str, scale: Normalize, ticks: Sequence[float], names: Sequence[str], orientation: Any
) -> None:
    from matplotlib.cm import ScalarMappable

    bar = axes.figure.colorbar(ScalarMappable(scale, colours), cax=axes, orientation=orientation)
    bar.set_ticks(ticks, labels=names)
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=FONT, length=2, color=INK, labelcolor=INK, pad=2)
    bar.outline.set_visible(False)


# ------------------------------------------------------------------------------------------------------ one map


def alone(panel: Panel, frame: Frame) -> Figure:
    """A map alone, without a title, with its colour bar at the right; its long side is `ALONE` inches."""
    from matplotlib.figure import Figure

    assert panel.draw is not None, "there is nothing to draw"
    left, top, right, bottom = frame
    scale = ALONE / max(right - left, bottom - top)
    width, height = scale * (right - left), scale * (bottom - top)
    room = 0.75 if panel.scale else 0.0
    figure = Figure((width + room, height), dpi=200, facecolor="white")
    panel.draw(_axes(figure, 0, 0, width, height))
    if panel.scale:
        colours, norm = panel.scale
        axes = _axes(figure, width + 0.08, 0.08, 0.12, height - 0.16)
        _bar(axes, colours, norm, *_ends(colours, norm), "vertical")
    return figure


def _ends(colours: str, scale: Normalize) -> tuple[list[float], list[str]]:
    if colours == NORM:
        return _round_numbers(scale)
    low, high = float(scale.vmin or 0), float(scale.vmax or 0)
    if colours == COSINE:
        return [low, 0.0, high], ["−1", "0", "1"]
    return [low, high], ["0", f"{100 * high:.2g} %"]
