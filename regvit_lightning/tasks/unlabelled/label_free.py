"""Scores without labels: RankMe, alpha-ReQ and LiDAR of one vector per image, DSE of the patches.

Sources: see `image_scores` and `dense_structure`. The labels of the images are not used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from regvit_lightning.data.imagenet import ImageFiles, Ordered, test_files
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import Loading, Streamed
from regvit_lightning.data.transforms import random_resized_crop
from regvit_lightning.figures import spectra
from regvit_lightning.frozen import dense, shared
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.frozen.module import cls_or_mean
from regvit_lightning.frozen.settings import ViewSettings
from regvit_lightning.frozen.shared import VectorModule
from regvit_lightning.frozen.trainer import Tester
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.runtime import seeds
from regvit_lightning.settings import check, number
from regvit_lightning.tasks.unlabelled import image_scores
from regvit_lightning.tasks.unlabelled.dense_structure import IMAGES, OF_IMAGE, StructureSums
from regvit_lightning.work import ImageCounts, Pass, Work

METRICS = {
    "rankme": Metric(better=0, unit="directions"),
    "alpha_req": Metric(better=0, unit="", decimals=2),
    "lidar": Metric(better=0, unit="directions"),
    "dse": Metric(better=0, unit="", decimals=3),
}
READS = "imagenet"
FOOTNOTE = ("warning", "view", "window", "dse_weight")
WARNING = (
    "over 16 self-supervised trainings RankMe, alpha-ReQ and LiDAR fall as dense quality rises (arXiv 2510.17299): do "
    "not read them as scores of dense features, nor compare models of different widths by them"
)
OF_VIEWS = 0  # loader of the test pass with views; the other has the images of DSE


@dataclass
class LabelFreeSettings(ViewSettings):
    """Settings of the scores without labels.

    Attributes:
        images: number of test images, evenly spread over the classes, for RankMe and alpha-ReQ.
        window: first and last rank, from 1, of the eigenvalues through which the power law of alpha-ReQ is fitted.
        objects: number of these images for LiDAR.
        views: augmented views of each of them.
        dense_images: number of these images for DSE; fewer where it is no multiple of `IMAGES`.
    """

    images: int = number("[10, 1e9]")
    window: list[int] = number("[1, 1e6]")
    objects: int = number("[10, 1e9]")
    views: int = number("[2, 1e4]")
    dense_images: int = number("[80, 1e9]")

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = len(self.window) == 2 and self.window[0] + image_scores.LEAST_EIGENVALUES <= self.window[1] + 1
        check(fits, f"window={self.window}: expected the first and the last of three ranks or more, such as [10,100]")


SETTINGS = LabelFreeSettings


class Augmented(Dataset[tuple[Tensor, int]]):
    """Data set of `views` crops of each image, one after another: (uint8 (3, size, size), index of the image).

    Args:
        files: the images.
        size: pixels.
        views: number of crops of each image, see `random_resized_crop`.
        seed: seed of the crops.
    """

    def __init__(self, files: ImageFiles, size: int, views: int, seed: int) -> None:
        self.files, self.views, self.seed = files, views, seed
        self.transform = random_resized_crop(size)

    def __len__(self) -> int:
        return len(self.files) * self.views

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = index // self.views
        with seeds.torch_drawn_from(self.seed, "view", index):
            return self.transform(self.files.open(image)), image


class LabelFree(VectorModule):
    """Validation collects the vectors of images, test those of their views, and the structure of patches by groups.

    Attributes:
        features: (N, D) vectors of the images, float32, available after validation.
        views: (n q, D) vectors of the views, image by image, available after test.
        structure: see `StructureSums`.
        patches: number of patches of an image, available after test.
    """

    shares_passes = True
    validates_on = "test images"
    features: Tensor
    views: Tensor
    patches: int

    def __init__(self, backbone: Backbone, settings: LabelFreeSettings, seed: int) -> None:
        super().__init__(backbone, settings.precision)
        self.structure = StructureSums(seed)
        self._features: list[Tensor] = []
        self._views: list[Tensor] = []
        self._waiting: list[Tensor] = []  # patches (P, D) of images that are no whole group yet

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.vectors(batch[0])[:, 0].cpu()

    def validated(self, measured: Tensor) -> None:
        self._features.append(measured)

    def on_validation_epoch_end(self) -> None:
        self.features = torch.cat(self._features)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> Any:
        tokens = self.tokens(batch[0])[0]
        if dataloader_idx == OF_VIEWS:
            return dataloader_idx, cls_or_mean(tokens).cpu()
        return dataloader_idx, tokens.patches.flatten(1, 2)

    def tested(self, measured: tuple[int, Tensor]) -> None:
        kind, values = measured
        if kind == OF_VIEWS:
            self._views.append(values)
            return
        self.patches = values.shape[1]
        self._waiting += values.unbind()
        while len(self._waiting) >= IMAGES:
            group, self._waiting = self._waiting[:IMAGES], self._waiting[IMAGES:]
            self.structure.add(torch.stack(group))

    def on_test_epoch_end(self) -> None:
        self.views, self._waiting = torch.cat(self._views), []


def work(settings: LabelFreeSettings, images: ImageCounts) -> Work:
    """Work: test images once, some of them again at random crops, and some for their patches."""
    test = images["imagenet"][1]
    counts = (min(test, own) for own in (settings.images, settings.objects, settings.dense_images))
    once, objects, patches = counts
    every = once + objects * settings.views + patches
    return Work([Pass(every, settings.crop, settings.crop)])


def run(
    backbone: Backbone,
    data: DataSettings,
    settings: LabelFreeSettings,
    how: RunOptions = RunOptions(),  # noqa: B008
) -> Outcome:
    """RankMe, alpha-ReQ and LiDAR of CLS, and DSE of the patches of the last block, after the final norm.

    Raises:
        DataError: the data is missing, incomplete or unreadable.
        SettingsError: too few images, or too few eigenvalues in `window`.
        UserError: patches that are all equal.
    """
    every = test_files(data)
    least = image_scores.GROUPS * IMAGES
    check(len(every) >= least, f"label_free needs {least} test images, there are {len(every)}")
    chosen = (settings.images, settings.objects, min(settings.dense_images, len(every)) // IMAGES * IMAGES)
    images, objects, patches = (every.subset(dense.examples(len(every), wanted)) for wanted in chosen)
    grid = settings.crop // backbone.patch_size
    check(grid**2 >= OF_IMAGE, f"crop={settings.crop}: {grid**2} patches are too few for {OF_IMAGE} clusters")
    passes: list[Dataset[tuple[Tensor, int]]] = [
        Augmented(objects, settings.crop, settings.views, how.seed),
        Ordered(patches, settings.view()),
    ]
    module, trainer = LabelFree(backbone, settings, how.seed), Tester(how)
    trainer.validate(module, shared.passes(module, settings, how, validation=[images]), verbose=False)
    trainer.test(module, Streamed(Loading(settings.workers, settings.device_batch), test=passes), verbose=False)
    return _outcome(module, settings, how.seed)


@torch.inference_mode()
def _outcome(module: LabelFree, settings: LabelFreeSettings, seed: int) -> Outcome:
    window = (settings.window[0], settings.window[1])
    views = module.views.unflatten(0, (-1, settings.views))
    law = image_scores.alpha_req(module.features, window)
    parts = module.structure.structure()
    groups = torch.arange(len(module.structure.of_groups))

    def slope(features: Tensor) -> float:
        return image_scores.alpha_req(features, (law.first, law.last)).alpha

    def structure(own: Tensor) -> float:
        return module.structure.structure(own.tolist()).dse()

    scores: dict[str, tuple[Callable[[Tensor], float], Tensor]] = {
        "rankme": (image_scores.rankme, module.features),
        "alpha_req": (slope, module.features),
        "lidar": (image_scores.lidar, views),
        "dse": (structure, groups),
    }
    more = {"dse_inter": parts.inter, "dse_intra": parts.intra, "dse_dimension": parts.dimension}
    return Outcome(
        metrics={**{name: score(images) for name, (score, images) in scores.items()}, **more},
        images=len(module.features),
        intervals={name: image_scores.interval(score, images, seed) for name, (score, images) in scores.items()},
        floors={"Gaussian noise": _noise(module, settings, seed)},
        protocol={
            "warning": WARNING,
            "view": settings.view_in_words(),
            "feature": "CLS after the final norm" if module.frozen.backbone.has_cls else "mean of patches",
            "window": f"alpha-ReQ fitted to eigenvalues {law.first} to {law.last}",
            "dse_weight": "λ = 1; make checkpoints weighs by the spread over a training, as published",
            "width": module.features.shape[1],
            "lidar_images": f"{len(views):,} images, {settings.views} random crops each",
            "dse_images": len(groups) * IMAGES,
            "intervals": f"jackknife of {image_scores.GROUPS} groups of images",
            "chosen_on": "nothing is chosen, no label is read",
        },
        picture=spectra.spectra(_spectra(module), law.first, law.last, law.alpha),
        remarks=[WARNING],
    )


def _spectra(module: LabelFree) -> dict[str, Sequence[float]]:
    """Shares of the eigenvalues of the covariance, descending, of the images' vectors and of one patch per image."""
    kinds = {"vectors of images": module.features, "one patch of each image": torch.stack(module.structure.single)}
    values = {name: image_scores.spectrum(features) for name, features in kinds.items()}
    return {name: (own / own.sum()).tolist() for name, own in values.items()}


def _noise(module: LabelFree, settings: LabelFreeSettings, seed: int) -> dict[str, float]:
    """Scores of features that hold nothing: they are high."""
    generator = seeds.generator(seed, "noise")
    features = torch.randn(module.features.shape, generator=generator)
    views = torch.randn(module.views.shape, generator=generator).unflatten(0, (-1, settings.views))
    window = (settings.window[0], settings.window[1])
    slope = image_scores.alpha_req(features, window).alpha
    scores = {"rankme": image_scores.rankme(features), "alpha_req": slope, "lidar": image_scores.lidar(views)}
    structure = StructureSums(seed)
    for _ in module.structure.of_groups:
        structure.add(torch.randn(IMAGES, module.patches, module.features.shape[1], generator=generator))
    return {**scores, "dse": structure.structure().dse()}
