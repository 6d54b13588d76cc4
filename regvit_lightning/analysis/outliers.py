"""Outlier patches by several rules side by side; the verdict on a model is in verdict.py.

No rule is valid for all models: a fixed cutoff fits one model, and counts by MAD and by a fixed cutoff can move in
opposite directions. Rules and their constants: the cutoff of Darcet et al. 2023 (arXiv 2309.16588, fig. 3), mean + 3 σ
of Jiang et al. 2025 (arXiv 2506.08010), median + 5 MAD and 3 × median of later replications; MAD of log norms is new
here. The low tail is included because artifacts of CLIP can have low norms. Statistics are over all patches given to a
rule.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from regvit_lightning.analysis.norms import Norms
from regvit_lightning.errors import UserError
from regvit_lightning.settings import number
from regvit_lightning.statistics import bootstrap

MASSIVE_MAGNITUDE, MASSIVE_RATIO = 100.0, 1000.0  # Sun et al. 2024 (arXiv 2402.17762), section 2

LOW = ("low_mads", "low_factor")


def at_sigmas(norms: Tensor, sigmas: float) -> Tensor:
    """Cutoff at mean + `sigmas` standard deviations; at most 1 / (1 + sigmas²) of the norms lie above (Cantelli)."""
    return norms.mean() + sigmas * norms.std(correction=0)


def at_mads(norms: Tensor, mads: float) -> Tensor:
    """Cutoff at median + `mads` times the median absolute deviation, which is not rescaled to a σ."""
    median = norms.median()
    return median + mads * (norms - median).abs().median()


def at_log_mads(norms: Tensor, mads: float) -> Tensor:
    """Cutoff as in `at_mads`, on log norms: a skewed distribution without outliers does not exceed it."""
    median = norms.median()
    ratio = torch.maximum(norms / median, median / norms).median()  # exp of the MAD of log norms, exact for 1
    return median * ratio**mads


def at_factor(norms: Tensor, factor: float) -> Tensor:
    """Cutoff at `factor` × median."""
    return factor * norms.median()


def beyond(rule: str, cutoff: float, norms: Tensor) -> Tensor:
    """Mask of the outliers by `rule`: norms above the cutoff, or below it for the rules in `LOW`."""
    return norms < cutoff if rule in LOW else norms > cutoff


@dataclass
class Rules:
    """Constants of the outlier rules.

    Attributes:
        cutoff: fixed norm; 150 is the value for DINOv2-g.
        sigmas: standard deviations above the mean.
        mads: median absolute deviations from the median, above and below, of norms and of log norms.
        factor: multiple of the median, above; its inverse is used below.
        least_share: smallest share of all patches; a rule fires after a block when at least that share are outliers
            that were none at the patch embedding, and fewer than half of all are outliers.
        least_images: smallest share of images with such an outlier: artifacts are either so frequent among the patches
            or so frequent among the images.
    """

    cutoff: float = number("(0, 1e9]", 150.0)
    sigmas: float = number("(0, 1e6]", 3.0)
    mads: float = number("(0, 1e6]", 5.0)
    factor: float = number("(1, 1e6]", 3.0)
    least_share: float = number("(0, 0.5)", 0.005)
    least_images: float = number("(0, 1]", 0.1)

    def cutoffs(self, norms: Tensor) -> dict[str, float]:
        """Cutoff of each rule for norms (N, h, w); outliers of the rules in `LOW` lie below it."""
        return {
            "cutoff": self.cutoff,
            "sigmas": float(at_sigmas(norms, self.sigmas)),
            "mads": float(at_mads(norms, self.mads)),
            "log_mads": float(at_log_mads(norms, self.mads)),
            "factor": float(at_factor(norms, self.factor)),
            "low_mads": float(at_mads(norms, -self.mads)),
            "low_factor": float(at_factor(norms, 1 / self.factor)),
        }

    def masks(self, norms: Tensor) -> dict[str, Tensor]:
        """Outlier mask of each rule for norms (N, h, w): boolean (N, h, w)."""
        return {name: beyond(name, at, norms) for name, at in self.cutoffs(norms).items()}

    def words(self) -> dict[str, str]:
        """Description of each rule for a sentence or a legend."""
        return {
            "cutoff": f"norm > {self.cutoff:g}",
            "sigmas": f"mean + {self.sigmas:g} σ",
            "mads": f"median + {self.mads:g} MAD",
            "log_mads": f"median + {self.mads:g} MAD of log norms",
            "factor": f"{self.factor:g} × median",
            "low_mads": f"median − {self.mads:g} MAD",
            "low_factor": f"median / {self.factor:g}",
        }


@dataclass(frozen=True)
class Finding:
    """Result of one outlier rule for a model.

    Attributes:
        rule: description of the rule.
        embedded: share of outliers among the patches right after the patch embedding, where high norms reflect
            the contrast of the image.
        shares: share of outliers among all patches after each block 1..depth, before the final norm.
        made: share of outliers that were none at the patch embedding, after each block: those created by the blocks.
        images: number of images with at least one of those, after each block.
        blocks: blocks after which the rule fires, 1..depth.
        peak: the first block after which the share is largest.
        interval: 95 % interval of the share after that block, by resampling images with the rule's threshold fixed.
    """

    rule: str
    embedded: float
    shares: list[float]
    made: list[float]
    images: list[int]
    blocks: list[int]
    peak: int
    interval: tuple[float, float]

    @property
    def first(self) -> int | None:
        """First block after which the rule fires; None if it never does."""
        return self.blocks[0] if self.blocks else None


def require_usable(norms: Norms) -> None:
    """Raise unless the norms of all patches are finite and most are positive: a comparison with NaN is never true.

    Raises:
        UserError: says how many norms are not finite, and where the first of them are.
    """
    stages = {"at the patch embedding": norms.embedded}
    stages |= {f"after block {block + 1}": norms.raw[:, block] for block in range(norms.depth)}
    stages["after the final norm"] = norms.patches[:, -1]
    for where, values in stages.items():
        bad = int((~values.isfinite()).sum())
        if bad:
            count = f"{bad:,} of {values.numel():,} norms of patches {where} are not finite"
            raise UserError(f"{count}: the weights or the images hold NaN or infinite values; nothing can be said")
        if not values.median() > 0:
            raise UserError(f"the median norm of patches {where} is 0: the weights are not those of a working model")


def find(norms: Norms, rules: Rules, seed: int = 0) -> dict[str, Finding]:
    """Findings of every rule, by its name in `Rules.masks`; `seed` is that of the bootstrap.

    Raises:
        UserError: a norm is not finite, or the median is 0.
    """
    require_usable(norms)
    embedded = rules.masks(norms.embedded)
    by_block = [rules.masks(norms.raw[:, block]) for block in range(norms.depth)]
    return {
        name: _finding(words, embedded[name], torch.stack([masks[name] for masks in by_block], dim=1), rules, seed)
        for name, words in rules.words().items()
    }


def _finding(rule: str, embedded: Tensor, masks: Tensor, rules: Rules, seed: int) -> Finding:
    """Finding from masks (N, h, w) at the patch embedding and (N, depth, h, w) after the blocks."""
    per_image = masks.double().mean(dim=(2, 3))
    shares = per_image.mean(dim=0).tolist()
    of_blocks = masks & ~embedded[:, None]
    made = of_blocks.double().mean(dim=(2, 3)).mean(dim=0).tolist()
    fires = [new >= rules.least_share and share < 0.5 for new, share in zip(made, shares, strict=True)]
    peak = shares.index(max(shares))
    return Finding(
        rule=rule,
        embedded=float(embedded.double().mean()),
        shares=shares,
        made=made,
        images=of_blocks.any(dim=3).any(dim=2).sum(dim=0).tolist(),
        blocks=[block for block, fired in enumerate(fires, 1) if fired],
        peak=peak + 1,
        interval=bootstrap(per_image[:, peak], seed),
    )


def scalars(norms: Tensor, rules: Rules) -> dict[str, float]:
    """Threshold-free statistics of norms (N, h, w): tails relative to the median, bimodality, widest gap."""
    values = norms.flatten().double()
    median = float(values.median())
    below, above = gap(norms, rules.least_share)
    return {
        "max_over_median": float(values.max()) / median,
        "p99_over_median": float(values.kthvalue(-(-99 * len(values) // 100)).values) / median,
        "min_over_median": float(values.min()) / median,
        "bimodality": bimodality(norms),
        "gap_ratio": above / below,
        "gap_cutoff": (below * above) ** 0.5,
    }


def bimodality(norms: Tensor) -> float:
    """Sarle's coefficient of the log norms, in (0, 1]: 5/9 for a uniform distribution, 1 for two values.

    (skewness² + 1) / (excess kurtosis + 3 (n - 1)² / ((n - 2) (n - 3))), with the sample-size corrections of Pfister
    et al. 2013 (Frontiers in Psychology 4:700). It needs n > 3; equal norms give 0.
    """
    values = norms.flatten().double().log()
    n, centred = len(values), values - values.mean()
    m2, m3, m4 = (centred.pow(power).mean().item() for power in (2, 3, 4))
    if m2 < 1e-18:  # rounding errors only
        return 0.0
    skewness = m3 / m2**1.5 * (n * (n - 1)) ** 0.5 / (n - 2)
    excess = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * (m4 / m2**2 - 3) + 6)
    return (skewness**2 + 1) / (excess + 3 * (n - 1) ** 2 / ((n - 2) * (n - 3)))


def gap(norms: Tensor, least_share: float) -> tuple[float, float]:
    """The widest empty stretch of norms above the median on a log axis: the norms at its two ends.

    At least `least_share` of all norms lie above it, so that a single patch makes no gap. With a second mode
    this is the gap of fig. 3, and a cutoff for this model lies inside. If the tail is too short, both ends are the
    largest norm.
    """
    ordered = norms.flatten().double().sort().values
    half, end = len(ordered) // 2, len(ordered) - max(int(least_share * len(ordered) + 0.999999), 1)
    if end < half + 1:
        return float(ordered[-1]), float(ordered[-1])
    tail = ordered[half : end + 1]
    widest = int((tail[1:] / tail[:-1]).argmax())
    return float(tail[widest]), float(tail[widest + 1])


def massive(norms: Norms) -> Tensor:
    """Mask of images with a massive activation, boolean (N, S, 3) by stage and by CLS, registers and patches.

    An activation is massive if above 100 and at least 1000 × the median |activation| of the image (Sun et al. 2024,
    arXiv 2402.17762).
    """
    return (norms.largest > MASSIVE_MAGNITUDE) & (norms.largest >= MASSIVE_RATIO * norms.median[..., None])


def massive_share(norms: Norms) -> Tensor:
    """Share of images with a massive activation in a patch after each block, (depth,)."""
    return massive(norms)[:, :-1, -1].double().mean(dim=0)
