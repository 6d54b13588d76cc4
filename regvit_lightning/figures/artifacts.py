"""Plots of norms and outliers, after the figures of Darcet et al. 2023 (arXiv 2309.16588).

Each function draws into the axes that it is given, so that a page can be composed. Norms are those before the final
norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from regvit_lightning.analysis.norms import Norms
from regvit_lightning.analysis.outliers import LOW, Finding, Rules, massive_share
from regvit_lightning.analysis.positions import Placement
from regvit_lightning.figures.grids import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NORMAL, OUTLIER, GREY = "#3a6ea5", "#c8452d", "#8a909c"
LINES = ("#c8452d", "#3a6ea5", "#2f8f6b", "#a0690f", "#7a5aa6", "#8a909c", "#4fa3b8")  # one per rule

POINTS = 3000  # in one strip: evenly over the ranks, plus the highest
HIGHEST = 30
GRID = 400  # points at which a density is drawn
BANDWIDTH = 0.015  # of a density of cosines: the peaks of fig. 5a are about as narrow


def norm_histogram(axes: Axes, norms: Tensor, rules: Rules) -> None:
    """Fig. 3: histogram of patch norms on a log axis, with the cutoffs of `rules` that lie within their range.

    Args:
        axes: to draw into.
        norms: (N, h, w).
        rules: outlier rules.
    """
    axes.hist(norms.flatten().numpy(), bins=80, color=NORMAL, log=True)
    low, high = axes.get_xlim()
    lines = []
    for (name, at), colour in zip(rules.cutoffs(norms).items(), LINES, strict=True):
        if low < at < high:
            style: Any = ":" if name in LOW else (0, (4, 2))
            words = rules.words()[name]
            lines.append(axes.axvline(at, 0, 0.78, color=colour, linewidth=1.3, linestyle=style, label=words))
    axes.set_ylim(0.7, 30 * norms.numel())  # room for the legend
    axes.legend(handles=lines, fontsize=6.5, frameon=False, labelcolor=INK, ncols=2, loc="upper right")
    label(axes, "norms of patches", "L2 norm", "patches")


def norms_by_block(axes: Axes, norms: Tensor) -> None:
    """Fig. 4a: distribution of norms (N, depth, h, w) after each block; colour is the share of patches."""
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
    _whole_blocks(axes, len(values))
    _bar(axes, picture, "share of patches")
    label(axes, "norms after each block", "block", "L2 norm")


def shares_by_block(axes: Axes, findings: Mapping[str, Finding], least_share: float) -> None:
    """Outlier share against block for every rule, starting at the patch embedding (0).

    The axis is linear below `least_share` and logarithmic above.
    """
    widths = np.linspace(3.2, 0.9, len(findings))  # so that coinciding lines stay visible
    for (name, finding), colour, width in zip(findings.items(), LINES, widths, strict=True):
        shares, style = [finding.embedded, *finding.shares], ":" if name in LOW else "-"
        axes.plot(range(len(shares)), shares, color=colour, linewidth=width, linestyle=style, label=finding.rule)
    axes.axhline(least_share, color=GREY, linewidth=0.8, linestyle=(0, (3, 2)))
    axes.set_yscale("symlog", linthresh=least_share)
    axes.set_ylim(-0.2 * least_share, 40)  # room for the legend
    axes.set_yticks([0, least_share, 0.1, 1], ["0", f"{least_share:.1%}", "10%", "100%"])
    axes.minorticks_off()
    _whole_blocks(axes, len(finding.shares))
    axes.set_xlim(left=-0.2)
    axes.legend(fontsize=6.5, frameon=False, labelcolor=INK, ncols=2, loc="upper left")
    label(axes, "outliers after each block", "block (0: patch embedding)", "share of patches")


def norms_during_training(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Fig. 4b: norms of patches after the last block against the step, and outlier shares of every block.

    Args:
        rows: rows of `norms.csv`, see `pretrain/norms_callback.py`.
    """
    from matplotlib.figure import Figure

    depth = int(max(row["block"] for row in rows))
    last = [row for row in rows if row["block"] == depth]
    steps = [row["step"] for row in last]
    figure = Figure(figsize=(11, 4), dpi=90, facecolor="white", layout="constrained")
    norms, shares = figure.subplots(1, 2)
    for low, high, shade in (("min", "max", 0.15), ("q01", "q99", 0.25), ("q25", "q75", 0.4)):
        band = [row[low] for row in last], [row[high] for row in last]
        norms.fill_between(steps, *band, color=NORMAL, alpha=shade, linewidth=0, label=f"{low} to {high}")
    norms.plot(steps, [row["median"] for row in last], color=INK, linewidth=1.2, label="median")
    norms.set_yscale("log")
    plain_numbers(norms)
    norms.legend(fontsize=7, frameon=False, labelcolor=INK)
    label(norms, f"norms of patches after block {depth}", "step", "L2 norm")
    for block in range(1, depth + 1):
        share = [100 * row["factor"] for row in rows if row["block"] == block]
        shade = 0.25 + 0.75 * block / depth
        shares.plot(steps, share, color=OUTLIER, alpha=shade, linewidth=1.2, label=f"block {block}")
    if depth <= 12:
        shares.legend(fontsize=7, frameon=False, labelcolor=INK)
    label(shares, "patches above 3 × median, darker for later blocks", "step", "% of patches")
    return figure


