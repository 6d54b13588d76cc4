"""Verdict on a model: whether its blocks make artifacts, after which of them, and how large and frequent these are.

Artifacts are patches of far higher norm than the others, a second mode of the distribution (Darcet et al. 2023, arXiv
2309.16588, section 2.1 and fig. 3). Spread alone is none: rules by standard deviation or MAD fire on any skewed
distribution. A block has artifacts if
- the norms of some patches exceed `Rules.factor` × the median, which they did not right after the patch embedding;
- these are at least `Rules.least_share` of all patches, or occur in at least `Rules.least_images` of the images;
- a gap separates them from the others: norms of `GAP` between its ends, with few patches inside.
The sizes of the gap are choices of this suite; fig. 3 of the paper has one of about 1.7.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from regvit_lightning.analysis.norms import Norms
from regvit_lightning.analysis.outliers import Finding, Rules, at_factor, require_usable

GAP = 1.2  # ratio of the norms at the two ends of a gap
INSIDE = 0.1  # patches inside the gap, relative to those above it: on real images the valley is not empty


@dataclass(frozen=True)
class HighNorms:
    """Patches of high norm after one block, without those that had a high norm right after the patch embedding.

    Attributes:
        share: share of all patches.
        images: number of images with at least one.
        max_over_median: largest norm relative to the median of all patches.
        gap: ratio of the norms at both ends of the widest gap that splits them off; 1 without any.
        artifacts: whether they are artifacts.
    """

    share: float
    images: int
    max_over_median: float
    gap: float
    artifacts: bool


def high_norms(norms: Norms, rules: Rules) -> list[HighNorms]:
    """High norms after each block 1..depth, before the final norm.

    Raises:
        UserError: a norm is not finite, or the median is 0.
    """
    require_usable(norms)
    embedded = norms.embedded > at_factor(norms.embedded, rules.factor)
    return [_high_norms(norms.raw[:, block], embedded, rules) for block in range(norms.depth)]


def low_norms(norms: Norms, rules: Rules) -> list[HighNorms]:
    """Patches of low norm after each block, as artifacts of CLIP can be: `high_norms` of the inverse of every norm.

    `max_over_median` is then the median over the smallest norm, and patches below median / `Rules.factor` count.

    Raises:
        UserError: a norm is not finite, or the median is 0.
    """
    require_usable(norms)
    embedded, raw = (part.double().clamp(min=1e-30).reciprocal() for part in (norms.embedded, norms.raw))
    before = embedded > at_factor(embedded, rules.factor)
    return [_high_norms(raw[:, block], before, rules) for block in range(norms.depth)]


def _high_norms(norms: Tensor, embedded: Tensor, rules: Rules) -> HighNorms:
    """High norms among norms (N, h, w), without the patches of a mask (N, h, w)."""
    high = (norms > at_factor(norms, rules.factor)) & ~embedded
    others, count = norms[~embedded], int(high.sum())
    share, images = count / high.numel(), int(high.flatten(1).any(dim=1).sum())
    enough = share >= rules.least_share or images >= rules.least_images * len(norms)
    gap = gap_above(others, count) if count else 1.0
    largest = float(others.max() / norms.median()) if len(others) else 0.0
    return HighNorms(share, images, largest, gap, count > 0 and enough and gap >= GAP)


def gap_above(norms: Tensor, count: int) -> float:
    """Ratio of the norms at the ends of the widest gap that splits off about `count` of the largest norms.

    The gap may split off from half to twice as many. At most `INSIDE` of the number above it may lie inside.

    Args:
        norms: any number of norms.
        count: at least 1.
    """
    ordered = norms.flatten().double().sort(descending=True).values
    above = torch.arange((count + 1) // 2, min(2 * count, len(ordered) - 1) + 1)
    below = above + (INSIDE * above).long()
    inside = below < len(ordered)
    ratios = ordered[above[inside] - 1] / ordered[below[inside]]
    return max(float(ratios.max()), 1.0) if len(ratios) else 1.0


def runs(high: Sequence[HighNorms]) -> list[tuple[int, int]]:
    """First and last block 1..depth of each run of neighbouring blocks with artifacts."""
    blocks = [block for block, one in enumerate(high, 1) if one.artifacts]
    breaks = [index for index, (one, other) in enumerate(pairwise(blocks), 1) if other > one + 1]
    starts, ends = [0, *breaks], [*breaks, len(blocks)]
    return [(blocks[start], blocks[end - 1]) for start, end in zip(starts, ends, strict=True) if end > start]


def verdict(model: str, high: Sequence[HighNorms], findings: Mapping[str, Finding], rules: Rules, images: int) -> str:
    """One or two sentences: whether `model` has high-norm artifacts, after which blocks, how large and frequent.

    Args:
        high: `high_norms` of the model.
        findings: findings of the rules, for the remarks on low norms and on the patch embedding.
        rules: constants of the rules.
        images: number of images.
    """
    sentence = _artifacts(model, high, rules, images) if runs(high) else _none(model, high, rules, images)
    given, low = findings["factor"].embedded, findings["low_factor"]
    if given >= rules.least_share:
        sentence += f"; {given:.2%} of patches lie above {rules.factor:g} × median already at the patch embedding"
        sentence += " and are left out"
    if low.blocks:
        most = max(low.made)
        sentence += f"; norms below median / {rules.factor:g}: {most:.2%} of patches after block "
        sentence += f"{low.made.index(most) + 1}"
    return f"{sentence}."


def _artifacts(model: str, high: Sequence[HighNorms], rules: Rules, images: int) -> str:
    blocks = [block for block, one in enumerate(high, 1) if one.artifacts]
    most = max(blocks, key=lambda block: high[block - 1].share)
    peak, last = high[most - 1], high[-1]
    parts = [
        f"{model} has high-norm artifacts after {_blocks(runs(high))} of {len(high)}: patches with norms above "
        f"{rules.factor:g} × median, a gap of {peak.gap:.1f} × below them",
        f"{_frequency(peak, images, f'after block {most}')}, up to {peak.max_over_median:.3g} × median",
    ]
    if not last.artifacts:
        parts.append("none after the last block")
    elif most < len(high):
        parts.append(_frequency(last, images, "after the last"))
    return "; ".join(parts)


def _none(model: str, high: Sequence[HighNorms], rules: Rules, images: int) -> str:
    sentence = f"{model} has no high-norm artifacts after any of its {len(high)} blocks"
    block = max(range(len(high)), key=lambda index: (high[index].share, high[index].max_over_median))
    most, where = high[block], f"after block {block + 1}"
    if not most.share:
        reach = f"the largest norm is {most.max_over_median:.3g} × median, {where}"
        return f"{sentence}: {reach}; these exceed {rules.factor:g} ×"
    few = most.share < rules.least_share and most.images < rules.least_images * images
    why = "are few" if few else f"are not apart from the others (gap {most.gap:.2f} ×, needed: {GAP:g} ×)"
    return f"{sentence}: norms above {rules.factor:g} × median {why}: {_frequency(most, images, where)}"


def _frequency(high: HighNorms, images: int, where: str) -> str:
    return f"{where} {high.share:.2%} of patches, in {high.images} of {images} images"


def _blocks(runs: Sequence[tuple[int, int]]) -> str:
    """Runs as text: `block 3`, `blocks 3–7 and 9–12`."""
    words = [str(first) if first == last else f"{first}–{last}" for first, last in runs]
    several = len(runs) > 1 or runs[0][0] < runs[0][1]
    listed = " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    return f"block{'s' * several} {listed}"
