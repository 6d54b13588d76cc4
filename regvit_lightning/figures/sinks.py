"""Plots of attention sinks, locality and singular defects by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from regvit_lightning.analysis.defects import Defects
from regvit_lightning.analysis.locality import Locality
from regvit_lightning.analysis.sinks import Sinks
from regvit_lightning.figures.style import (
    BARS,
    GREEN,
    GREY,
    INK,
    LEGEND,
    NORMAL,
    OUTLIER,
    label,
    mean_and_error,
    none,
    percents,
    whole_blocks,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINT: dict[str, Any] = {"markersize": 3.5, "linewidth": 1.2, "clip_on": False}


def sinks_by_block(axes: Axes, sinks: Sinks | None) -> None:
    """Sinks per image in each block as stacked bars: NOP, broadcast, and those of neither kind.

    The error bar of a stack is the 95 % interval of its height over images.
    """
    if sinks is None:
        label(axes, "attention sinks by block", "block", "sinks per image")
        none(axes, "not measured for this model")
        return
    depth, heads = sinks.token.shape[1:]
    kinds = {"NOP": sinks.nop, "broadcast": sinks.broadcast, "other": sinks.events & ~sinks.nop & ~sinks.broadcast}
    bottom = np.zeros(depth)
    for (name, mask), colour, hatch in zip(kinds.items(), (NORMAL, OUTLIER, GREY), ("", "//", ".."), strict=True):
        counts = mask.double().sum(dim=2).mean(dim=0).numpy()
        style: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
        axes.bar(range(1, depth + 1), counts, 0.7, bottom, label=f"{name}: {_total(counts.sum())} per image", **style)
        bottom += counts
    total, error = mean_and_error(sinks.events.double().sum(dim=2))
    below = torch.minimum(error, total)  # a count cannot be negative
    axes.errorbar(range(1, depth + 1), total, torch.stack([below, error]), fmt="none", ecolor=INK, **BARS)
    whole_blocks(axes, depth)
    axes.set_ylim(0, 1.4 * max(float((total + error).max()), 0.1))
    axes.locator_params(axis="y", nbins=5)
    if sinks.events.any():
        axes.legend(**LEGEND, loc="upper left")
    else:
        none(axes, "no sink in any head")
    label(axes, f"attention sinks (n = {len(sinks)} images)", "block", f"sinks per image, of {heads} heads")


def _total(count: float) -> str:
    return f"{count:.2f}" if count else "0"


def variance_by_block(axes: Axes, locality: Locality) -> None:
    """Shares of the variance of patches by position, image and patch after each block, as stacked areas."""
    shares = locality.shares()
    stages = range(1, len(shares["patch"]) + 1)
    parts = [shares[name].numpy() for name in ("patch", "image", "position")]
    whose = ("its own", "the image", "the position")
    names = [f"{name} {100 * part[-1]:.0f} %" for name, part in zip(whose, parts, strict=True)]
    axes.stackplot(stages, parts, labels=names, colors=(GREEN, NORMAL, OUTLIER), alpha=0.75)
    _stages(axes, len(stages))
    percents(axes)
    axes.set_ylim(0, 1)
    axes.legend(**LEGEND, loc="upper center", bbox_to_anchor=(0.44, -0.14), ncols=3, columnspacing=1.0)
    n = len(locality.mean_cosine)
    label(axes, f"variance of a patch (n = {n} images)", "block (F: final norm)", "share of variance")


def cosines_by_block(axes: Axes, locality: Locality) -> None:
    """Mean cosine of patches to the mean patch of their image and to CLS after each block and the final norm.

    Error bars are 95 % intervals over images.
    """
    stages = range(1, locality.mean_cosine.shape[1] + 1)
    mean, error = mean_and_error(locality.mean_cosine)
    axes.errorbar(stages, mean, error, fmt="o-", color=NORMAL, label="to the image mean", **POINT, **BARS)
    if locality.cls_cosine is not None:
        mean, error = mean_and_error(locality.cls_cosine)
        axes.errorbar(stages, mean, error, fmt="s--", color=GREEN, label="to CLS", **POINT, **BARS)
    _stages(axes, len(stages))
    axes.legend(**LEGEND, loc="upper center", bbox_to_anchor=(0.44, -0.14), ncols=2, columnspacing=1.0)
    label(axes, f"cosine of patches (n = {len(locality.mean_cosine)} images)", "block (F: final norm)", "mean cosine")


def singular_direction(axes: Axes, defects: Defects | None, high: Tensor) -> None:
    """Mean |cosine| of patches to the singular direction after each block, of high norms and of the others.

    Args:
        axes: to draw into.
        defects: cosines to the singular direction; None where the blocks are not linearised.
        high: patches of high norm, boolean (N, depth, h, w).
    """
    title, y = "along the singular direction", "mean | cosine |"
    if defects is None:
        label(axes, title, "block", y)
        none(axes, "not measured for this model")
        return
    inside, outside = defects.mean_cosines(high)
    blocks = range(1, len(outside) + 1)
    axes.plot(blocks, outside, "o-", color=NORMAL, label="other patches", **POINT)
    few = "high norms" if high.any() else "high norms: none"
    axes.plot(blocks, inside, "^--", color=OUTLIER, label=few, **POINT)
    axes.plot(blocks, defects.shares(), "v:", color=INK, label="share of defects", **POINT)
    whole_blocks(axes, len(blocks))
    axes.set_ylim(0, 1)
    axes.legend(**LEGEND, loc="upper center", bbox_to_anchor=(0.44, -0.14), ncols=3, columnspacing=1.0)
    label(axes, f"{title} (n = {len(defects.cosines)} images)", "block", f"{y}; share of patches")


def _stages(axes: Axes, count: int) -> None:
    """Ticks at blocks 1..count - 1 and an F at the final norm."""
    whole_blocks(axes, count)
    ticks = [tick for tick in axes.get_xticks() if tick < count]
    axes.set_xticks([*ticks, count], [*(f"{tick:g}" for tick in ticks), "F"])
    axes.set_xlim(0.9, count + 0.1)
