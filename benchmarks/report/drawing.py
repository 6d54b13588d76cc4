"""Charts drawn by matplotlib as bare SVG shapes, whose colours, lines and fonts are classes of the page's style.

An artist's class is its gid (`axes.plot(x, y, gid="line c0")`). matplotlib's own styles, identifiers, clip paths and
metadata, including the date, are removed. A chart thus follows the light and the dark theme, needs no inline style,
which the page's policy forbids, and is reproducible byte for byte. No text of a record is drawn, only numbers and fixed
words.
"""

import html
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 340, 190  # of a chart, in view box units
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 8, 36  # margins around the axes
POINTS = 72  # matplotlib's points per inch
STYLE = {"svg.fonttype": "none", "axes.unicode_minus": False, "font.size": 11}
AUTOMATIC = re.compile(r"(figure|axes|matplotlib\.axis|[xy]tick|line2d|text|patch)_\d+")  # matplotlib's own names
GRID = "rule"  # class of grid lines, the only shapes without a gid


COLOURS = 6  # in the page's style sheet
MARKERS = (  # outlines about a centre at 0, 0: circle, square, two triangles, diamond, cross
    "M-4.2 0a4.2 4.2 0 1 0 8.4 0a4.2 4.2 0 1 0 -8.4 0z",
    "M-3.8 -3.8h7.6v7.6h-7.6z",
    "M0 -4.8L4.8 3.7H-4.8z",
    "M0 4.8L4.8 -3.7H-4.8z",
    "M0 -5.3L5.3 0L0 5.3L-5.3 0z",
    "M-1.7 -4.7h3.4v3h3v3.4h-3v3h-3.4v-3h-3v-3.4h3z",
)


@dataclass(frozen=True)
class Key:
    """An entry of a legend.

    Attributes:
        style: classes of the line in the page's style sheet.
        name: text beside it.
        marker: outline of its data points, one of `MARKERS`, or empty.
    """

    style: str
    name: str
    marker: str = ""


@dataclass(frozen=True)
class Dot:
    """A data point that opens its records.

    Attributes:
        x, y: centre in view box units.
        colour: class in the page's style sheet.
        marker: its outline, one of `MARKERS`.
        model: id of its model, by which the page's filter hides it.
        text: its tooltip.
        cells: indices of its records in the page's list, separated by spaces.
    """

    x: float
    y: float
    colour: str
    marker: str
    model: str
    text: str
    cells: str


@dataclass(frozen=True)
class Chart:
    """A chart on the page.

    Attributes:
        label: description for screen readers.
        shapes: SVG elements in a view box of `WIDTH` × `HEIGHT`.
        dots: data points drawn on top of the shapes.
    """

    label: str
    shapes: Markup
    dots: tuple[Dot, ...] = ()


@contextmanager
def axes(x_label: str) -> Iterator["Axes"]:
    """Context with the axes of a chart, to be drawn into and passed to `shapes` inside it.

    Args:
        x_label: fixed label of the horizontal axis.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", STYLE]):
        figure = Figure(figsize=(WIDTH / POINTS, HEIGHT / POINTS))
        across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        drawn = figure.add_axes((LEFT / WIDTH, BOTTOM / HEIGHT, across / WIDTH, down / HEIGHT))
        for background in (figure.patch, drawn.patch, *drawn.spines.values()):
            background.set_visible(False)
        drawn.tick_params(length=0, pad=6)
        drawn.set_xlabel(x_label, labelpad=3)
        drawn.grid(axis="y")
        drawn.set_axisbelow(True)
        yield drawn


def linear_x(axes: "Axes", positions: Sequence[float], labels: Sequence[str]) -> None:
    """Set a horizontal axis with ticks at ascending positions, and a small margin on either side."""
    margin = 0.04 * (positions[-1] - positions[0]) or 0.5
    axes.set_xlim(positions[0] - margin, positions[-1] + margin)
    axes.set_xticks(positions, labels)


def linear_y(axes: "Axes", low: float, high: float) -> None:
    """Set a linear vertical axis from `low` to `high`; two to six ticks at multiples of 1, 2 or 5 × a power of ten."""
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    numbers = ScalarFormatter(useOffset=False)
    numbers.set_scientific(False)
    axes.yaxis.set_major_formatter(numbers)


def logarithmic(axes: "Axes", which: str, low: float, high: float) -> None:
    """Set a logarithmic axis from `low` to `high`, with ticks at powers of ten, and at 2 and 5 times these if few.

    Args:
        axes: axes to modify.
        which: x or y.
        low, high: its limits, above 0.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})  # type: ignore[arg-type]
    axis: Any = getattr(axes, f"{which}axis")
    axis.set_major_locator(FixedLocator(_log_ticks(low, high)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _log_ticks(low: float, high: float) -> list[float]:
    factors = (1,) if math.log10(high / low) > 3 else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]


def position(axes: "Axes", x: float, y: float) -> tuple[float, float]:
    """Convert data coordinates to view box units (y points down)."""
    across, up = axes.transData.transform((x, y)) * POINTS / axes.figure.dpi
    return float(across), float(HEIGHT - up)


def path(style: str, outline: str, *models: str) -> Markup:
    """A path that the page's filter hides unless it shows all of the models.

    Args:
        style: classes in the page's style sheet.
        outline: its commands, in view box units.
        models: ids of models, of any text.
    """
    drawn = Markup('<path class="{}" d="{}"/>').format(style, _rounded(outline))
    for model in models:
        drawn = Markup('<g data-filter="{}">{}</g>').format(model, drawn)
    return drawn


def shapes(axes: "Axes") -> Markup:
    """Export everything drawn into the axes as a flat sequence of `path` and `text` elements with classes."""
    file = io.StringIO()
    axes.figure.savefig(file, format="svg")  # type: ignore[union-attr]
    return Markup("".join(_shapes(ElementTree.fromstring(file.getvalue()), GRID)))


def _shapes(element: ElementTree.Element, style: str) -> Iterator[str]:
    """Markup of all shapes below an element of matplotlib's SVG; `style` is the class of the enclosing group."""
    for child in element:
        name = child.tag.partition("}")[2]
        if name == "g":
            identifier = child.get("id", "")
            yield from _shapes(child, style if AUTOMATIC.fullmatch(identifier) else identifier)
        elif name == "path":
            yield f'<path class="{style}" d="{_rounded(child.attrib["d"])}"/>'
        elif name == "text":
            yield _text(child.attrib, child.text or "")


def _text(attributes: Mapping[str, str], text: str) -> str:
    anchor = re.search(r"text-anchor: (\w+)", attributes["style"])
    at = f'x="{_rounded(attributes["x"])}" y="{_rounded(attributes["y"])}"'
    return f'<text class="tick" text-anchor="{anchor[1] if anchor else "start"}" {at}>{html.escape(text)}</text>'


def _rounded(text: str) -> str:
    """Round coordinates to a tenth of a unit and normalise spaces."""
    numbers = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), text)
    return " ".join(numbers.split())
