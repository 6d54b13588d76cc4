"""Charts of token probes, register replacements and the cost of registers; each draws into the given axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from regvit_lightning.analysis.contents import Contents
from regvit_lightning.analysis.controls import Effect
from regvit_lightning.analysis.cost import Cost
from regvit_lightning.analysis.probes import ProbeScore
from regvit_lightning.figures.artifacts import GREY, NORMAL, OUTLIER, label
from regvit_lightning.figures.grids import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREEN = "#2f8f6b"


def single_tokens(axes: Axes, scores: Mapping[str, ProbeScore | None]) -> None:
    """Tables 1 and 6: top-1 from one token by kind, with the standard deviation over random draws."""
    shown = {kind: score for kind, score in scores.items() if score is not None}
    for column, (kind, score) in enumerate(shown.items()):
        colour = {"outlier": OUTLIER, "normal": NORMAL, "CLS": INK}.get(kind, GREEN)
        spread = None if math.isnan(score.spread) else score.spread
        axes.bar(column, score.mean, yerr=spread, color=colour, width=0.7, error_kw={"elinewidth": 1, "ecolor": GREY})
        _above(axes, column, score.mean + (spread or 0), f"{score.mean:.1f}")
    names = [f"{kind}\n({score.right.shape[1]:,})" for kind, score in shown.items()]
    _bars(axes, names, "class from one token", "top-1 in %, (test images)", "no classes, or too few such tokens")


def local_probes(axes: Axes, contents: Contents) -> None:
    """Fig. 5b: position accuracy of normal and outlier patches, annotated with the error of their pixels."""
    kinds = [kind for kind in ("normal", "outlier") if contents.position[kind] and contents.pixels[kind]]
    names = []
    for column, kind in enumerate(kinds):
        position, pixels = contents.position[kind], contents.pixels[kind]
        assert position is not None and pixels is not None  # noqa: PT018
        axes.bar(column, position.top1, color=OUTLIER if kind == "outlier" else NORMAL, width=0.7)
        _above(axes, column, position.top1, f"{position.top1:.1f} %, {position.distance:.1f} patches off")
        error = f"{pixels.l2:.4g} (mean patch: {pixels.l2_of_mean:.4g})"
        names.append(f"{kind} ({position.patches:,})\nerror of pixels, L2:\n{error}")
    _bars(axes, names, "position and pixels of a patch", "position, top-1 in %", "too few patches")


def replacements(axes: Axes, effects: Mapping[str, Effect]) -> None:
    """Top-1 under each replacement of the registers, with classifiers of the intact model and refitted ones."""
    bars = (("knn_kept", NORMAL, None), ("linear_kept", GREEN, None), ("knn", NORMAL, "//"), ("linear", GREEN, "//"))
    words = {"knn_kept": "kNN", "linear_kept": "linear", "knn": "kNN, made anew", "linear": "linear, made anew"}
    for column, effect in enumerate(effects.values()):
        for index, (key, colour, hatch) in enumerate(bars):
            value, legend = getattr(effect, key), words[key] if column == 0 else None
            style: dict[str, Any] = {
                "color": colour,
                "hatch": hatch,
                "alpha": 0.55 if hatch else 1.0,
                "edgecolor": "white",
            }
            axes.bar(column + 0.2 * (index - 1.5), value or 0, width=0.19, linewidth=0, label=legend, **style)
    if effects:
        axes.set_ylim(0, 1.35 * max(max(effect.knn, effect.linear or 0) for effect in effects.values()) + 1)
        axes.legend(fontsize=6.5, frameon=False, labelcolor=INK, ncols=2, loc="upper left")
    _bars(axes, list(effects), "registers replaced", "top-1 in %", "no registers, or no classes")


def costs(axes: Axes, rows: Sequence[Cost]) -> None:
    """Fig. 12: parameters and multiply-adds against the number of registers, relative to the model without."""
    counts = [row.registers for row in rows]
    axes.plot(counts, [row.more_macs for row in rows], color=NORMAL, marker="o", markersize=3, label="multiply-adds")
    parameters = [row.more_parameters for row in rows]
    axes.plot(counts, parameters, color=OUTLIER, marker="o", markersize=3, label="parameters")
    axes.set_xticks(counts)
    axes.legend(fontsize=7, frameon=False, labelcolor=INK)
    label(axes, "cost of registers", "registers", "% above none")


def _bars(axes: Axes, names: Sequence[str], title: str, y: str, otherwise: str) -> None:
    """Label the bars by name; show a text if there are none."""
    axes.set_xticks(range(len(names)), names)
    if not names:
        axes.text(0.5, 0.5, otherwise, ha="center", va="center", fontsize=8, color=GREY, transform=axes.transAxes)
        axes.set_yticks([])
    label(axes, title, "", y)
    axes.margins(y=0.15)


def _above(axes: Axes, column: float, height: float, text: str) -> None:
    axes.annotate(text, (column, height), (0, 2), textcoords="offset points", ha="center", fontsize=7, color=INK)
