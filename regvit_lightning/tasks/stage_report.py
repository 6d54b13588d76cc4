"""Artifact report of a convolutional or hierarchical model: the maps of its stages in place of the tokens of blocks.

`artifact_report.run` hands such models over. Nothing is published for ConvNeXt or Swin; the rules are those of plain
ViTs (Darcet et al. 2023, arXiv 2309.16588), and what else may raise norms is measured beside: `analysis/stages.py`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from regvit_lightning.analysis import outliers, probes, stage_report, verdict
from regvit_lightning.analysis.outliers import Rules
from regvit_lightning.analysis.probes import Features, ProbeScore, TokenSettings
from regvit_lightning.analysis.stage_report import Border, StageReport
from regvit_lightning.analysis.stages import StageNorms, StagePass
from regvit_lightning.data.imagenet import ImageFiles
from regvit_lightning.frozen import dense
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.models.feature_maps import FeatureMaps, replicate_padding
from regvit_lightning.models.tokens import Tokens

Over = Callable[..., None]  # runs the test pass of a module over each of some image files


class CellPass(FrozenModule):
    """Draws cells of the last map, after the norm that follows it, and the mean of the map of train and test images.

    Args:
        backbone, precision, seed: as for `FrozenModule`.
        outliers: maps norms (B, h, w) before that norm to a mask.
        settings: settings of the probes.
    """

    shares_passes = True

    def __init__(
        self,
        backbone: FeatureMaps,
        precision: str,
        outliers: Callable[[Tensor], Tensor],
        settings: TokenSettings,
        seed: int,
    ) -> None:
        super().__init__(backbone, precision, seed)
        self.outliers, self.settings = outliers, settings
        self._drawn = [list[dict[str, Features]](), list[dict[str, Features]]()]

    def test_step(self, batch: Sequence[Tensor], batch_idx: int, dataloader_idx: int = 0) -> Any:
        images, labels = batch
        norms = self.tokens(images, norm=False)[0].patches.norm(dim=-1)
        cells = self.tokens(images)[0].patches
        tokens = Tokens(cells.mean(dim=(1, 2)), cells[:, :0, 0], cells)
        first = self.first_image(batch_idx, dataloader_idx)
        drawn = probes.single_tokens(tokens, norms, self.outliers(norms), labels, first, self.settings, self.seed)
        return dataloader_idx, stage_report.renamed(drawn)

    def tested(self, measured: tuple[int, dict[str, Features]]) -> None:
        self._drawn[measured[0]].append(measured[1])

    def contents(self) -> dict[str, ProbeScore | None]:
        """Top-1 of each kind, available after test."""
        train, test = (probes.joined(batches) for batches in self._drawn)
        return {name: probes.classify(train[name], test[name], self.settings, self.seed) for name in train}


def measure(backbone: FeatureMaps, precision: str, files: ImageFiles, over: Over) -> list[StageNorms]:
    """Norms of every stage for the images `files`."""
    module = StagePass(backbone, precision)
    over(module, files)
    return module.stages


def build(
    backbone: FeatureMaps,
    precision: str,
    images: Tensor,
    side: int,
    files: tuple[ImageFiles, ImageFiles],
    rules: Rules,
    rule: str,
    tokens: TokenSettings,
    shown: list[int],
    detailed: list[int],
    seed: int,
    over: Over,
) -> StageReport:
    """The report of a model.

    Args:
        images: (n, 3, H, W) uint8, the pictures of the images `shown`.
        side: of the images in pixels.
        files: train and test images.
        rules, rule: outlier rules and the one analysed in detail.
        tokens: settings of the probe.
        shown, detailed: indices of test images in the pictures, and of those that are measured with replicate padding.
        over: runs the test pass of a module over each of some files.

    Raises:
        UserError: images of a size that the model does not take, or norms that are not finite.
    """
    train, test = files
    measured = measure(backbone, precision, test, over)
    cutoffs = [rules.cutoffs(stage.before)[rule] for stage in measured]
    masks = [outliers.beyond(rule, at, stage.before) for stage, at in zip(measured, cutoffs, strict=True)]
    classes, has_outliers = len(train.classes) > 1, bool(masks[-1].any())
    contents: dict[str, ProbeScore | None] = {}
    if classes and has_outliers:
        probe = CellPass(backbone, precision, partial(outliers.beyond, rule, cutoffs[-1]), tokens, seed)
        over(probe, train, test)
        contents = probe.contents()
    return StageReport(
        model=backbone.name,
        side=side,
        any_size=backbone.any_size,
        rules=rules,
        rule=rule,
        seed=seed,
        stages=measured,
        findings=stage_report.stage_findings(measured, rules, seed),
        high=[verdict.high_norms(stage.as_block, rules)[0] for stage in measured],
        masks=masks,
        neighbours=stage_report.neighbours(measured, masks, seed),
        windows=stage_report.window_profiles(measured, backbone.windows(), seed),
        border=_border(backbone, precision, test.subset(detailed), rules, rule, over),
        contents=contents,
        images=images,
        shown=shown,
    )


def _border(
    backbone: FeatureMaps, precision: str, files: ImageFiles, rules: Rules, rule: str, over: Over
) -> Border | None:
    """Compare zero with replicate padding; None for a model whose convolutions do not pad."""
    with replicate_padding(backbone.model) as convolutions:
        if not convolutions:
            return None
        other = measure(backbone, precision, files, over)
    return stage_report.border(convolutions, measure(backbone, precision, files, over), other, rules, rule)


def pictures(files: ImageFiles, view: Callable[..., Tensor], shown: Sequence[int]) -> Tensor:
    """Pictures (n, 3, H, W) uint8 of the images `shown`."""
    return torch.stack([view(files.open(index)) for index in shown])


def examples(count: int, detailed: int, shown: int) -> tuple[list[int], list[int]]:
    """Indices of the images in the pictures, and of those in detail, of `count` images."""
    return dense.examples(count, shown), dense.examples(count, detailed)
