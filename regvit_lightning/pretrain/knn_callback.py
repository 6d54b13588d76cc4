"""kNN on held-out train images while a backbone is pretrained: whether its features tell classes apart already.

Every so many steps the backbone sees the same train images. A fifth of them is held out and classified by its
neighbours among the rest, as `imagenet_knn` does afterwards; the labels are used for nothing else.
"""

from collections.abc import Iterator
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from regvit_lightning.data.imagenet import ImageFiles
from regvit_lightning.data.images import Transform, open_readable
from regvit_lightning.data.transforms import centre_crop
from regvit_lightning.neighbours import search, votes
from regvit_lightning.pretrain.preserved import preserved
from regvit_lightning.runtime import seeds
from regvit_lightning.settings import check

HELD_OUT = 5  # one image of so many
LEAST = 2 * HELD_OUT  # images, below which nothing is measured
NEIGHBOURS, TEMPERATURE = 10, 0.07


class HeldOutKnn(Callback):
    """Logs `monitor/knn_top1` (percent) every so many steps, at the first and at the last one.

    All devices take part, each with its share of the images. Nothing is drawn from the generators of the training, and
    no weight and no mode of a module is changed.

    Args:
        every: steps between two measurements.
        images: at most so many train images.
        batch: images at once on one device.
        workers: decoding processes of each device.

    Raises:
        SettingsError: too few images.
    """

    def __init__(self, every: int, images: int, batch: int, workers: int) -> None:
        check(images >= LEAST, f"monitor_images={images}: kNN on held-out images needs at least {LEAST}")
        self.every, self.images, self.batch, self.workers = every, images, batch, workers
        self.measured = -1  # the last step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step > 0:  # continued; that step was measured before the checkpoint
            self.measured = trainer.global_step
        self._when_due(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._when_due(trainer, pl_module)

    def _when_due(self, trainer: Trainer, recipe: Any) -> None:
        step = trainer.global_step
        due = step % self.every == 0 or step == trainer.max_steps
        # A step has several batches where gradients are accumulated.
        # Data modules of users have no files of ours.
        files: Any = getattr(trainer.datamodule, "files", ())  # type: ignore[attr-defined]
        if not due or step <= self.measured or len(files) < LEAST:
            return
        self.measured = step
        values = self.measure(trainer, recipe, files)
        if trainer.logger is not None:
            trainer.logger.log_metrics(values, step)

    def measure(self, trainer: Trainer, recipe: Any, files: ImageFiles) -> dict[str, float]:
        """Curves of `recipe` as it is now on images of `files`, by name."""
        order = torch.randperm(len(files), generator=seeds.generator(recipe.seed, "monitor"))[: self.images]
        drawn = order[: len(order) // trainer.world_size * trainer.world_size]
        mine = files.subset(drawn[trainer.global_rank :: trainer.world_size].tolist())
        eager = torch.compiler.set_stance("force_eager")  # compiled blocks would be compiled anew for these shapes
        with preserved(recipe), torch.no_grad(), trainer.precision_plugin.forward_context(), eager:
            recipe.eval()
            parts = [{"label": labels, **self.look(recipe, images)} for images, labels in self._batches(mine, recipe)]
        seen = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        if trainer.world_size > 1:  # in the order of one device
            seen = {name: recipe.all_gather(value).transpose(0, 1).flatten(0, 1) for name, value in seen.items()}
        return self.summary(seen, len(files.classes))

    def look(self, recipe: Any, images: Tensor) -> dict[str, Tensor]:
        """What is kept of a batch of uint8 images (B, 3, H, W), by name: `cls` (B, D), unit vectors."""
        return {"cls": F.normalize(recipe(images).cls.float(), dim=1)}

    def summary(self, seen: dict[str, Tensor], classes: int) -> dict[str, float]:
        """Curves by name, of what `look` kept of all images of all devices and their `label` (N,)."""
        return {"monitor/knn_top1": knn_top1(seen["cls"], seen["label"], classes)}

    def _batches(self, files: ImageFiles, recipe: Any) -> Iterator[tuple[Tensor, Tensor]]:
        size = recipe.settings.image_size
        view = centre_crop(round(size * 256 / 224), size)
        # The generator of its own keeps the loader from drawing a number from that of the training.
        own = seeds.generator(recipe.seed, "monitor", "loader")
        loader = DataLoader(_Readable(files, view), self.batch, num_workers=self.workers, generator=own)
        for images, labels in loader:
            yield images.to(recipe.device), labels.to(recipe.device)


class _Readable(Dataset[tuple[Tensor, int]]):
    """Every image once, in order; one that cannot be read, which training leaves out, is replaced by the next."""

    def __init__(self, files: ImageFiles, transform: Transform) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        image, index, _ = open_readable(self.files, number)
        return self.transform(image), int(self.files.labels[index])


def knn_top1(features: Tensor, labels: Tensor, classes: int) -> float:
    """Percent of the held-out images, every fifth, whose neighbours among the others vote for their class.

    Args:
        features: (N, D) unit vectors, N at least 10.
        labels: (N,) class numbers.
        classes: how many there are.
    """
    held = torch.arange(len(features), device=features.device) % HELD_OUT == 0
    neighbours = min(NEIGHBOURS, int((~held).sum()))
    similarity, index = search(features[held], features[~held], neighbours, 1 << 16)
    near = labels[~held][index]
    right = votes(similarity, near, neighbours, classes, TEMPERATURE).argmax(dim=1) == labels[held]
    return 100 * float(right.float().mean())
