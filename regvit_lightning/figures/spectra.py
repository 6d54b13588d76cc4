"""Eigenvalues of features against their ranks on logarithmic axes, with the power law that was fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from regvit_lightning.figures.style import GREY, INK, LEGEND, LINES, MARKERS, PAPER, axes_in, label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = 4.6, 3.2  # inches


def spectra(kinds: Mapping[str, Sequence[float]], first: int, last: int, alpha: float) -> Figure:
    """Draw spectra, and the power law through ranks `first` to `last` of the first of them.

    Args:
        kinds: shares of the eigenvalues, descending, by what they are of.
        first, last: ranks from 1.
        alpha: exponent of the power law.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=100, facecolor=PAPER)
    axes = axes_in(figure)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for index, (name, values) in enumerate(kinds.items()):
        style = {"color": LINES[index], "marker": MARKERS[index], "markersize": 3, "linewidth": 1.1, "markevery": 0.1}
        axes.plot(range(1, len(values) + 1), values, label=name, **style)  # type: ignore[arg-type]
    ranks = np.arange(first, last + 1)
    own = np.array(next(iter(kinds.values())))[first - 1 : last]
    middle = np.exp(np.log(own).mean() + alpha * np.log(ranks).mean())
    axes.plot(ranks, middle * ranks**-alpha, color=INK, linestyle="--", linewidth=1.4, label=f"rank ^ −{alpha:.2f}")
    axes.axvspan(first, last, color=GREY, alpha=0.12, linewidth=0)
    label(axes, "Spectrum of the features", "rank", "share of the variance")
    axes.legend(**LEGEND, loc="lower left")
    return figure
