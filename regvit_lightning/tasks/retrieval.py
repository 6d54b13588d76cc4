"""Retrieval of landmarks: images are ranked by the cosine of one frozen vector each to that of a cropped query.

Source: Radenović et al. 2018 (arXiv 1803.11285) for sets, grades and scores; without training as by DINO (Caron et al.
2021, arXiv 2104.14294, section 4.2.1) and DINOv2 (arXiv 2304.07193, table 9).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.data.images import open_image
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import Loading
from regvit_lightning.data.retrieval import Landmarks, Query, RetrievalModule, Views, landmarks, sizes_read
from regvit_lightning.data.transforms import normalise
from regvit_lightning.figures import rankings
from regvit_lightning.frozen import dense
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.frozen.module import FrozenModule, cls_or_mean
from regvit_lightning.frozen.settings import TaskSettings
from regvit_lightning.frozen.trainer import Tester
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.runtime import seeds
from regvit_lightning.settings import MISSING, check, number
from regvit_lightning.statistics import bootstrap
from regvit_lightning.tasks import retrieval_scores
from regvit_lightning.work import ImageCounts, Pass, Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {"map_medium": Metric(), "map_hard": Metric(of_all=False)}
READS = "retrieval"
FOOTNOTE = ("feature", "view", "junk")
POWER, LEAST = 3.0, 1e-6  # of generalised mean pooling, as published for retrieval (Radenović et al. 2017, 1711.02512)
RANDOM_ORDERS, RANDOM_PLACES = 100, 20_000_000  # of the floor at most: orders, and places in all of them together
SHOWN = 5  # images of a ranking in the picture


def gem(tokens: Tokens) -> Tensor:
    """Generalised mean (B, D) of the patches, dimension by dimension; negative values count as `LEAST`."""
    return tokens.patches.clamp(min=LEAST).pow(POWER).mean(dim=(1, 2)).pow(1 / POWER)


def mean_patch(tokens: Tokens) -> Tensor:
    """Mean (B, D) of the patches."""
    return tokens.patches.mean(dim=(1, 2))


FEATURES: dict[str, Callable[[Tokens], Tensor]] = {"cls": cls_or_mean, "mean": mean_patch, "gem": gem}
WORDS = {"cls": "CLS", "mean": "mean of the patches", "gem": f"generalised mean of the patches, p = {POWER:g}"}


@dataclass
class RetrievalSettings(TaskSettings):
    """Settings of retrieval.

    Attributes:
        images: name of the set, see `DataSettings.retrieval`.
        side: pixels of the longer side of an image at most, in whole patches; smaller ones are not enlarged.
        scales: sizes at which each image is read, relative to `side`; the unit vectors of all are averaged.
        feature: `cls`, `mean` or `gem`, see `FEATURES`: that of the metrics; the two others are measured beside it.
    """

    images: str = MISSING
    side: int = number("[1, 1e4]")
    scales: list[float] = number("(0, 4]")
    feature: str = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.feature in FEATURES, f"feature={self.feature}: expected one of {', '.join(FEATURES)}")
        check(len(self.scales) > 0, "scales: expected a list such as [1]")

    @property
    def named_set(self) -> str:
        """Name of the set."""
        return self.images


SETTINGS = RetrievalSettings


def work(settings: RetrievalSettings, images: ImageCounts) -> Work:
    """Work: every query and image once at each scale, as photographs of 3 : 4."""
    sides = [round(settings.side * scale) for scale in settings.scales]
    count = images[settings.images][0]
    return Work([Pass(count, round(side * 3 / 4), side) for side in sides], kept=len(FEATURES) * count)


class Retrieval(FrozenModule):
    """Embeds queries and images.

    Args:
        backbone, settings: source of the features, and settings of the task.
        count: queries and images together.

    Attributes:
        vectors: by name of the feature, (count, D) unit vectors on the CPU, filled by test.
    """

    shares_passes = True

    def __init__(self, backbone: Backbone, settings: RetrievalSettings, count: int) -> None:
        super().__init__(backbone, settings.precision)
        self.settings = settings
        self.vectors = {name: torch.zeros(count, backbone.embed_dim) for name in FEATURES}

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        images, index = batch
        sums = {name: torch.zeros(len(images), vectors.shape[1]) for name, vectors in self.vectors.items()}
        for scale in self.settings.scales:
            tokens = self.frozen(self.scaled(normalise(images, self.mean, self.std), scale))[0]
            for name, pooled in FEATURES.items():
                sums[name] += F.normalize(pooled(tokens), dim=1).cpu()
        return index.cpu(), sums

    def tested(self, measured: tuple[Tensor, dict[str, Tensor]]) -> None:
        index, sums = measured
        for name, vectors in sums.items():
            self.vectors[name][index] = vectors

    def scaled(self, images: Tensor, scale: float) -> Tensor:
        """Images (B, 3, h, w) at another scale, bilinear, in whole patches and at least one."""
        patch = self.frozen.backbone.patch_size
        height, width = (max(round(side * scale / patch), 1) * patch for side in images.shape[-2:])
        if (height, width) == images.shape[-2:]:
            return images
        return F.interpolate(images, (height, width), mode="bilinear", align_corners=False)

    def on_test_epoch_end(self) -> None:
        self.vectors = {name: F.normalize(vectors, dim=1) for name, vectors in self.vectors.items()}


def ranked(vectors: Tensor, queries: int) -> np.ndarray:
    """Indices of the images (queries, images) by falling cosine, equal ones in the order of the images.

    Args:
        vectors: (queries + images, D) unit vectors, queries first.
    """
    similarity = vectors[:queries] @ vectors[queries:].T
    return similarity.argsort(dim=1, descending=True, stable=True).numpy()


def scored(found: Landmarks, order: np.ndarray) -> dict[str, np.ndarray]:
    """Scores (Q,) of each query by metric, from the rankings (Q, images)."""
    each = [retrieval_scores.graded(own, query) for own, query in zip(order, found.queries, strict=True)]
    return {name: np.array([one[name] for one in each]) for name in each[0]}


def run(
    backbone: Backbone,
    data: DataSettings,
    settings: RetrievalSettings,
    how: RunOptions = RunOptions(),  # noqa: B008
) -> Outcome:
    """mAP and mean precision at 1, 5 and 10 of all queries, at the levels easy, medium and hard.

    Raises:
        SettingsError: the data has no such set.
        DataError: the set is missing, incomplete or unreadable; or no query has a relevant image.
        UserError: a size that the backbone does not support.
    """
    found = landmarks(data, settings.images)
    if backbone.any_size:
        sizes = sizes_read(found, settings.side, backbone.patch_size)
    else:
        sizes = np.full((len(found), 2), backbone.image_size)
    module = Retrieval(backbone, settings, len(found))
    loading = Loading(settings.workers, settings.device_batch)
    views = RetrievalModule(loading, Views(found, sizes), backbone.patch_size)
    Tester(how).test(module, views, verbose=False)
    return _outcome(module, found, how.seed)


def _outcome(module: Retrieval, found: Landmarks, seed: int) -> Outcome:
    settings, queries = module.settings, len(found.queries)
    orders = {name: ranked(vectors, queries) for name, vectors in module.vectors.items()}
    by_feature = {name: scored(found, order) for name, order in orders.items()}
    own = by_feature.pop(settings.feature)
    names = [name for name in METRICS if np.isfinite(own[name]).any()]  # without hard where nothing is graded as hard
    check(len(names) > 0, f"{settings.images}: no query has a relevant image, easy or hard")
    others = {
        f"{metric}_{name}": value
        for name, scores in by_feature.items()
        for metric, value in retrieval_scores.means(scores).items()
        if metric in METRICS
    }
    kept = {name: torch.from_numpy(own[name]) for name in names}
    return Outcome(
        metrics={**retrieval_scores.means(own), **others},
        images=queries,
        intervals={name: bootstrap(values[values.isfinite()], seed) for name, values in kept.items()},
        scores=kept,
        floors={"random order": _random(found, seed)},
        protocol={
            "feature": _in_words(module),
            "view": _view(module),
            "junk": "taken out of each ranking; mAP by the trapezoidal rule, as published",
            "images": settings.images,
            "images_searched": len(found.images),
            "queries_with_hard": int(np.isfinite(own["map_hard"]).sum()),
            "intervals_over": "queries",
            "chosen_on": "nothing is chosen",
        },
        picture=_picture(found, orders[settings.feature], own["map_medium"]),
    )


def _in_words(module: Retrieval) -> str:
    name, backbone = module.settings.feature, module.frozen.backbone
    words = WORDS["mean"] if name == "cls" and not backbone.has_cls else WORDS[name]
    return f"{words} after the final norm, L2-normalised, cosine"


def _view(module: Retrieval) -> str:
    settings, backbone = module.settings, module.frozen.backbone
    scales = ", ".join(f"{scale:.3g}" for scale in settings.scales)
    if not backbone.any_size:
        return f"squares of {backbone.image_size} px, the only size of this model, at scales {scales}"
    return f"longer side at most {settings.side} px, whole patches, at scales {scales}; queries cropped to their box"


def _random(found: Landmarks, seed: int) -> dict[str, float]:
    """Mean scores of random orders of the images."""
    random = np.random.default_rng(seeds.derive(seed, "random order"))
    count = min(max(RANDOM_PLACES // (len(found.queries) * len(found.images)), 1), RANDOM_ORDERS)
    orders = (np.stack([random.permutation(len(found.images)) for _ in found.queries]) for _ in range(count))
    each = [retrieval_scores.means(scored(found, order)) for order in orders]
    return {name: float(np.mean([one[name] for one in each])) for name in METRICS if name in each[0]}


def _picture(found: Landmarks, order: np.ndarray, scores: np.ndarray) -> "Figure":
    """The queries with the worst, the median and the best average precision, and what is found first."""
    rows = []
    chosen = dense.by_score(scores.tolist(), better=1)
    for name, index in chosen.items():
        query, first = found.queries[index], order[index][:SHOWN]
        pictures: list[Any] = [np.asarray(open_image(found.images[image])) for image in first]
        grades = [_grade(query, int(image)) for image in first]
        searched = open_image(query.file)
        cropped: Any = np.asarray(searched if query.box is None else searched.crop(query.box))
        title = f"AP {scores[index]:.0f} % at medium, {name} of {int(np.isfinite(scores).sum()):,} queries"
        rows.append(rankings.Row(title, cropped, pictures, grades))
    return rankings.rankings(rows)


def _grade(query: Query, image: int) -> str:
    return next((grade for grade in ("easy", "hard", "junk") if image in getattr(query, grade)), rankings.OTHER)
