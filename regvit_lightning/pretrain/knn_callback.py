"""kNN accuracy on held-out train images during pretraining: an early measure of how well features separate classes.

At regular intervals the backbone embeds the same train images. A fifth of them is held out and classified by nearest
neighbours among the rest, with the method of `imagenet_knn`; the labels are used for nothing else.
"""

from collections.abc import Iterator
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from regvit_lightning.data.imagenet import ImageFiles
from regvit_lightning.data.images import Transform, open_readable
from regvit_lightning.data.transforms import centre_crop
from regvit_lightning.data.workers import worker_options
from regvit_lightning.neighbours import search, votes
from regvit_lightning.pretrain.periodic import Periodic
from regvit_lightning.pretrain.preserved import preserved
from regvit_lightning.runtime import seeds
from regvit_lightning.settings import check

HELD_OUT = 5  # one in five images is held out
LEAST = 2 * HELD_OUT  # minimum number of images; with fewer, nothing is measured
NEIGHBOURS, TEMPERATURE = 10, 0.07


class HeldOutKnn(Periodic):
    """Logs `monitor/knn_top1` (percent) every `every` steps and at the first and last step.

    The images are split over all devices. The measurement leaves training unaffected: it uses random generators of its
    own and changes neither the weights nor the train/eval mode of any module.

    Args:
        every: steps between two measurements.
        images: maximum number of train images.
        batch: images per forward pass on one device.
        workers: data-loading processes per device.

    Raises:
        SettingsError: too few images.
        TrainingStopped: a loss or a weight is not finite (while training).
    """

    def __init__(self, every: int, images: int, batch: int, workers: int) -> None:
        check(images >= LEAST, f"monitor_images={images}: kNN on held-out images needs at least {LEAST}")
        super().__init__(every)
        self.images, self.batch, self.workers = images, batch, workers

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step > 0:  # resumed: this step was measured before the checkpoint was written
            self.done = trainer.global_step
        super().on_train_start(trainer, pl_module)

    def applies(self, trainer: Trainer) -> bool:
        return len(_files(trainer)) >= LEAST

    def at_step(self, trainer: Trainer, recipe: Any, step: int) -> None:
        values = self.measure(trainer, recipe, _files(trainer))
        if trainer.logger is not None:
            trainer.logger.log_metrics(values, step)

    def measure(self, trainer: Trainer, recipe: Any, files: ImageFiles) -> dict[str, float]:
        """Current metrics of `recipe` on images of `files`, by name."""
        order = torch.randperm(len(files), generator=seeds.generator(recipe.seed, "monitor"))[: self.images]
        drawn = order[: len(order) // trainer.world_size * trainer.world_size]
        mine = files.subset(drawn[trainer.global_rank :: trainer.world_size].tolist())
        eager = torch.compiler.set_stance("force_eager")  # compiled blocks would be recompiled for these shapes
        with preserved(recipe), torch.no_grad(), trainer.precision_plugin.forward_context(), eager:
            recipe.eval()
            parts = [{"label": labels, **self.look(recipe, images)} for images, labels in self._batches(mine, recipe)]
        seen = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        if trainer.world_size > 1:  # restore the order of a single device
            seen = {name: recipe.all_gather(value).transpose(0, 1).flatten(0, 1) for name, value in seen.items()}
        return self.summary(seen, len(files.classes))

    def look(self, recipe: Any, images: Tensor) -> dict[str, Tensor]:
        """Per-image outputs for a batch of uint8 images (B, 3, H, W), by name.

        Returns:
            `cls` (B, D), unit vectors: CLS, or the mean of the patches of a model without it.
        """
        tokens = recipe(images)
        cls = tokens.cls if tokens.cls is not None else tokens.patches.mean(dim=(1, 2))
        return {"cls": F.normalize(cls.float(), dim=1)}

    def summary(self, seen: dict[str, Tensor], classes: int) -> dict[str, float]:
        """Metrics by name, from the outputs of `look` for all images of all devices and their `label` (N,)."""
        return {"monitor/knn_top1": knn_top1(seen["cls"], seen["label"], classes)}

    def _batches(self, files: ImageFiles, recipe: Any) -> Iterator[tuple[Tensor, Tensor]]:
        size = recipe.settings.image_size
        view = centre_crop(round(size * 256 / 224), size)
        # A separate generator keeps the loader from drawing from the global one, which training uses.
        own = seeds.generator(recipe.seed, "monitor", "loader")
        images = _Readable(files, view)
        options = worker_options(self.workers, lambda: images[0], self.batch, recipe.trainer)
        loader = DataLoader(images, self.batch, generator=own, **options)
        for images, labels in loader:
            yield images.to(recipe.device), labels.to(recipe.device)


def _files(trainer: Trainer) -> Any:
    """Train images of the data module; data modules of users need not have `files`."""
    return getattr(trainer.datamodule, "files", ())  # type: ignore[attr-defined]


class _Readable(Dataset[tuple[Tensor, int]]):
    """Data set of every image once, in order; an unreadable image, which training skips, is replaced by the next."""

    def __init__(self, files: ImageFiles, transform: Transform) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        image, index, _ = open_readable(self.files, self.files.open, number)
        return self.transform(image), int(self.files.labels[index])


def knn_top1(features: Tensor, labels: Tensor, classes: int) -> float:
    """kNN accuracy in percent: every fifth image is held out and classified by its neighbours among the others.

    Args:
        features: (N, D) unit vectors, N at least 10.
        labels: (N,) class indices.
        classes: number of classes.
    """
    held = torch.arange(len(features), device=features.device) % HELD_OUT == 0
    neighbours = min(NEIGHBOURS, int((~held).sum()))
    similarity, index = search(features[held], features[~held], neighbours, 1 << 16)
    near = labels[~held][index]
    right = votes(similarity, near, neighbours, classes, TEMPERATURE).argmax(dim=1) == labels[held]
    return 100 * float(right.float().mean())
