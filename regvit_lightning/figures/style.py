"""Style shared by all figures: colours that colour-blind readers can tell apart, sizes, labels and file formats.

Colours are those of Okabe and Ito (2008); wherever one matters a shape, a line style or a hatch says the same. No text
is below 8 points at the size at which a figure is saved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regvit_lightning.runtime import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from torch import Tensor

INK, PAPER = "#1f2430", "#ffffff"
NORMAL, OUTLIER, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#6f7580"
LINES = (OUTLIER, NORMAL, GREEN, "#e69f00", INK, "#cc79a7", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # a shape for each of `LINES`
SMALL, TITLE = 8.0, 9.5  # points
TOP = 0.34  # inches above axes, for their title
LEGEND: dict[str, Any] = {"fontsize": SMALL, "frameon": False, "labelcolor": INK, "handlelength": 1.6}

FORMATS = ("pdf", "svg", "png")
DPI = 200  # of PNG, and of the parts of PDF and SVG that are pixels
NO_DATE: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {"Software": None},
}


def save(figure: Figure, file: Path, formats: Sequence[str] = FORMATS) -> None:
    """Write a figure as `<file>.pdf`, `.svg` and `.png` with 200 dots per inch; the same figure gives the same bytes.

    Raises:
        UserError: a file cannot be written.
    """
    import matplotlib

    with matplotlib.rc_context({"pdf.fonttype": 42, "svg.hashsalt": file.name}):
        for kind in formats:
            style: dict[str, Any] = {"format": kind, "dpi": DPI, "metadata": NO_DATE[kind]}
            atomic.write(file.with_name(f"{file.name}.{kind}"), partial(figure.savefig, **style))


def axes_in(figure: Figure | SubFigure, left: float = 0.62, right: float = 0.16, bottom: float = 0.48) -> Axes:
    """Axes that fill a figure up to margins in inches, with room for the title above."""
    width, height = size_of(figure)
    across, down = width - left - right, height - bottom - TOP
    return figure.add_axes((left / width, bottom / height, across / width, down / height))


def size_of(figure: Figure | SubFigure) -> tuple[float, float]:
    """Width and height in inches."""
    return figure.bbox.width / figure.dpi, figure.bbox.height / figure.dpi


def label(axes: Axes, title: str, x: str, y: str) -> None:
    """Title and axis labels, thin spines on the left and below."""
    axes.set_title(title, fontsize=TITLE, color=INK, loc="left", weight="bold", pad=6)
    axes.set_xlabel(x, fontsize=SMALL, color=INK, labelpad=2)
    axes.set_ylabel(y, fontsize=SMALL, color=INK, labelpad=2)
    axes.tick_params(labelsize=SMALL, color=INK, labelcolor=INK, length=2.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(edgecolor=INK, linewidth=0.6)


def none(axes: Axes, text: str) -> None:
    """Write a text where there is nothing to draw."""
    box = {"facecolor": PAPER, "edgecolor": GREY, "linewidth": 0.6, "pad": 4.0}
    where: dict[str, Any] = {"ha": "center", "va": "center", "transform": axes.transAxes}
    axes.text(0.5, 0.5, text, fontsize=SMALL + 0.5, color=INK, bbox=box, **where)


def whole_blocks(axes: Axes, depth: int) -> None:
    """Ticks at whole numbers of blocks 1..depth, at most twelve; plain numbers on a logarithmic axis of norms."""
    step = next(step for step in (1, 2, 5, 10, 20, 50) if depth / step <= 12)
    axes.set_xticks([1, *range(step, depth + 1, step)] if step > 1 else range(1, depth + 1))
    axes.set_xlim(0.5, depth + 0.5)
    if axes.get_yscale() == "log":
        plain_numbers(axes)


def plain_numbers(axes: Axes) -> None:
    """Ticks of a logarithmic vertical axis at 1, 2 and 5 times powers of ten, or at these alone over a wide range."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 3000 else (1,)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def percents(axes: Axes) -> None:
    """Ticks of a vertical axis of shares from 0 up, all in percent."""
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")


def colour_bar(axes: Axes, picture: Any, title: str, percent: bool = False) -> None:
    """Colour bar 0.1 inches wide beside the axes, within a right margin of 0.75 inches."""
    width, _ = size_of(axes.figure)  # type: ignore[arg-type]
    across = axes.get_position().width * width
    bar = axes.figure.colorbar(picture, cax=axes.inset_axes((1 + 0.07 / across, 0, 0.1 / across, 1)))
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(labelsize=SMALL, length=2, color=INK, labelcolor=INK, pad=1.5)
    if percent:
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    bar.ax.set_ylabel(title, fontsize=SMALL, color=INK, labelpad=3)


BARS: dict[str, Any] = {"capsize": 2, "elinewidth": 0.8}


def mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the rows of (N, …) that are numbers, and half its 95 % interval over them, 1.96 standard errors.

    The half interval is 0 where fewer than two rows are numbers.
    """
    counts = values.isfinite().sum(dim=0)
    mean = values.double().nanmean(dim=0)
    squares = (values.double() - mean).square().nansum(dim=0)
    error = (squares / (counts - 1).clamp(min=1) / counts.clamp(min=1)).sqrt()
    return mean, 1.96 * error.where(counts > 1, 0.0)


def mean_and_deviation(values: Tensor, decimals: int = 2) -> str:
    """Mean and standard deviation of values (N,), such as `0.98 ± 0.01`."""
    finite = values[values.isfinite()].double()
    spread = float(finite.std()) if len(finite) > 1 else math.nan
    return f"{float(finite.mean()):.{decimals}f} ± {spread:.{decimals}f}"


def bare(axes: Axes) -> Axes:
    """Axes of a picture: no ticks, no spines."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return axes