def strips(axes: Axes, groups: Mapping[str, Tensor]) -> None:
    """Fig. 7: strip plot of the norms of each group, on a log axis; the bar is the median.

    Args:
        axes: to draw into.
        groups: norms of any shape by name, such as the patches of models without and with registers.
    """
    for column, norms in enumerate(groups.values()):
        values = _points(norms.flatten().numpy())
        spread = (np.arange(len(values)) * 0.6180339887 % 1 - 0.5) * 0.6
        axes.scatter(column + spread, values, s=2.5, color=NORMAL, alpha=0.35, linewidths=0, rasterized=True)
        axes.plot([column - 0.36, column + 0.36], [float(norms.median())] * 2, color=INK, linewidth=1.4)
    axes.set_yscale("log")
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_xlim(-0.6, len(groups) - 0.4)
    plain_numbers(axes)
    label(axes, "norms of patches", "", "L2 norm")


def token_types(axes: Axes, norms: Norms, block: int) -> None:
    """Fig. 15: norms of CLS, patches and each register after `block` (1..depth)."""
    groups = {} if norms.cls is None else {"CLS": norms.cls[:, block - 1]}
    groups["patches"] = norms.patches[:, block - 1]
    registers = norms.registers[:, block - 1].unbind(dim=1)
    strips(axes, {**groups, **{f"reg {number}": values for number, values in enumerate(registers)}})
    label(axes, f"norms by kind of token, block {block}", "", "L2 norm")


def kurtosis_by_block(axes: Axes, norms: Norms) -> None:
    """Kurtosis over the hidden dimensions, and the share of images with a massive activation in patches, by block."""
    kurtosis = norms.kurtosis[:, :-1].mean(dim=0)
    axes.plot(range(1, norms.depth + 1), kurtosis.numpy(), color=NORMAL, marker="o", markersize=3, linewidth=1.4)
    axes.axhline(3, color=GREY, linewidth=0.8, linestyle=(0, (3, 2)))
    axes.set_yscale("log")
    _whole_blocks(axes, norms.depth)
    massive = massive_share(norms)
    if massive.any():
        right = axes.twinx()
        right.bar(range(1, norms.depth + 1), 100 * massive.numpy(), color=OUTLIER, alpha=0.3, width=0.6)
        right.set_ylim(0, 100)
        right.set_ylabel("% of images with a massive activation", fontsize=7, color=OUTLIER)
        right.tick_params(labelsize=6.5, colors=OUTLIER, length=2)
        right.spines[:].set_visible(False)
    label(axes, "kurtosis of hidden dimensions", "block", "mean over patches (normal: 3)")


def share_map(axes: Axes, share: Tensor) -> None:
    """Fig. 10: share of images (h, w) in which each position of the grid holds an outlier."""
    picture = axes.imshow(share.numpy(), cmap="magma", vmin=0, vmax=max(float(share.max()), 1e-3))
    axes.set_xticks([])
    axes.set_yticks([])
    _bar(axes, picture, "share of images")
    label(axes, "where outliers sit", "", "")


