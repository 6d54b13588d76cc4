"""The artifact report: has this backbone high-norm tokens, from which block on, where, and what do they draw?

Source: Darcet et al. 2023 (arXiv 2309.16588), sections 2 and 3; the rules and measures stand in
`regvit_lightning/artifacts/` with their own sources. Norms are those of the residual stream before the final norm.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from regvit_lightning import figures_artifacts, figures_tokens
from regvit_lightning.artifacts import attention, collapse, outliers, positions
from regvit_lightning.artifacts.norms import NormPass, Norms
from regvit_lightning.artifacts.outliers import Finding, Rules
from regvit_lightning.backbones import Backbone
from regvit_lightning.data.imagenet import ImageNet, test_files
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import Loading
from regvit_lightning.data.transforms import centre_crop, normalise
from regvit_lightning.settings import MISSING, check
from regvit_lightning.tasks import dense
from regvit_lightning.tasks.frozen import FrozenModule, How, Metric, Outcome, TaskSettings, bootstrap, judge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {
    "outlier_share": Metric(better=-1, decimals=2),
    "outlier_share_peak": Metric(better=-1, decimals=2),
    "max_over_median": Metric(better=-1, unit="×", decimals=1),
}
READS = "imagenet"
FOOTNOTE = ("rule", "view")
SHARE_RULE = "factor"  # of Rules: needs no scale of the model and no shape of its norms


@dataclass
class Settings(TaskSettings):
    """Settings of the artifact report.

    Attributes:
        resize: short side in pixels before the central crop.
        crop: side of that crop in pixels.
        images: so many of the test images, evenly spread over the classes; norms and positions are of these.
        detailed: so many of those for attention and collapse, which need every token.
        shown: so many of those in the picture.
        rules: constants of the rules for outliers.
    """

    resize: int = MISSING
    crop: int = MISSING
    images: int = MISSING
    detailed: int = MISSING
    shown: int = MISSING
    rules: Rules = field(default_factory=Rules)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.resize >= self.crop > 0, f"resize={self.resize}, crop={self.crop}: expected resize >= crop > 0")
        order = 0 < self.shown <= self.detailed <= self.images
        check(
            order, f"shown={self.shown}, detailed={self.detailed}, images={self.images}: expected them to rise from 1"
        )


class LastBlockPass(FrozenModule):
    """Attention of the last block and collapse of its patches, given which patches are outliers there.

    Args:
        backbone, precision: as for `FrozenModule`.
        masks: (N, h, w) outliers after the last block, of the images in their order.

    Attributes:
        scores: values of each image by name, lists of (B,).
        images: uint8 (B, 3, H, W) of the batches.
        maps: attention maps of the batches, see `attention.maps`.
    """

    def __init__(self, backbone: Backbone, precision: str, masks: Tensor) -> None:
        super().__init__(backbone, precision)
        self.masks, self.first = masks, 0
        self.scores: dict[str, list[Tensor]] = {}
        self.images: list[Tensor] = []
        self.maps: list[dict[str, Tensor]] = []

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        mask = self.masks[self.first : self.first + len(batch[0])].to(self.device)
        self.first += len(batch[0])
        images = normalise(batch[0], self.mean, self.std)
        bf16 = self.frozen.precision == "bf16-mixed"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            inside = self.frozen.backbone.last_block(images)
        for name, values in self._scores(inside, mask).items():
            self.scores.setdefault(name, []).append(values.float().cpu())
        self.images.append(batch[0].cpu())
        self.maps.append({name: values.cpu() for name, values in attention.maps(inside.attention).items()})

    @staticmethod
    def _scores(inside: Any, mask: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor | None] = {"attention_entropy_cls": attention.cls_entropy(inside.attention)}
        for source, mass in attention.mass(inside.attention, mask).items():
            found[f"attention_{source}_to_outliers"] = mass.outliers
            found[f"attention_{source}_to_registers"] = mass.registers.sum(dim=1)
            found[f"attention_{source}_outlier_preference"] = attention.outlier_preference(mass, mask)
        measured = collapse.measure(inside.tokens)
        found |= {name: getattr(measured, name) for name in ("effective_rank", "patch_cosine", "cls_cosine")}
        return {name: values for name, values in found.items() if values is not None}


def run(backbone: Backbone, data: DataSettings, settings: Settings, how: How = How()) -> Outcome:  # noqa: B008
    """Norms of every block, outliers by every rule, where they sit, attention and collapse of the last block.

    Raises:
        DataError: the data is missing, incomplete or unreadable.
        UserError: the backbone has no plain attention in its last block.
    """
    every = test_files(data)
    files = every.subset(dense.examples(len(every), settings.images))
    some = files.subset(dense.examples(len(files), settings.detailed))
    view, loading = centre_crop(settings.resize, settings.crop), Loading(settings.workers, settings.device_batch)
    passing = NormPass(backbone, settings.precision)
    judge(how).test(passing, ImageNet(loading, test=[(files, view)]), verbose=False)
    norms = passing.norms
    masks = settings.rules.masks(norms.raw[:, -1])[SHARE_RULE]
    inside = LastBlockPass(backbone, settings.precision, masks[dense.examples(len(files), settings.detailed)])
    judge(how).test(inside, ImageNet(loading, test=[(some, view)]), verbose=False)
    return _outcome(backbone, norms, masks, inside, settings, how.seed)


def _outcome(
    backbone: Backbone, norms: Norms, masks: Tensor, inside: LastBlockPass, settings: Settings, seed: int
) -> Outcome:
    rules, findings = settings.rules, outliers.find(norms, settings.rules, seed)
    last, share = norms.raw[:, -1], 100 * masks.double().mean(dim=(1, 2))
    verdict, placed = outliers.verdict(backbone.name, findings), positions.place(masks, seed)
    averages = {name: _mean(torch.cat(values)) for name, values in inside.scores.items()}
    return Outcome(
        metrics={
            "outlier_share": share.mean().item(),
            "outlier_share_peak": 100 * max(findings[SHARE_RULE].shares),
            **{name: value for name, value in outliers.scalars(last, rules).items() if math.isfinite(value)},
            **{name: value for name, value in averages.items() if value is not None},
        },
        images=len(norms),
        intervals={"outlier_share": bootstrap(share, seed)},
        protocol={
            "verdict": verdict,
            "rule": f"share of patches above {rules.words()[SHARE_RULE]}, last block before the final norm",
            "view": f"resize {settings.resize}, centre crop {settings.crop}, bicubic",
            "findings": {name: {**asdict(finding), "first": finding.first} for name, finding in findings.items()},
            "massive_activations_by_block": outliers.massive(norms).any(dim=2).double().mean(dim=0).tolist(),
            "kurtosis_by_block": norms.kurtosis.mean(dim=0).tolist(),
            "placement": _placement(placed),
            "neighbours": _neighbours(norms, masks, seed),
        },
        picture=page(verdict, norms, findings, masks, placed, inside, settings),
    )


def _mean(values: Tensor) -> float | None:
    """Mean over the images that have the value; None where none has."""
    mean = values.nanmean().item()
    return mean if math.isfinite(mean) else None


def _placement(placed: positions.Placement) -> dict[str, Any]:
    return {
        "rings": placed.rings.tolist(),
        "null_rings": placed.null_rings.tolist(),
        "p_rings": placed.p_rings.tolist(),
        "gini": placed.gini if math.isfinite(placed.gini) else None,
        "p_gini": placed.p_gini,
    }


def _neighbours(norms: Norms, masks: Tensor, seed: int) -> dict[str, Any]:
    found = positions.compare_neighbours(norms.neighbours, masks, seed)
    kept = {"outliers": found.outliers, "normal": found.normal, "difference": found.difference}
    low, high = (end if math.isfinite(end) else None for end in found.interval)
    return {**{k: v if math.isfinite(v) else None for k, v in kept.items()}, "interval": [low, high]}


def page(
    verdict: str,
    norms: Norms,
    findings: dict[str, Finding],
    masks: Tensor,
    placed: positions.Placement,
    inside: LastBlockPass,
    settings: Settings,
) -> "Figure":
    """One page: norms and outliers above, attention maps of CLS and registers below."""
    from matplotlib.figure import Figure

    images = torch.cat(inside.images)
    shown = dense.examples(len(images), settings.shown)
    pictures: list[npt.NDArray[np.uint8]] = [images[place].permute(1, 2, 0).numpy() for place in shown]
    maps = {name: torch.cat([batch[name] for batch in inside.maps])[shown].numpy() for name in inside.maps[0]}
    width, height = figures_tokens.size(len(shown), 1 + len(maps))
    above = 10.0
    figure = Figure(figsize=(max(15.0, width), above + height), dpi=80, facecolor="white")
    parts: Any = figure.subfigures(2, 1, height_ratios=[above, height], hspace=0)
    top, bottom = parts
    axes = top.subplots(2, 4, gridspec_kw={"left": 0.05, "right": 0.97, "wspace": 0.32, "hspace": 0.32}).flatten()
    top.suptitle(verdict, fontsize=10, wrap=True)
    figures_artifacts.norm_histogram(axes[0], norms.raw[:, -1], settings.rules)
    figures_artifacts.norms_by_block(axes[1], norms.raw)
    figures_artifacts.shares_by_block(axes[2], findings, settings.rules.least_share)
    figures_artifacts.token_types(axes[3], norms, norms.depth)
    figures_artifacts.share_map(axes[4], placed.share)
    figures_artifacts.ring_profile(axes[5], placed)
    figures_artifacts.neighbour_densities(axes[6], norms.neighbours, masks)
    figures_artifacts.strips(axes[7], {inside.frozen.backbone.name: norms.raw[:, -1]})
    figures_tokens.attention_maps(bottom, pictures, maps, "attention of the last block, mean over heads")
    return figure
