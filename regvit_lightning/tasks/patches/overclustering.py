"""Segmentation by clusters of patches: k-means on the test images' patches, and each cluster gets a class.

Source: Ziegler and Asano 2022 (arXiv 2204.13101) and Pariza et al. 2024 (NeCo, arXiv 2408.11054) for overclustering,
where each of many clusters gets the class that it overlaps most; with as many clusters as classes and a one-to-one
matching it is the usual measure of unsupervised segmentation (Ji et al. 2019, arXiv 1807.06653).
"""

from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regvit_lightning.data import ade20k
from regvit_lightning.data.image_sets import IGNORED
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.squashed import Squashed
from regvit_lightning.errors import UserError
from regvit_lightning.frozen import shared_patches
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.frozen.trainer import Tester
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.runtime import hardware, seeds
from regvit_lightning.settings import MISSING, check, number
from regvit_lightning.statistics import bootstrap, ious, miou
from regvit_lightning.tasks.patches import protocol
from regvit_lightning.tasks.patches.kmeans import assigned, kmeans
from regvit_lightning.tasks.patches.label_maps import class_shares, upsampled_ids
from regvit_lightning.tasks.patches.matching import MATCHINGS, UNMATCHED
from regvit_lightning.tasks.patches.protocol import MaskedSettings, PatchModule, Scored
from regvit_lightning.tasks.segmentation import areas, constant, palette
from regvit_lightning.work import ImageCounts, Pass, Work

METRICS = {"miou": Metric(), "miou_sd": Metric(better=0), "ceiling": Metric(better=0)}
READS = protocol.READS
FOOTNOTE = ("view", "clusters", "matching", "scored_at")


@dataclass
class ClusterSettings(MaskedSettings):
    """Settings of segmentation by clusters.

    Attributes:
        clusters: k; 0 takes the number of classes.
        matching: `many_to_one` gives each cluster the class that it overlaps most, `hungarian` matches one to one.
        kmeans_seeds: number of runs of k-means, whose mIoUs are averaged.
        iterations: of k-means at most.
        points: patches that k-means sees at most, spread evenly over the images.
    """

    clusters: int = number("[0, 1e5]")
    matching: str = MISSING
    kmeans_seeds: int = number("[2, 100]")
    iterations: int = number("[1, 1e4]")
    points: int = number("[1, 1e9]")

    def __post_init__(self) -> None:
        super().__post_init__()
        known = f"matching={self.matching}: expected one of {', '.join(MATCHINGS)}"
        check(self.matching in MATCHINGS, known)


SETTINGS = ClusterSettings


