"""Charts of token probes, register replacements and the cost of registers; each draws into the given axes.

Error bars are exact 95 % intervals (Clopper and Pearson 1934) over the n test images or patches of a bar.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from regvit_lightning.analysis.contents import Contents
from regvit_lightning.analysis.controls import Effect
from regvit_lightning.analysis.cost import Cost
from regvit_lightning.analysis.probes import ProbeScore
from regvit_lightning.figures.style import GREEN, GREY, INK, LEGEND, NORMAL, OUTLIER, SMALL, label, none
from regvit_lightning.statistics import binomial_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES = {"outlier": (OUTLIER, "//"), "normal": (NORMAL, ""), "CLS": (GREY, "")}  # colour and hatch of a kind of token
REGISTER = (GREEN, "..")


def single_tokens(axes: Axes, scores: Mapping[str, ProbeScore | None]) -> None:
    """Tables 1 and 6: top-1 from one token by kind; values with the standard deviation over draws, where several."""
    shown = {kind: score for kind, score in scores.items() if score is not None}
    for column, (kind, score) in enumerate(shown.items()):
        _bar(axes, column, score.mean, score.right.shape[1], *STYLES.get(kind, REGISTER))
        spread = f"\n± {score.spread:.1f}" if score.spread and not math.isnan(score.spread) else ""
        _above(axes, column, score.mean, score.right.shape[1], f"{score.mean:.1f}{spread}")
    counts = {score.right.shape[1] for score in shown.values()}
    each = len(counts) > 1
    names = [f"{kind}\n{score.right.shape[1]:,}" if each else kind for kind, score in shown.items()]
    n = f", n = {'below each' if each else f'{counts.pop():,} images'}" if shown else ""
    _bars(axes, names, f"class from one token{n}", "top-1 in %", "none: no classes, or too few such tokens")


def local_probes(axes: Axes, contents: Contents) -> None:
    """Fig. 5b: position accuracy of normal and outlier patches; below them distance and the error of their pixels."""
    names = []
    for column, kind in enumerate(("normal", "outlier")):
        position, pixels = contents.position[kind], contents.pixels[kind]
        if position is None or pixels is None:
            names.append(f"{kind}: none,\nor too few")
            continue
        _bar(axes, column, position.top1, position.patches, *STYLES[kind])
        _above(axes, column, position.top1, position.patches, f"{position.top1:.1f}")
        pixel = f"pixels: L2 {pixels.l2:.4g}\n(mean patch: {pixels.l2_of_mean:.4g})"
        names.append(f"{kind}, n = {position.patches:,}\n{position.distance:.1f} patches off\n{pixel}")
    axes.set_xlim(-0.6, 1.6)
    _bars(axes, names, "position and pixels of a patch", "position, top-1 in %", "")


def replacements(axes: Axes, effects: Mapping[str, Effect], images: int) -> None:
    """Top-1 under each replacement of the registers, with classifiers of the intact model and refitted ones.

    Args:
        axes: to draw into.
        effects: by replacement; empty for a model without registers.
        images: number of test images.

    The legend lies below, in a bottom margin of 0.85 inches.
    """
    bars = (("knn_kept", NORMAL, ""), ("linear_kept", GREEN, ""), ("knn", NORMAL, "///"), ("linear", GREEN, "///"))
    words = {"knn_kept": "kNN", "linear_kept": "linear", "knn": "kNN, refitted", "linear": "linear, refitted"}
    for column, effect in enumerate(effects.values()):
        for index, (key, colour, hatch) in enumerate(bars):
            value = getattr(effect, key)
            if value is not None:
                _bar(
                    axes,
                    column + 0.2 * (index - 1.5),
                    value,
                    images,
                    colour,
                    hatch,
                    0.19,
                    words[key] if column == 0 else "",
                )
    if effects:
        axes.legend(**LEGEND, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    n = f" (n = {images:,} images)" if effects else ""
    _bars(axes, list(effects), f"registers replaced{n}", "top-1 in %", "none: no registers, or no classes")


def costs(axes: Axes, rows: Sequence[Cost]) -> None:
    """Fig. 12: parameters and multiply-adds against the number of registers, relative to the model without."""
    from matplotlib.ticker import FuncFormatter

    counts = [row.registers for row in rows]
    style: dict[str, Any] = {"linewidth": 1.4, "markersize": 5}
    axes.plot(counts, [row.more_macs for row in rows], color=NORMAL, marker="o", label="multiply-adds", **style)
    parameters = [row.more_parameters for row in rows]
    axes.plot(counts, parameters, color=OUTLIER, marker="s", linestyle="--", label="parameters", **style)
    axes.set_xticks(counts)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"+{value:g} %" if value else "0 %"))
    axes.legend(**LEGEND, loc="upper left")
    label(axes, "cost of registers", "registers", "above none")


def _bar(
    axes: Axes, column: float, percent: float, n: int, colour: str, hatch: str, width: float = 0.7, words: str = ""
) -> None:
    """A bar of `percent` of n, with its interval."""
    low, high = _interval(percent, n)
    around = [[max(percent - low, 0)], [max(high - percent, 0)]]
    errors: dict[str, Any] = {"elinewidth": 1, "ecolor": INK, "capsize": 2 if width < 0.5 else 3}
    style: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
    axes.bar(column, percent, yerr=around, width=width, error_kw=errors, label=words or None, **style)


def _interval(percent: float, n: int) -> tuple[float, float]:
    low, high = binomial_interval(round(percent / 100 * n), n)
    return 100 * low, 100 * high


def _bars(axes: Axes, names: Sequence[str], title: str, y: str, otherwise: str) -> None:
    """Label the bars by name; show a text if there are none."""
    narrow: dict[str, Any] = {"rotation": 90} if len(names) > 7 else {}
    axes.set_xticks(range(len(names)), names, **narrow)
    if not names:
        none(axes, otherwise)
        axes.set_yticks([])
    label(axes, title, "", y)
    axes.margins(y=0.15)


def _above(axes: Axes, column: float, percent: float, n: int, text: str) -> None:
    where: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": SMALL, "color": INK}
    axes.annotate(text, (column, _interval(percent, n)[1]), (0, 2), annotation_clip=False, **where)