def ring_profile(axes: Axes, placement: Placement) -> None:
    """Share of outliers against distance from the border, with the 95 % band of shuffled outliers."""
    distance, null = np.arange(len(placement.rings)), placement.null_rings.numpy()
    axes.fill_between(distance, null[:, 0], null[:, 1], color=GREY, alpha=0.35, linewidth=0, label="shuffled, 95 %")
    axes.plot(distance, placement.rings.numpy(), color=OUTLIER, marker="o", markersize=3.5, label="measured")
    axes.set_ylim(bottom=0)
    axes.set_xticks(distance)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}" if value < 0.001 else f"{100 * value:g}%")
    axes.legend(fontsize=7, frameon=False, labelcolor=INK)
    label(axes, "outliers by distance from the border", "patches from the border", "share of patches")


def neighbour_densities(axes: Axes, similarity: Tensor, mask: Tensor) -> None:
    """Fig. 5a: densities of the cosine to the four neighbours after the patch embedding, outliers against the rest.

    Args:
        axes: to draw into.
        similarity: (N, h, w), `Norms.neighbours`.
        mask: (N, h, w) outliers.
    """
    for name, kind, colour in (("normal", ~mask, NORMAL), ("outliers", mask, OUTLIER)):
        values = similarity[kind].numpy()
        legend = f"{name} ({len(values):,})"
        cosine, density = _density(values)
        axes.plot(cosine, density, color=colour, linewidth=1.4, label=legend)
        axes.fill_between(cosine, density, color=colour, alpha=0.2, linewidth=0)
    low = float(similarity.min())
    axes.set_xlim(max(min(0.0, low) - 0.05, -1.02), 1.02)
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])  # room for the legend
    axes.legend(fontsize=7, frameon=False, labelcolor=INK, loc="upper left")
    label(axes, "similarity to the 4 neighbours", "cosine after the patch embedding", "density")


def _points(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Subsample at most `POINTS` of the values, evenly over their ranks, plus the highest."""
    ordered = np.sort(values)
    if len(ordered) <= POINTS:
        return ordered
    rank = np.linspace(0, len(ordered) - 1, POINTS - HIGHEST).astype(int)
    return ordered[np.union1d(rank, np.arange(len(ordered) - HIGHEST, len(ordered)))]


def _density(values: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
    """Gaussian kernel density of cosines, reflected at -1 and 1; zeros without values."""
    from scipy.ndimage import gaussian_filter1d

    edges = np.linspace(-1, 1, GRID + 1)
    counts = np.histogram(values.clip(-1, 1), edges)[0].astype(float)
    smooth = gaussian_filter1d(counts, BANDWIDTH * GRID / 2, mode="reflect")
    return (edges[1:] + edges[:-1]) / 2, smooth / max(len(values), 1) * GRID / 2


def label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=9.5, color=INK, loc="left", weight="bold", pad=5)
    axes.set_xlabel(x, fontsize=8, color=INK, labelpad=2)
    axes.set_ylabel(y, fontsize=8, color=INK, labelpad=2)
    axes.tick_params(labelsize=7, color=INK, labelcolor=INK, length=2.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(edgecolor=INK, linewidth=0.6)


def _whole_blocks(axes: Axes, depth: int) -> None:
    step = next(step for step in (1, 2, 5, 10, 20, 50) if depth / step <= 12)
    axes.set_xticks([1, *range(step, depth + 1, step)] if step > 1 else range(1, depth + 1))
    axes.set_xlim(0.5, depth + 0.5)
    if axes.get_yscale() == "log":
        plain_numbers(axes)


def plain_numbers(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _bar(axes: Axes, picture: Any, title: str) -> None:
    bar = axes.figure.colorbar(picture, ax=axes, fraction=0.046, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=6.5, length=2, color=INK, labelcolor=INK, pad=1.5)
    bar.ax.set_ylabel(title, fontsize=7, color=INK, labelpad=2)
