"""Logistic regression from one token of each image: CLS, the mean patch, a normal patch, an outlier, each register.

Source: Darcet et al. 2023 (arXiv 2309.16588), section 2.2, Tables 1 and 6, on twelve sets, ImageNet and Places205; the
regression is DINOv2's (`analysis/token_scores.py`). The paper does not say how it treats images without an outlier.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from regvit_lightning.analysis import class_measures, outliers, probes, token_scores
from regvit_lightning.analysis.contents import OutlierMask
from regvit_lightning.analysis.outliers import Rules
from regvit_lightning.analysis.probes import Features, TokenSettings
from regvit_lightning.analysis.token_scores import Labelled, TokenScore
from regvit_lightning.data.classified import ClassifiedImages, Split, classified_images
from regvit_lightning.data.classified_set import MEASURES
from regvit_lightning.data.imagenet import Ordered
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import Loading, Streamed
from regvit_lightning.data.transforms import normalise
from regvit_lightning.errors import UserError
from regvit_lightning.figures import token_scores as figures_tokens
from regvit_lightning.frozen import dense
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.frozen.last_patches import LastPatches
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.frozen.settings import ViewSettings
from regvit_lightning.frozen.trainer import Tester
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.settings import MISSING, check, number
from regvit_lightning.statistics import accuracy_by_class, constant_accuracy
from regvit_lightning.work import ImageCounts, Pass, Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {"score": Metric(), "score_mean_patch": Metric()}
READS = "classified"
FOOTNOTE = ("measure", "C_chosen_on", "rule", "view")
MEAN_PATCH = "mean patch"


@dataclass
class LogisticSettings(ViewSettings):
    """Settings of logistic regression.

    Attributes:
        images: name of a set of images with classes.
        rule: rule whose outliers after the last block are the outlier tokens.
        rules: constants of the outlier rules.
        norm_images: number of train images, evenly spread, whose norms give the rule's cutoff.
        tokens: the values of C, the draws of a token, the held-out share of a set without a held-out split.
    """

    images: str = MISSING
    rule: str = MISSING
    rules: Rules = field(default_factory=Rules)
    norm_images: int = number("[1, 1e7]")
    tokens: TokenSettings = field(default_factory=TokenSettings)

    @property
    def named_set(self) -> str:
        return self.images

    def __post_init__(self) -> None:
        super().__post_init__()
        rules = self.rules.words()
        check(self.rule in rules, f"rule={self.rule}: expected one of {', '.join(rules)}")


SETTINGS = LogisticSettings


class NormPass(FrozenModule):
    """A pass that keeps the norms (N, h, w) of patches after the last block, before the final norm."""

    shares_passes = True
    norms: Tensor

    def __init__(self, backbone: Backbone, precision: str) -> None:
        super().__init__(backbone, precision)
        self.read, self._rows = LastPatches(self.frozen), list[Tensor]()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        return self.read(normalise(batch[0], self.mean, self.std))[1]

    def tested(self, measured: Tensor) -> None:
        self._rows.append(measured)

    def on_test_epoch_end(self) -> None:
        self.norms = torch.cat(self._rows)


class TokenPass(FrozenModule):
    """A pass over the splits of a set that keeps one token of each kind and image.

    Args:
        backbone, precision, seed: see `FrozenModule`.
        outliers: maps norms to a mask of the outlier patches.
        settings: draws, and what stands in for a missing outlier.
        splits: number of splits.

    Attributes:
        features: for each split by kind of token, with the indices of the images as labels; available after test.
    """

    shares_passes = True
    features: list[dict[str, Features]]

    def __init__(
        self, backbone: Backbone, precision: str, outliers: OutlierMask, settings: TokenSettings, splits: int, seed: int
    ) -> None:
        super().__init__(backbone, precision, seed)
        self.outliers, self.settings, self.read = outliers, settings, LastPatches(self.frozen)
        self._batches: list[list[dict[str, Features]]] = [[] for _ in range(splits)]

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> Any:
        tokens, norms = self.read.tokens(normalise(batch[0], self.mean, self.std))
        norms = norms.to(batch[0].device)
        first, indices = self.first_image(batch_idx, dataloader_idx), batch[1].cpu()
        drawn = probes.single_tokens(tokens, norms, self.outliers(norms), indices, first, self.settings, self.seed)
        mean = tokens.patches.mean(dim=(1, 2))[None].cpu()
        return dataloader_idx, {**drawn, MEAN_PATCH: Features(mean, indices)}

    def tested(self, measured: tuple[int, dict[str, Features]]) -> None:
        self._batches[measured[0]].append(measured[1])

    def on_test_epoch_end(self) -> None:
        self.features = [probes.joined(batches) for batches in self._batches]
        self._batches = []


def work(settings: LogisticSettings, images: ImageCounts) -> Work:
    """Work: every image once, and some for the cutoff of outliers."""
    total = sum(images[settings.images])
    return Work([Pass(total + min(settings.norm_images, total), settings.crop, settings.crop)])


def run(backbone: Backbone, data: DataSettings, settings: LogisticSettings, how: RunOptions = RunOptions()) -> Outcome:  # noqa: B008
    """Score of each kind of token on the test images, with C chosen on held-out ones.

    Raises:
        DataError: the data is missing, incomplete or unreadable.
    """
    images, measure = classified_images(data, settings.images), data.classified_set(settings.images).measure
    cutoff = _cutoff(backbone, images.train, settings, how)
    mask = partial(outliers.beyond, settings.rule, cutoff)
    splits = images.splits()
    module = TokenPass(backbone, settings.precision, mask, settings.tokens, len(splits), how.seed)
    _pass(module, splits, settings, how)
    scores = {
        name: _score(name, module.features, images, measure, settings.tokens, how.seed) for name in module.features[0]
    }
    if scores[MEAN_PATCH] is None:
        few = "fewer than two classes are left in train, or no image is held out"
        raise UserError(f"{settings.images}: nothing to learn: {few}; give more images")
    return _outcome(backbone, scores, images, measure, cutoff, settings, how.seed)


def _pass(module: FrozenModule, splits: Sequence[Split], settings: LogisticSettings, how: RunOptions) -> None:
    loading = Loading(settings.workers, settings.device_batch)
    every = [Ordered(split, settings.view()) for split in splits]  # type: ignore[arg-type]
    Tester(how).test(module, Streamed(loading, test=every), verbose=False)


def _cutoff(backbone: Backbone, train: Split, settings: LogisticSettings, how: RunOptions) -> float:
    """Norm beyond which a patch is an outlier by the rule; without a pass where it is fixed."""
    if settings.rule == "cutoff":
        return settings.rules.cutoff
    module = NormPass(backbone, settings.precision)
    _pass(module, [train.subset(dense.examples(len(train), settings.norm_images))], settings, how)
    return settings.rules.cutoffs(module.norms)[settings.rule]


def _score(
    name: str,
    features: Sequence[dict[str, Features]],
    images: ClassifiedImages,
    measure: str,
    settings: TokenSettings,
    seed: int,
) -> TokenScore | None:
    parts = [
        Labelled(one[name].values, torch.tensor(split.targets[one[name].labels.numpy()]))
        for one, split in zip(features, images.splits(), strict=True)
    ]
    held_out = parts[1] if len(parts) == 3 else None
    return token_scores.score(parts[0], held_out, parts[-1], measure, len(images.classes), settings, seed)


def _outcome(
    backbone: Backbone,
    scores: dict[str, TokenScore | None],
    images: ClassifiedImages,
    measure: str,
    cutoff: float,
    settings: LogisticSettings,
    seed: int,
) -> Outcome:
    known = {name: one for name, one in scores.items() if one is not None}
    metrics, of_metric = _metrics(known, backbone.has_cls), _named(known, backbone.has_cls)
    whole = known["CLS" if backbone.has_cls else MEAN_PATCH]
    return Outcome(
        metrics=metrics,
        images=len(images.test),
        intervals={
            name: class_measures.interval(measure, one.logits, one.targets, seed) for name, one in of_metric.items()
        },
        scores={name: one.image_scores for name, one in of_metric.items() if one.image_scores is not None},
        per_class=_per_class(whole, images.classes, measure),
        floors=_floors(images.test, measure, len(images.classes)),
        protocol={
            "single_tokens": {name: one and one.facts() for name, one in scores.items()},
            "measure": MEASURES[measure],
            "C_chosen_on": _chosen_on(images, settings),
            "C_candidates": len(settings.tokens.exponents),
            "rule": settings.rules.words()[settings.rule],
            "cutoff": cutoff,
            "without_outlier": probes.WITHOUT_OUTLIER[settings.tokens.without_outlier],
            "view": settings.view_in_words(),
            "classes": len(images.classes),
        },
        picture=_picture(known, images, measure, seed),
    )


def _chosen_on(images: ClassifiedImages, settings: LogisticSettings) -> str:
    if images.held_out is not None:
        return f"the set's own held-out split, {len(images.held_out):,} images"
    return f"{settings.tokens.held_out:.0%} of {len(images.train):,} train images, held out"


def _named(known: dict[str, TokenScore], has_cls: bool) -> dict[str, TokenScore]:
    """The scores of tokens that every image has, by metric: CLS, or else the mean patch, is `score`."""
    return {"score": known["CLS" if has_cls else MEAN_PATCH], "score_mean_patch": known[MEAN_PATCH]}


def _metrics(known: dict[str, TokenScore], has_cls: bool) -> dict[str, float]:
    metrics = {name: one.mean for name, one in _named(known, has_cls).items()}
    metrics |= {f"score_{name}": known[name].mean for name in ("normal", "outlier") if name in known}
    registers = [one.mean for name, one in known.items() if name.startswith("reg_")]
    return {**metrics, "score_register": fmean(registers)} if registers else metrics


def _per_class(score: TokenScore, classes: Sequence[str], measure: str) -> dict[str, float | None]:
    if measure != "map":
        right = class_measures.image_scores("top1", score.logits, score.targets)
        return accuracy_by_class(right, score.targets, classes)
    values = class_measures.average_precisions(score.logits, score.targets).tolist()
    return {name: None if np.isnan(one) else one for name, one in zip(classes, values, strict=True)}


def _floors(test: Split, measure: str, classes: int) -> dict[str, dict[str, float]]:
    """Scores without looking at the images: all logits equal, and the most frequent class for top-1."""
    targets = torch.tensor(test.targets)
    if measure == "map":
        constant = class_measures.value("map", torch.zeros_like(targets), targets)
        return {"chance": dict.fromkeys(METRICS, constant)}
    floors = {"chance": dict.fromkeys(METRICS, 100 / classes)}
    if measure == "top1":
        floors["most frequent class"] = dict.fromkeys(METRICS, constant_accuracy(targets))
    return floors


def _picture(known: dict[str, TokenScore], images: ClassifiedImages, measure: str, seed: int) -> "Figure":
    floor = max(one["score"] for one in _floors(images.test, measure, len(images.classes)).values())
    rows: dict[str, Any] = {
        name: (one.mean, class_measures.interval(measure, one.logits, one.targets, seed), len(one.targets))
        for name, one in known.items()
    }
    return figures_tokens.scores_of_tokens(rows, MEASURES[measure], floor)
