"""Artifacts of a backbone on a handful of images, from Python: `regvit_lightning.artifacts(backbone, images)`."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from regvit_lightning.analysis import norms as norm_measures
from regvit_lightning.analysis import outliers
from regvit_lightning.analysis import verdict as verdicts
from regvit_lightning.analysis.norms import Norms
from regvit_lightning.analysis.outliers import Finding, Rules
from regvit_lightning.errors import UserError
from regvit_lightning.models.backbone import Backbone


@dataclass(frozen=True)
class Artifacts:
    """High-norm patches of N images in a backbone of `depth` blocks.

    Attributes:
        norms: of every kind of token after every block, before the final norm.
        outliers: boolean (N, h, w), patches above the rule's cutoff after the last block.
        findings: finding of each rule, by its name in `Rules.masks`.
        verdict: whether there are artifacts, after which blocks, how large and how frequent: see `verdict.verdict`.
    """

    norms: Norms
    outliers: Tensor
    findings: Mapping[str, Finding]
    verdict: str


def artifacts(
    backbone: Backbone, images: Tensor, *, rules: Rules | None = None, rule: str = "factor", device_batch: int = 16
) -> Artifacts:
    """Measure the artifacts of `backbone` on `images` (Darcet et al. 2023, arXiv 2309.16588, section 2).

    Args:
        backbone: backbone as returned by `regvit_lightning.load_backbone`.
        images: (N, 3, H, W) float, normalised as `backbone.transform` does; H and W multiples of the patch size.
        rules: constants of the outlier rules.
        rule: name of the rule that marks `outliers`, see `Rules.words`.
        device_batch: images per forward pass of the backbone.

    Raises:
        UserError: no batch of images, an unknown rule, an image size that the model does not accept, or norms that
            are not finite.
    """
    rules = rules or Rules()
    if images.dim() != 4 or not len(images):
        raise UserError(f"images: expected (N, 3, H, W) with N > 0, got {tuple(images.shape)}")
    if rule not in rules.words():
        raise UserError(f"rule={rule}: expected one of {', '.join(rules.words())}")
    norms = norm_measures.join([norm_measures.measure(backbone, part) for part in images.split(device_batch)])
    findings = outliers.find(norms, rules)
    masks = rules.masks(norms.raw[:, -1])[rule]
    high = verdicts.high_norms(norms, rules)
    return Artifacts(norms, masks, findings, verdicts.verdict(backbone.name, high, findings, rules, len(images)))