class Clusters(PatchModule):
    """Validation draws patches and clusters them, test counts the pixels that clusters and classes share.

    Args:
        backbone, settings, classes: as for `PatchModule`.
        images: number of images.
        side: side of the input in pixels.
        seed: seed of the patches and of k-means.

    Attributes:
        centres: of each run of k-means (K, D), available after validation.
        shared: of each image and run the pixels that each cluster shares with each class, sparse: (n, 3) cluster, class
            and pixels; available after test.
        matched: class (K,) of the clusters of each run, -1 for none; set by `match`.
    """

    validates_on = "images to be clustered"

    def __init__(
        self, backbone: Backbone, settings: ClusterSettings, classes: int, images: int, side: int, seed: int
    ) -> None:
        super().__init__(backbone, settings, classes)
        self.settings, self.side, self.draws = settings, side, seed
        check(settings.points >= images, f"points={settings.points}: below one patch for each of {images:,} images")
        self.k = settings.clusters or classes
        self.per_image = min(settings.points // images, (side // backbone.patch_size) ** 2)
        seen = f"the {images * self.per_image:,} patches that k-means sees of {images:,} images"
        check(self.k <= images * self.per_image, f"clusters={self.k}: above {seen}")
        self._points: list[Tensor] = []
        self.centres: list[Tensor] = []
        self.matched: list[Tensor] = []
        self.shared: list[list[Tensor]] = []

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        points = []
        for patches, index in zip(self.features(batch["image"]).flatten(1, 2), batch["index"].tolist(), strict=True):
            drawn = torch.randperm(len(patches), generator=seeds.generator(self.draws, "clustered", index))
            points.append(patches[drawn[: self.per_image].to(patches.device)])
        return points

    def validated(self, measured: list[Tensor]) -> None:
        self._points += measured

    def on_validation_epoch_end(self) -> None:
        points, settings = torch.cat(self._points), self.settings
        self._points = []
        runs = range(settings.kmeans_seeds)
        self.centres = [
            kmeans(points, self.k, settings.iterations, settings.kmeans_seeds * self.draws + n) for n in runs
        ]

    def on_test_start(self) -> None:
        super().on_test_start()
        self.shared = []

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        features, pixels, measured = self.features(batch["image"]), self.pixels(batch["labels"]), []
        grids = [assigned(features.flatten(0, 2), own).view(features.shape[:3]) for own in self.centres]
        for index, mask in enumerate(batch["mask"]):
            shared = [_shared(upsampled_ids(grid[index], *mask.shape), mask, self.classes) for grid in grids]
            best = self.best_classes(pixels[index], mask)
            measured.append((shared, areas(best, mask, self.classes).cpu()))
        return measured

    def tested(self, measured: Any) -> None:
        for shared, ceiling in measured:
            self.shared.append(shared)
            self._areas.append({"ceiling": ceiling})

    def best_classes(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """Class indices at the size of a mask (H, W) where each patch (h, w, P²) has its most frequent class."""
        h, w = pixels.shape[:2]
        classes = class_shares(pixels.flatten(0, 1), self.classes).argmax(dim=1)
        return upsampled_ids(classes.view(h, w), *mask.shape)

    def match(self) -> Tensor:
        """Match the clusters of each run with classes, on all images; returns areas (images, runs, 3, classes)."""
        runs = [torch.cat([image[run] for image in self.shared]) for run in range(len(self.centres))]
        self.matched = [MATCHINGS[self.settings.matching](_dense(own, self.k, self.classes)) for own in runs]
        each = [zip(image, self.matched, strict=True) for image in self.shared]
        return torch.stack([torch.stack([_areas(*one, self.classes) for one in image]) for image in each])

    @torch.inference_mode()
    def example(self, sample: dict[str, Any]) -> np.ndarray:
        """Prediction (H, W), uint8, of the first run, at the size of the mask, of one sample of the data set."""
        features = self.features(sample["image"][None].to(self.device))[0]
        grid = assigned(features.flatten(0, 1), self.centres[0].to(self.device)).view(features.shape[:2])
        classes = self.matched[0].to(self.device)[upsampled_ids(grid, *sample["mask"].shape)]
        own: np.ndarray = classes.where(classes != UNMATCHED, IGNORED).byte().cpu().numpy()
        return own


def _shared(clusters: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Cluster, class and number of pixels (n, 3) of all pairs that occur, of cluster indices and labels (H, W)."""
    known = truth != IGNORED
    pairs, counts = (clusters[known] * classes + truth[known].long()).unique(return_counts=True)
    return torch.stack([pairs // classes, pairs % classes, counts], dim=1).cpu()


def _dense(shared: Tensor, clusters: int, classes: int) -> Tensor:
    """Pixels (clusters, classes) of all entries (n, 3)."""
    total = torch.zeros(clusters, classes, dtype=torch.long)
    return total.index_put_((shared[:, 0], shared[:, 1]), shared[:, 2], accumulate=True)


def _areas(shared: Tensor, matched: Tensor, classes: int) -> Tensor:
    """Areas (3, classes), as of `segmentation.areas`, of an image whose clusters stand for the classes `matched`."""
    predicted, truth, pixels = matched[shared[:, 0]], shared[:, 1], shared[:, 2]
    right, any_class = predicted == truth, predicted != UNMATCHED
    total = torch.zeros(3, classes, dtype=torch.long)
    total[0].index_add_(0, truth[right], pixels[right])
    total[1].index_add_(0, predicted[any_class], pixels[any_class])
    total[2].index_add_(0, truth, pixels)
    return total


def work(settings: ClusterSettings, images: ImageCounts) -> Work:
    """Work: every test image twice, to cluster its patches and to label them."""
    _, test = images[settings.section]
    return Work([Pass(2 * test, settings.size, settings.size)], kept=settings.points)


def run(
    backbone: Backbone,
    data: DataSettings,
    settings: ClusterSettings,
    how: RunOptions = RunOptions(),  # noqa: B008
) -> Outcome:
    """mIoU of clusters of patches matched with classes: mean over runs of k-means, with their standard deviation.

    Raises:
        DataError: the data is missing, incomplete or unreadable, or a mask does not fit.
        SettingsError: fewer patches than images or clusters.
        UserError: no test pixel has a label.
    """
    layout, side = data.masked_set(settings.images), settings.side(backbone)
    tested = Squashed(ade20k.masked_pairs(data, settings.images, 1), layout, side)
    module = Clusters(backbone, settings, layout.classes, len(tested), side, how.seed)
    trainer = Tester(how)
    images = shared_patches.passes(backbone, settings, how, validation=tested, test=tested)
    trainer.validate(module, images, verbose=False)
    trainer.test(module, images, verbose=False)
    module.to(hardware.accelerator()).eval()
    return _outcome(module, Scored({"miou": module.match(), **module.areas}, None, layout, tested), how.seed)


def _outcome(module: Clusters, scored: Scored, seed: int) -> Outcome:
    each, ceiling = scored.areas["miou"], scored.areas["ceiling"].sum(dim=0)
    totals = each.sum(dim=0)
    if not ceiling[2].any():
        raise UserError(f"miou is undefined: no pixel of the {len(each):,} test masks has a label")
    of_runs = [miou(total.numpy()) for total in totals]
    names = ade20k.class_names(scored.layout)
    by_class = np.mean([ious(total.numpy()) for total in totals], axis=0)
    first = Scored({"miou": each[:, 0]}, None, scored.layout, scored.test)
    return Outcome(
        metrics={
            "miou": float(np.mean(of_runs)),
            "miou_sd": float(np.std(of_runs, ddof=1)),
            "ceiling": miou(ceiling.numpy()),
        },
        images=len(each),
        intervals={"miou": bootstrap(each, seed, miou)},
        scores={"miou": each},
        protocol={**_protocol(module, of_runs), **protocol.facts(scored, module)},
        per_class={name: None if isnan(iou) else iou for name, iou in zip(names, by_class.tolist(), strict=True)},
        floors={"most frequent class": {"miou": constant(ceiling, int(ceiling[2].argmax()))["miou"]}},
        picture=protocol.picture(first, module.example, names, palette(scored.layout)),
    )


def _protocol(module: Clusters, of_runs: list[float]) -> dict[str, Any]:
    settings = module.settings
    return {
        "method": "k-means from k-means++, Euclidean",
        "feature": "patches after the final norm, as they are",
        "clusters": module.k,
        "matching": settings.matching.replace("_", " "),
        "matched_on": "the test images themselves, as published",
        "kmeans_seeds": settings.kmeans_seeds,
        "miou_of_runs": [round(value, 2) for value in of_runs],
        "patches_clustered": f"at most {module.per_image} of each test image",
        "upsampling": "bilinear, of the map of each cluster",
        "chosen": "nothing",
        "scored_at": "the masks' own size",
    }
