"""Results of the artifact report for one model, and their summary for the record."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from regvit_lightning.analysis import outliers, questions, verdict
from regvit_lightning.analysis.contents import Contents
from regvit_lightning.analysis.controls import Effect
from regvit_lightning.analysis.cost import Cost
from regvit_lightning.analysis.defects import DefectCosines
from regvit_lightning.analysis.diversity import NORMED, RAW, Diversity
from regvit_lightning.analysis.last_block import LastBlockPass
from regvit_lightning.analysis.locality import Locality
from regvit_lightning.analysis.norms import Norms
from regvit_lightning.analysis.outliers import Finding, Rules
from regvit_lightning.analysis.plain import plain, quantiles
from regvit_lightning.analysis.positions import Neighbours, Placement
from regvit_lightning.analysis.questions import Answer
from regvit_lightning.analysis.sinks import SinkPass
from regvit_lightning.analysis.verdict import HighNorms

STRIP = 200  # quantiles of the norms after the last block stored in a record, evenly over the ranks
LEVELS = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)  # quantile levels of the norms after every block


@dataclass(frozen=True)
class ArtifactReport:
    """The analysis of one model on one set of images.

    Attributes:
        model: its name.
        rules: constants of the outlier rules.
        rule: name of the rule whose outliers are analysed in detail.
        seed: seed of the bootstrap over images.
        norms: norms of all images.
        mean_registers: (depth, R, D), mean of each register over the images after every block.
        diversity: of the registers of the last block; None for fewer than two registers.
        findings: findings by rule.
        high, low: patches of high and of low norm after each block.
        masks: (N, h, w) outliers by `rule` after the last block.
        placement, neighbours: positions of the outliers and similarity to their neighbours.
        shown: indices of the images in the pictures.
        inside: attention and collapse of some of the images.
        sinks: attention sinks of the same images.
        locality: what patches share with their image, CLS and their position, after every block.
        defects: cosines of the patches to the singular direction after every block.
        contents: scores of the probes.
        effects: effects of replacing registers, empty for a model without them.
        costs: cost of registers.
    """

    model: str
    rules: Rules
    rule: str
    seed: int
    norms: Norms
    mean_registers: Tensor
    diversity: Diversity | None
    findings: Mapping[str, Finding]
    high: Sequence[HighNorms]
    low: Sequence[HighNorms]
    masks: Tensor
    placement: Placement
    neighbours: Neighbours
    shown: list[int]
    inside: LastBlockPass
    sinks: SinkPass
    locality: Locality
    defects: DefectCosines
    contents: Contents
    effects: Mapping[str, Effect]
    costs: list[Cost]

    @cached_property
    def answers(self) -> list[Answer]:
        """Answers to the three questions, see `questions.py`."""
        words = verdict.verdict(self.model, self.high, self.findings, self.rules, len(self.norms))
        registers, cls = self.norms.registers.shape[2], self.norms.cls is not None
        return [
            questions.norms(self.high, self.low, words),
            questions.sinks(self.sinks, registers, cls, self.rules, self.seed),
            questions.locality(self.locality),
        ]

    @property
    def verdict(self) -> str:
        """The three answers, a sentence or two each: artifacts, sinks, locality."""
        return " ".join(answer.words for answer in self.answers)

    @property
    def last(self) -> Tensor:
        """Norms (N, h, w) after the last block, before the final norm."""
        return self.norms.raw[:, -1]

    def metrics(self) -> dict[str, float]:
        """Scalar metrics of the model; those that do not apply are omitted."""
        values = {
            "outlier_share": 100 * self.masks.double().mean().item(),
            "outlier_share_peak": 100 * max(self.findings[self.rule].shares),
            **outliers.scalars(self.last, self.rules),
            **{name: scores.nanmean().item() for name, scores in self.inside.scores.items()},
            **(self.diversity.metrics() if self.diversity else {}),
            **{name: counts.mean().item() for name, counts in self.sinks.per_image().items()},
            **{f"{name}_variance": 100 * share[-1].item() for name, share in self.locality.shares().items()},
            "mean_cosine": self.locality.mean_cosine[:, -1].mean().item(),
        }
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def register_scores(self) -> dict[str, Tensor]:
        """Per-image scores of the diversity of registers, by metric; empty for fewer than two registers."""
        if self.diversity is None:
            return {}
        maps = {name: scores for name, scores in self.inside.scores.items() if name.startswith("register_")}
        return {**self.diversity.scores, **maps}

    def facts(self) -> dict[str, Any]:
        """Further results for the record, as plain values; None for missing ones."""
        facts: dict[str, Any] = plain(
            {
                "verdict": self.verdict,
                "questions": [asdict(answer) for answer in self.answers],
                "artifact_blocks": verdict.runs(self.high),
                "high_norms_by_block": [asdict(one) for one in self.high],
                "low_norms_by_block": [asdict(one) for one in self.low],
                "sinks": self._sinks(),
                "locality_by_block": self._locality(),
                "singular_defects": self._defects(),
                "findings": {
                    name: {**asdict(finding), "first": finding.first} for name, finding in self.findings.items()
                },
                "massive_activations_by_block": outliers.massive(self.norms).any(dim=2).double().mean(dim=0).tolist(),
                "kurtosis_by_block": self.norms.kurtosis.mean(dim=0).tolist(),
                "norms_by_block": self._norms_by_block(),
                "norm_of_mean_register_by_block": self.mean_registers.norm(dim=-1).tolist(),
                **self._diversity(),
                "norms_of_last_block": quantiles(self.last, torch.linspace(0, 1, STRIP)),
                "placement": {name: getattr(self.placement, name) for name in ("gini", "null_gini", "p_gini")}
                | {name: getattr(self.placement, name).tolist() for name in ("rings", "null_rings", "p_rings")},
                "neighbours": asdict(self.neighbours),
                **self._held(),
                "register_replacement": {kind: asdict(effect) for kind, effect in self.effects.items()},
                "cost": [asdict(cost) for cost in self.costs],
            }
        )
        return facts | ({"attention_left_out": self.inside.left_out} if self.inside.left_out else {})

    def _diversity(self) -> dict[str, Any]:
        """Cosines of registers and divergences of their maps, (R, R) each; empty for fewer than two registers."""
        between = self.inside.divergences
        if self.diversity is None or between is None:
            return {}
        kinds = {"": self.diversity.cosines[NORMED], "_raw": self.diversity.cosines[RAW]}
        found: dict[str, Any] = {f"register_cosines{kind}": values.tolist() for kind, values in kinds.items()}
        return {**found, "register_divergences": between.tolist()}

    def _norms_by_block(self) -> dict[str, Any]:
        """Quantiles of the norms after each block 1..depth and after the final norm, by kind of token."""
        norms, levels = self.norms, torch.tensor(LEVELS)
        kinds: dict[str, Tensor] = {"patches": norms.patches}
        if norms.cls is not None:
            kinds["CLS"] = norms.cls
        kinds |= {f"reg_{index}": values for index, values in enumerate(norms.registers.unbind(dim=2))}
        stages = range(norms.depth + 1)
        by_stage = {kind: [quantiles(values[:, stage], levels) for stage in stages] for kind, values in kinds.items()}
        return {"levels": list(LEVELS), **by_stage}

    def _sinks(self) -> dict[str, Any]:
        """Sinks per image in each block 1..depth, and the largest error of a rebuilt block; or why there are none."""
        sinks = self.sinks.sinks
        if sinks is None:
            return {"why_not": self.sinks.why_not}
        masks = {"events": sinks.events, "NOP": sinks.nop, "broadcast": sinks.broadcast}
        by_block = {name: mask.double().sum(dim=2).mean(dim=0).tolist() for name, mask in masks.items()}
        on = sinks.on(self.norms.registers.shape[2], self.norms.cls is not None)
        heads = sinks.token.shape[2]
        return {"images": len(sinks), "heads": heads, "error": sinks.error, "by_block": by_block, "on": on}

    def _locality(self) -> dict[str, Any]:
        """Locality after each block 1..depth and after the final norm."""
        measured = self.locality
        to_cls = None if measured.cls_cosine is None else measured.cls_cosine.mean(dim=0).tolist()
        by_dimension = [quantiles(one.nan_to_num(), torch.tensor(LEVELS)) for one in measured.position]
        return {
            "mean_cosine": measured.mean_cosine.mean(dim=0).tolist(),
            "cls_cosine": to_cls,
            "variance": {name: share.tolist() for name, share in measured.shares().items()},
            "position_by_dimension": {"levels": list(LEVELS), "quantiles": by_dimension},
        }

    def _defects(self) -> dict[str, Any]:
        """Share of defects and mean |cosine| of patches of high norm and others, by block; or why there are none."""
        defects = self.defects.defects()
        if defects is None:
            return {"why_not": self.defects.why_not}
        high, others = defects.mean_cosines(self.high_masks)
        return {"shares": defects.shares(), "cosine_of_high_norms": high, "cosine_of_others": others}

    @property
    def high_masks(self) -> Tensor:
        """Patches above `Rules.factor` × the median after each block, boolean (N, depth, h, w)."""
        blocks = self.norms.raw.unbind(dim=1)
        return torch.stack([one > outliers.at_factor(one, self.rules.factor) for one in blocks], dim=1)

    def _held(self) -> dict[str, Any]:
        tokens = {name: score and score.facts() for name, score in self.contents.tokens.items()}
        local = {name: getattr(self.contents, name) for name in ("position", "pixels")}
        scores = {name: {kind: s and asdict(s) for kind, s in by_kind.items()} for name, by_kind in local.items()}
        return {"single_tokens": tokens, **scores}
