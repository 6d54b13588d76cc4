"""Plots of norms and outliers, after the figures of Darcet et al. 2023 (arXiv 2309.16588).

Each function draws into the axes that it is given, so that a page can be composed. Norms are those before the final
norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from regvit_lightning.analysis.norms import Norms
from regvit_lightning.analysis.outliers import LOW, Finding, Rules, massive_share
from regvit_lightning.figures.style import (
    GREY,
    INK,
    LEGEND,
    LINES,
    MARKERS,
    NORMAL,
    OUTLIER,
    SMALL,
    colour_bar,
    label,
    none,
    percents,
    plain_numbers,
    whole_blocks,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 3000  # in one strip: evenly over the ranks, plus the highest
HIGHEST = 30
BELOW: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.44, -0.17), "ncols": 2, "columnspacing": 1.2}


def norm_histogram(axes: Axes, norms: Tensor, rules: Rules, legend: Mapping[str, Any] = BELOW) -> None:
    """Fig. 3: histogram of patch norms on a log axis, with the cutoffs of `rules` that lie within their range.

    Args:
        axes: to draw into.
        norms: (N, h, w).
        rules: outlier rules.
        legend: position and columns of the legend; by default below, in a bottom margin of 1.3 inches.
    """
    axes.hist(norms.flatten().numpy(), bins=80, color=NORMAL, log=True)
    low, high = axes.get_xlim()
    lines = []
    for index, (name, at) in enumerate(rules.cutoffs(norms).items()):
        if low < at < high:
            style: Any = ":" if name in LOW else (0, (4, 2))
            words = f"{rules.words()[name]} = {at:.3g}" if name != "cutoff" else rules.words()[name]
            axes.axvline(at, color=LINES[index], linewidth=1.1, linestyle=style)
            marked: dict[str, Any] = {
                "marker": MARKERS[index],
                "markersize": 5,
                "color": LINES[index],
                "clip_on": False,
            }
            lines += axes.plot([at], [1], transform=axes.get_xaxis_transform(), linestyle=style, label=words, **marked)
    axes.set_xlim(low, high)
    axes.set_ylim(0.7, 3 * norms.numel())
    if lines:
        axes.legend(handles=lines, **LEGEND, **legend)
    else:
        where: dict[str, Any] = {"ha": "right", "va": "top", "transform": axes.transAxes}
        axes.text(0.98, 0.96, "cutoffs: none within the norms", fontsize=SMALL, color=INK, **where)
    n = f"n = {norms.numel():,} patches"
    label(axes, "norms of patches, last block", f"L2 norm; {n}", "patches")


def norms_by_block(axes: Axes, norms: Tensor) -> None:
    """Fig. 4a: distribution of norms (N, depth, h, w) after each block; colour is the share of patches, both log."""
    from matplotlib.colors import LogNorm

    values = np.log10(norms.transpose(0, 1).flatten(1).numpy().clip(1e-6))
    edges = np.linspace(values.min() - 0.02, values.max() + 0.02, 81)
    shares = np.stack([np.histogram(row, edges)[0] / len(row) for row in values], axis=1)
    blocks = np.arange(len(values) + 1) + 0.5
    least = 1 / values.shape[1]
    scale = LogNorm(least, max(shares.max(), 2 * least))
    picture = axes.pcolormesh(
        blocks, 10**edges, np.ma.masked_equal(shares, 0), norm=scale, cmap="viridis_r", rasterized=True
    )
    axes.set_yscale("log")
    whole_blocks(axes, len(values))
    colour_bar(axes, picture, "share of patches", percent=True)
    label(axes, f"norms by block (n = {values.shape[1]:,} patches)", "block", "L2 norm of patches")


def shares_by_block(axes: Axes, findings: Mapping[str, Finding], least_share: float, images: int) -> None:
    """Outlier share of the patches of `images` against block for every rule, starting at the patch embedding (0).

    The axis is linear below `least_share` and logarithmic above; the error bar at the largest share of a rule is its
    95 % interval over images. The legend lies below, in a bottom margin of 1.3 inches.
    """
    depth = len(next(iter(findings.values())).shares)
    sizes = np.linspace(9, 3.5, len(findings))  # so that coinciding lines stay visible
    for index, (name, finding) in enumerate(findings.items()):
        shares, style = [finding.embedded, *finding.shares], ":" if name in LOW else "-"
        marked: dict[str, Any] = {"marker": MARKERS[index], "markersize": sizes[index], "markevery": max(1, depth // 8)}
        marked |= {"linestyle": style, "linewidth": sizes[index] / 3.5, "clip_on": False}
        axes.plot(range(len(shares)), shares, color=LINES[index], label=finding.rule, **marked)
        peak = finding.shares[finding.peak - 1]
        if peak > 0:
            around = [[max(peak - finding.interval[0], 0)], [max(finding.interval[1] - peak, 0)]]
            axes.errorbar([finding.peak], [peak], around, color=LINES[index], capsize=2.5, linewidth=1)
    axes.axhline(least_share, color=GREY, linewidth=0.8, linestyle=(0, (3, 2)))
    axes.set_yscale("symlog", linthresh=least_share)
    axes.set_ylim(0, 1.3)
    axes.set_yticks([0, least_share, 0.05, 0.2, 1], ["0 %", f"{100 * least_share:g} %", "5 %", "20 %", "100 %"])
    axes.minorticks_off()
    whole_blocks(axes, depth)
    axes.set_xlim(left=-0.2)
    axes.set_xticks([0, *axes.get_xticks()])
    axes.legend(**LEGEND, **BELOW)
    if not any(share for finding in findings.values() for share in finding.shares):
        none(axes, "no outliers by any rule")
    label(axes, f"outliers by block (n = {images:,} images)", "block (0: patch embedding)", "share of patches")


def strips(axes: Axes, groups: Mapping[str, Tensor], cutoff: Mapping[str, float] | None = None) -> None:
    """Fig. 7: strip plot of the norms of each group, on a log axis; the bar is the median.

    Args:
        axes: to draw into.
        groups: norms of any shape by name, such as the patches of models without and with registers.
        cutoff: norms above which a point of a group is drawn as an outlier, a triangle.
    """
    dots: dict[str, Any] = {"linewidths": 0, "rasterized": True}
    for column, (name, norms) in enumerate(groups.items()):
        values = _points(norms.flatten().numpy())
        across = column + (np.arange(len(values)) * 0.6180339887 % 1 - 0.5) * 0.6
        high = values > (cutoff or {}).get(name, np.inf)
        axes.scatter(across[~high], values[~high], s=4, color=NORMAL, alpha=0.6, **dots)
        if high.any():
            axes.scatter(across[high], values[high], s=14, color=OUTLIER, marker="^", alpha=0.9, **dots)
        axes.plot([column - 0.36, column + 0.36], [float(norms.median())] * 2, color=INK, linewidth=1.6)
    axes.set_yscale("log")
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_xlim(-0.6, len(groups) - 0.4)
    plain_numbers(axes)
    label(axes, "norms of patches", "", "L2 norm")


def strip_key(axes: Axes, dot: str, outlier: str = "", **where: Any) -> None:
    """Legend of `strips`.

    Args:
        dot: meaning of a dot.
        outlier: meaning of a triangle, if there is any.
        where: position, as for `Axes.legend`.
    """
    from matplotlib.lines import Line2D

    plain: dict[str, Any] = {"linestyle": "none", "markeredgewidth": 0}
    keys = [Line2D([], [], marker="o", markersize=3.5, color=NORMAL, label=dot, **plain)]
    if outlier:
        keys.append(Line2D([], [], marker="^", markersize=5, color=OUTLIER, label=outlier, **plain))
    keys.append(Line2D([], [], color=INK, linewidth=1.6, label="median"))
    axes.legend(handles=keys, **LEGEND, **where)


def token_types(axes: Axes, norms: Norms, block: int) -> None:
    """Fig. 15: norms of CLS, patches and each register after `block` (1..depth); the legend is in 0.95 inches below."""
    groups = {} if norms.cls is None else {"CLS": norms.cls[:, block - 1]}
    groups["patches"] = norms.patches[:, block - 1]
    registers = norms.registers[:, block - 1].unbind(dim=1)
    strips(axes, {**groups, **{f"reg {number}": values for number, values in enumerate(registers)}})
    if len(registers) > 6:
        axes.set_xticks(axes.get_xticks(), [text.get_text() for text in axes.get_xticklabels()], rotation=90)
    label(axes, f"norms by kind of token, block {block}", "", "L2 norm")
    patches = norms.patches[:, 0].numel()
    shown = f" ({POINTS:,} of {patches:,} patches)" if patches > POINTS else f" (n = {patches:,} patches)"
    strip_key(axes, f"a token of one of {len(norms):,} images{shown}", loc="upper left", bbox_to_anchor=(-0.02, -0.14))


def kurtosis_by_block(axes: Axes, norms: Norms) -> None:
    """Kurtosis over the hidden dimensions, and the share of images with a massive activation in patches, by block.

    The error bars are the 5th and 95th percentile over images.
    """
    kurtosis = norms.kurtosis[:, :-1].numpy()
    mean, blocks = kurtosis.mean(axis=0), range(1, norms.depth + 1)
    around = np.abs(np.quantile(kurtosis, (0.05, 0.95), axis=0) - mean)
    style: dict[str, Any] = {"marker": "o", "markersize": 3.5, "linewidth": 1.2, "capsize": 2, "elinewidth": 0.8}
    axes.errorbar(blocks, mean, around, color=NORMAL, **style)
    axes.axhline(3, color=GREY, linewidth=0.8, linestyle=(0, (3, 2)))
    axes.set_yscale("log")
    whole_blocks(axes, norms.depth)
    massive = massive_share(norms)
    right = axes.twinx()
    right.bar(blocks, massive.numpy(), color=OUTLIER, alpha=0.35, width=0.6, hatch="//", edgecolor=OUTLIER, linewidth=0)
    label(right, "", "", "images with a massive activation ▨" if massive.any() else "massive activations: none")
    percents(right)
    right.set_ylim(0, 1)
    right.spines[:].set_visible(False)
    label(axes, f"kurtosis of patches (n = {len(norms):,} images)", "block", "kurtosis ● (normal: 3)")


def _points(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Subsample at most `POINTS` of the values, evenly over their ranks, plus the highest."""
    ordered = np.sort(values)
    if len(ordered) <= POINTS:
        return ordered
    rank = np.linspace(0, len(ordered) - 1, POINTS - HIGHEST).astype(int)
    return ordered[np.union1d(rank, np.arange(len(ordered) - HIGHEST, len(ordered)))]
