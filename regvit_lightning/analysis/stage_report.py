"""Results of the artifact report for a convolutional or hierarchical model: its verdict, metrics and facts by stage."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from regvit_lightning.analysis import outliers, positions, verdict
from regvit_lightning.analysis.outliers import Finding, Rules
from regvit_lightning.analysis.plain import plain, quantiles
from regvit_lightning.analysis.positions import Neighbours
from regvit_lightning.analysis.probes import Features, ProbeScore
from regvit_lightning.analysis.stages import FEW_CELLS, StageNorms, WindowProfile, ring_profile, window_profile
from regvit_lightning.analysis.verdict import HighNorms

LEVELS = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)  # quantile levels of the norms of every stage
SEAM = 0.02  # steps of the norm at window seams from which on the verdict names them


@dataclass(frozen=True)
class Border:
    """The same images with zero and with replicate padding, each list by stage.

    Attributes:
        convolutions: number of convolutions whose padding was replaced.
        zeros, replicate: (K,) mean norm relative to the median by distance from the border.
        share_zeros, share_replicate: share of outliers by the rule, each with the cutoff of its own norms.
    """

    convolutions: int
    zeros: list[Tensor]
    replicate: list[Tensor]
    share_zeros: list[float]
    share_replicate: list[float]


@dataclass(frozen=True)
class StageReport:
    """The analysis of one model on one set of images.

    Attributes:
        model: its name.
        side: side of the images in pixels.
        any_size: whether it takes larger images, too.
        rules, rule, seed: as in the report of a plain ViT.
        stages: norms of every stage for all images.
        findings: findings by rule over the stages: what a block is there, is a stage here.
        high: high norms of each stage, on which the verdict rests.
        masks: (N, h, w) outliers by `rule` in each stage, before the norm that follows it.
        neighbours: similarity to the neighbours in the stem of outliers and others of each stage.
        windows: profile over attention windows of each stage; None where there are none, or fewer than two a side.
        border: comparison of paddings on some of the images; None for a model whose convolutions do not pad.
        contents: class from one cell of the last map, by `mean` of the map, `normal` and `outlier` cell; empty if not
            measured.
        images: pictures (3, H, W) uint8 of the images `shown`, indices into all.
    """

    model: str
    side: int
    any_size: bool
    rules: Rules
    rule: str
    seed: int
    stages: list[StageNorms]
    findings: Mapping[str, Finding]
    high: list[HighNorms]
    masks: list[Tensor]
    neighbours: list[Neighbours]
    windows: list[WindowProfile | None]
    border: Border | None
    contents: Mapping[str, ProbeScore | None]
    images: Tensor
    shown: list[int]

    @property
    def worst(self) -> int:
        """Index of the stage with most artifacts; of that with the largest norm, if there are none."""
        order = [(one.artifacts, one.share if one.artifacts else one.max_over_median) for one in self.high]
        return max(range(len(order)), key=lambda index: order[index])

    @property
    def verdict(self) -> str:
        """Whether maps have artifacts, in which stages, how large and frequent; and what else may be behind them."""
        parts = [self._artifacts() if any(one.artifacts for one in self.high) else self._none()]
        given = self.findings["factor"].embedded
        if given >= self.rules.least_share:
            parts.append(f"{given:.2%} of cells lie above {self.rules.factor:g} × median already in the stem")
        if self.border is not None and self.high[self.worst].artifacts:
            zeros, other = self.border.share_zeros[self.worst], self.border.share_replicate[self.worst]
            parts.append(f"with replicate padding in place of zeros {other:.2%} of cells instead of {zeros:.2%}")
        parts += [self._seam(stage, profile) for stage, profile in enumerate(self.windows, 1) if profile is not None]
        return "; ".join(part for part in parts if part) + "." + self._few()

    def _artifacts(self) -> str:
        stages = [str(stage) for stage, one in enumerate(self.high, 1) if one.artifacts]
        most, several, factor = self.high[self.worst], "s" * (len(stages) > 1), self.rules.factor
        listed = " and ".join([", ".join(stages[:-1]), stages[-1]] if len(stages) > 1 else stages)
        return (
            f"{self.model} has artifacts in the map{several} of stage{several} {listed} of {len(self.high)}: cells "
            f"with norms above {factor:g} × median, a gap of {most.gap:.1f} × below them; in stage {self.worst + 1} "
            f"{most.share:.2%} of cells, in {most.images} of {len(self.stages[0])} images, up to "
            f"{most.max_over_median:.3g} × median"
        )

    def _none(self) -> str:
        sentence = f"{self.model} has no artifacts in the maps of its {len(self.high)} stages"
        most, stage = self.high[self.worst], self.worst + 1
        if not most.share:
            reach = f"the largest norm is {most.max_over_median:.3g} × median, in stage {stage}"
            return f"{sentence}: {reach}; artifacts exceed {self.rules.factor:g} ×"
        few = most.share < self.rules.least_share and most.images < self.rules.least_images * len(self.stages[0])
        why = (
            "are few"
            if few
            else f"are not apart from the others (gap {most.gap:.2f} ×, artifacts have {verdict.GAP} ×)"
        )
        where = f"in stage {stage} {most.share:.2%} of cells, in {most.images} of {len(self.stages[0])} images"
        return f"{sentence}: norms above {self.rules.factor:g} × median {why}: {where}"

    def _seam(self, stage: int, profile: WindowProfile) -> str:
        phase = max(range(profile.size), key=lambda index: abs(profile.contrast[index]))
        step, (low, high) = profile.contrast[phase], profile.intervals[phase]
        if abs(step) < SEAM or low <= 0 <= high:
            return ""
        place = "at window seams" if phase == 0 else f"{phase} cells from window seams"
        window = f"{profile.size} × {profile.size} in stage {stage}"
        return f"norms step by {step:+.1%} [{low:+.1%}, {high:+.1%}] {place} of {window}"

    def _few(self) -> str:
        """Warning of maps in which a single cell is a large share, with the remedy; empty if there are none."""
        small = [
            (number, stage.grid) for number, stage in enumerate(self.stages, 1) if math.prod(stage.grid) < FEW_CELLS
        ]
        if not small:
            return ""
        listed = ", ".join(f"{rows} × {columns} in stage {number}" for number, (rows, columns) in small)
        advice = 'ARGS="resize=512 crop=512"' if self.any_size else "a model for larger images"
        if self.side >= 512:
            return f" Few cells, {listed}, even at {self.side} px: shares there are coarse."
        return f" Few cells at {self.side} px, {listed}: shares there are coarse; give {advice}."

    def metrics(self) -> dict[str, float]:
        """Scalar metrics; those of the last stage have the names that they have for the last block of a ViT."""
        last = self.stages[-1].before
        values = {
            "outlier_share": 100 * self.masks[-1].double().mean().item(),
            "outlier_share_peak": 100 * max(self.findings[self.rule].shares),
            **outliers.scalars(last, self.rules),
        }
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def facts(self) -> dict[str, Any]:
        """Further results for the record, as plain values; None for missing ones."""
        facts: dict[str, Any] = plain(
            {
                "verdict": self.verdict,
                "artifact_stages": [number for number, one in enumerate(self.high, 1) if one.artifacts],
                "stages": [self._stage(index) for index in range(len(self.stages))],
                "findings": {name: {**asdict(one), "first": one.first} for name, one in self.findings.items()},
                "replicated_convolutions": self.border.convolutions if self.border is not None else 0,
                "single_tokens": {name: score and score.facts() for name, score in self.contents.items()},
            }
        )
        return facts

    def _stage(self, index: int) -> dict[str, Any]:
        stage, border, profile = self.stages[index], self.border, self.windows[index]
        after, levels = stage.after, torch.tensor(LEVELS, dtype=torch.float64)
        return {
            "grid": list(stage.grid),
            **asdict(self.high[index]),
            "norms": {
                "levels": list(LEVELS),
                "before": quantiles(stage.before, levels),
                "stem": quantiles(stage.stem, levels),
                **({} if after is None else {"after": quantiles(after, levels)}),
            },
            "outlier_share_after_norm": None if after is None else self._share_after(after),
            "neighbours": asdict(self.neighbours[index]),
            "rings": ring_profile(stage.before).tolist(),
            "padding": border
            and {
                "rings_zeros": border.zeros[index].tolist(),
                "rings_replicate": border.replicate[index].tolist(),
                "outlier_share_zeros": border.share_zeros[index],
                "outlier_share_replicate": border.share_replicate[index],
            },
            "windows": profile and {**asdict(profile), "profile": profile.profile.tolist()},
        }

    def _share_after(self, after: Tensor) -> float:
        return float(self.rules.masks(after)[self.rule].double().mean())


def stage_findings(stages: Sequence[StageNorms], rules: Rules, seed: int) -> dict[str, Finding]:
    """Findings of every rule over the stages; `embedded` is the share in the stem, as the last stage pools it.

    Raises:
        UserError: a norm is not finite, or the median is 0.
    """
    parts = [outliers.find(stage.as_block, rules, seed) for stage in stages]
    return {name: _over_stages([part[name] for part in parts]) for name in rules.words()}


def _over_stages(parts: Sequence[Finding]) -> Finding:
    shares = [part.shares[0] for part in parts]
    peak = shares.index(max(shares))
    return Finding(
        rule=parts[0].rule,
        embedded=parts[-1].embedded,
        shares=shares,
        made=[part.made[0] for part in parts],
        images=[part.images[0] for part in parts],
        blocks=[stage for stage, part in enumerate(parts, 1) if part.blocks],
        peak=peak + 1,
        interval=parts[peak].interval,
    )


def border(
    convolutions: int, zeros: Sequence[StageNorms], other: Sequence[StageNorms], rules: Rules, rule: str
) -> Border:
    """Compare the norms of the same images with zero and with replicate padding."""

    def shares(stages: Sequence[StageNorms]) -> list[float]:
        return [float(rules.masks(stage.before)[rule].double().mean()) for stage in stages]

    before, after = ([ring_profile(stage.before) for stage in stages] for stages in (zeros, other))
    return Border(convolutions, before, after, shares(zeros), shares(other))


def window_profiles(
    stages: Sequence[StageNorms], windows: Sequence[tuple[int, int] | None], seed: int
) -> list[WindowProfile | None]:
    """Profiles over the windows (side, shift) of each stage; None where there are none or too few."""
    pairs = zip(stages, windows, strict=True)
    return [None if window is None else window_profile(stage.before, window, seed) for stage, window in pairs]


def neighbours(stages: Sequence[StageNorms], masks: Sequence[Tensor], seed: int) -> list[Neighbours]:
    """Similarity to the neighbours in the stem of the outliers and the other cells of each stage."""
    pairs = zip(stages, masks, strict=True)
    return [positions.compare_neighbours(stage.neighbours, mask, seed) for stage, mask in pairs]


def renamed(features: Mapping[str, Features]) -> dict[str, Features]:
    """Features of single tokens whose CLS is the mean of the map, under that name."""
    return {"mean" if name == "CLS" else name: values for name, values in features.items()}
