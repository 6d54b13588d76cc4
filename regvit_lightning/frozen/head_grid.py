"""A grid of classifiers on one frozen backbone: how it is trained, and what every head predicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regvit_lightning.data.imagenet import ImageFiles, ImageNet
from regvit_lightning.data.module import Loading, Streamed
from regvit_lightning.data.stream import Stream
from regvit_lightning.data.transforms import random_resized_crop
from regvit_lightning.frozen import kept, shared
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.frozen.settings import ClassificationSettings
from regvit_lightning.frozen.shared import Vector, VectorModule
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.settings import number
from regvit_lightning.work import ImageCounts, Pass, Work


@dataclass
class HeadGridSettings(ClassificationSettings):
    """Settings of the probes that train many heads in one pass.

    Attributes:
        steps: optimiser steps.
        batch_size: images per step over all devices.
        augment: train on random resized crops, as published; otherwise on the evaluation view of each image, whose
            features or tokens are computed once.
    """

    steps: int = number("[1, 1e9]")
    batch_size: int = number("[1, 1e5]")
    augment: bool = True

    def train_view_in_words(self, computed: str) -> str:
        """Description of the train view for the record; `computed` names what the heads read."""
        if self.augment:
            return f"random resized crop {self.crop}, scale 0.08-1, flip, bicubic"
        return f"as the test view, without augmentation; {self.steps} steps on {computed} that are computed once"

    def work(self, images: ImageCounts) -> Work:
        """Work: the batches of all steps, or each train image once without augmentation; held-out and test images."""
        train, test = images["imagenet"]
        held_out = round(self.held_out * train)
        trained = self.steps * self.batch_size if self.augment else train - held_out
        return Work([Pass(trained + held_out + test, self.crop, self.crop)])


class HeadGrid(VectorModule):
    """Base of the probes that train many heads in one pass and choose one of them on held-out images.

    Args:
        backbone, precision: see `FrozenModule`.
        wanted: the vectors of an image that all heads read; empty where they read its tokens.

    Attributes:
        held_out, test: (predictions (N, heads), labels (N,)), filled by validation and test.
    """

    shares_passes = True
    held_out: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    def __init__(self, backbone: Backbone, precision: str, wanted: Sequence[Vector] = ()) -> None:
        super().__init__(backbone, precision, wanted)
        self._kept: list[tuple[Tensor, Tensor]] = []

    def predictions(self, images: Tensor) -> Tensor:
        """Predicted class of every head (B, heads) for uint8 images (B, 3, H, W), or for their stored vectors."""
        raise NotImplementedError

    def keep(self, predictions: Tensor, labels: Tensor) -> None:
        """Add the predictions (B, heads) and labels (B,) of a batch to those of the pass."""
        self._kept.append((predictions, labels))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        return self.predictions(batch[0]), batch[1]

    def validated(self, measured: Any) -> None:
        self.keep(*measured)

    def on_validation_epoch_end(self) -> None:
        self.held_out = self._collect()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        return self.predictions(batch[0]), batch[1]

    def tested(self, measured: Any) -> None:
        self.keep(*measured)

    def on_test_epoch_end(self) -> None:
        self.test = self._collect()

    def _collect(self) -> tuple[Tensor, Tensor]:
        predicted, labels = (torch.cat(parts) for parts in zip(*self._kept, strict=True))
        self._kept = []
        return predicted, labels


def training(
    module: HeadGrid, settings: HeadGridSettings, train: ImageFiles, loading: Loading, how: RunOptions
) -> Streamed:
    """The training run: augmented images, or what the heads read of each image's evaluation view."""
    stream = Stream(len(train), settings.batch_size, settings.steps, how.seed)
    if settings.augment:
        return ImageNet(loading, stream, train=(train, random_resized_crop(settings.crop)))
    return kept.drawn(kept.keep(module, shared.passes(module, settings, how, validation=[train]), how), stream)
