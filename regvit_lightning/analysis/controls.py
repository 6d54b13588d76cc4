"""Register replacement controls: accuracy of kNN and a linear classifier when registers are replaced.

Source: Parodi et al. 2026 (arXiv 2604.14433), see `replacement.py`. All replacements are evaluated together with
the intact model in one pass, so that zeroing is never reported alone. A classifier is either that of the intact model,
which shows what a deployed head would lose, or one fitted on train images under the same replacement, which shows what
the features lose.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning import neighbours
from regvit_lightning.analysis import probes, replacement
from regvit_lightning.analysis.probes import Features, TokenSettings
from regvit_lightning.data.transforms import normalise
from regvit_lightning.frozen.module import FrozenModule, cls_or_mean
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.tokens import Tokens

INTACT = "intact"
NEIGHBOURS, TEMPERATURE = 20, 0.07  # DINOv2's kNN (dinov2/eval/knn.py)
CHUNK = 16_384  # train features compared at once


@dataclass(frozen=True)
class Effect:
    """Results under one replacement, top-1 in percent.

    Attributes:
        knn, linear: with classifiers fitted on train images under the same replacement.
        knn_kept, linear_kept: with the classifiers of the intact model.
        patch_change: mean cosine between the patches and those of the intact model, after the final norm.
    """

    knn: float
    linear: float | None
    knn_kept: float
    linear_kept: float | None
    patch_change: float


Seen = tuple[int, Tensor, dict[str, tuple[Tensor, Tensor]]]  # split, labels, and features and change by replacement


class ReplacedPass(FrozenModule):
    """Validation collects the registers of reference images; test extracts features of train, then of test images.

    Args:
        backbone, precision: as for `FrozenModule`; the model must have registers.
        seed: seed of the noise and of the assignment of reference images to images.
        mean: (1, depth, R, D), values of the kind `mean`; None takes the mean over the reference images.
    """

    validates_on = "reference images"
    shares_passes = True

    def __init__(self, backbone: Backbone, precision: str, seed: int, mean: Tensor | None = None) -> None:
        super().__init__(backbone, precision, seed)
        self._mean = mean
        self._references: list[Tensor] = []
        self._stand_ins: dict[str, Tensor] = {}
        self._features: dict[tuple[int, str], list[Tensor]] = {}  # by loader index and replacement
        self._labels: dict[int, list[Tensor]] = {}
        self._change: dict[str, list[Tensor]] = {}

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        blocks = self.tokens(batch[0], range(self.frozen.backbone.depth), norm=False)
        return torch.stack([tokens.registers for tokens in blocks], dim=1).cpu()

    def validated(self, measured: Tensor) -> None:
        self._references.append(measured)

    def on_validation_epoch_end(self) -> None:
        registers = torch.cat(self._references)
        self._stand_ins = {kind: replacement.stand_ins(kind, registers, self.seed) for kind in replacement.KINDS}
        if self._mean is not None:
            self._stand_ins["mean"] = self._mean

    def test_step(self, batch: Sequence[Tensor], batch_idx: int, dataloader_idx: int = 0) -> Any:
        images = normalise(batch[0], self.mean, self.std)
        intact, kinds = self.frozen(images)[0], dict[str, tuple[Tensor, Tensor]]()
        loaders: Any = self.trainer.test_dataloaders
        before = sum(len(loader.dataset) for loader in loaders[:dataloader_idx])
        first = before + self.first_image(batch_idx, dataloader_idx)
        for kind in (INTACT, *replacement.KINDS):
            tokens = intact if kind == INTACT else self._replaced(kind, images, first)
            kinds[kind] = cls_or_mean(tokens).cpu(), replacement.patch_change(intact, tokens).cpu()
        return dataloader_idx, batch[1].cpu(), kinds

    def tested(self, measured: Seen) -> None:
        split, labels, kinds = measured
        for kind, (features, change) in kinds.items():
            self._features.setdefault((split, kind), []).append(features)
            self._change.setdefault(kind, []).append(change)
        self._labels.setdefault(split, []).append(labels)

    def _replaced(self, kind: str, images: Tensor, first: int) -> Tokens:
        with replacement.replaced(self.frozen.backbone, self._stand_ins[kind], self.seed, first):
            tokens: Tokens = self.frozen(images)[0]
        return tokens

    def features(self, split: int, kind: str) -> Features:
        """Class features of train (split 0) or test (1) images under a replacement, after test."""
        return Features(torch.cat(self._features[split, kind])[None], torch.cat(self._labels[split]))

    def patch_change(self, kind: str) -> float:
        """Mean cosine between each patch and the same patch of the intact model, over all images."""
        return torch.cat(self._change[kind]).mean().item()


def effects(passed: ReplacedPass, settings: TokenSettings, seed: int = 0) -> dict[str, Effect]:
    """Effects with the registers unchanged (`intact`) and under each replacement.

    Args:
        passed: after validation and test.
        settings: settings of the logistic regression, whose C is chosen on the intact model.
        seed: seed of the held-out split for that choice.
    """
    intact = passed.features(0, INTACT)
    C = probes.choose(intact, settings, seed)
    kept = None if C is None else probes.regression(intact.values[0], intact.labels, C, settings)
    effects = {}
    for kind in (INTACT, *replacement.KINDS):
        train, test = passed.features(0, kind), passed.features(1, kind)
        made = kept
        if C is not None and kind != INTACT:
            made = probes.regression(train.values[0], train.labels, C, settings)
        effects[kind] = Effect(
            knn=_percent(nearest(train, test)),
            linear=None if made is None else _percent(probes.right(made, test.values[0], test.labels)),
            knn_kept=_percent(nearest(intact, test)),
            linear_kept=None if kept is None else _percent(probes.right(kept, test.values[0], test.labels)),
            patch_change=passed.patch_change(kind),
        )
    return effects


def nearest(train: Features, test: Features) -> Tensor:
    """Correctness of the kNN prediction for each test image, boolean (N,)."""
    bank, queries = (F.normalize(features.values[0], dim=1) for features in (train, test))
    k = min(NEIGHBOURS, len(bank))
    similarity, nearest = neighbours.search(queries, bank, k, CHUNK)
    votes = neighbours.votes(similarity, train.labels[nearest], k, int(train.labels.max()) + 1, TEMPERATURE)
    return votes.argmax(dim=1) == test.labels


def _percent(right: Tensor) -> float:
    return 100 * right.double().mean().item()
