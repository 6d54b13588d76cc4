"""LightningDataModule shared by all data sets: training batches drawn by a `Stream`, and ordered passes."""

import math
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler, default_collate

from regvit_lightning.data.device_batches import DeviceBatches, of_device
from regvit_lightning.data.stream import Stream, StreamSampler
from regvit_lightning.data.workers import worker_options
from regvit_lightning.settings import check

Collate = Callable[[list[Any]], Any]
HOST = ("unreadable",)  # parts of a batch that the host reads


@dataclass(frozen=True)
class Loading:
    """Settings for loading images.

    Attributes:
        workers: processes that decode images on each device, fewer where processors or shared memory are few, see
            `worker_options`; 0 decodes in the main process.
        device_batch: maximum training images per device and forward pass; a larger share of a step is split.
        test_batch: images per batch of an ordered pass; None takes `device_batch`.
        decoded_batch: maximum training images that a worker decodes at a time: a larger micro-batch waits in shared
            memory in such parts. None takes `device_batch`.
    """

    workers: int
    device_batch: int
    test_batch: int | None = None
    decoded_batch: int | None = None


@dataclass(frozen=True)
class Parts:
    """A micro-batch as it comes from the workers: batches of at most `Loading.decoded_batch` images, in order."""

    batches: list[Any]


class InParts:
    """Loader of micro-batches, each a `Parts` of several consecutive batches of another loader.

    Args:
        loader: yields the batches.
        parts: batches in each micro-batch.
    """

    def __init__(self, loader: DataLoader[Any], parts: int) -> None:
        self.loader, self.parts = loader, parts

    def __len__(self) -> int:
        return len(self.loader) // self.parts

    def __iter__(self) -> Iterator[Parts]:
        batches = iter(self.loader)
        for first in batches:
            yield Parts([first, *(next(batches) for _ in range(self.parts - 1))])


def joined(batches: list[Any]) -> Any:
    """Concatenate batches of tensors (B, …), or of such tensors by name, along the first axis."""
    if isinstance(batches[0], Tensor):
        return torch.cat(batches)
    return {name: joined([batch[name] for batch in batches]) for name in batches[0]}


class Streamed(LightningDataModule):
    """LightningDataModule with a training stream and any number of ordered passes.

    Args:
        loading: workers and batch sizes.
        stream: draws of the training run, or None for evaluation only.
        train: training data set, indexed by (position in the run, index in the files).
        validation, test: data sets of ordered passes, one loader each.
        collate_train, collate: functions that collate a list of samples into a batch; None is torch's default.
    """

    def __init__(
        self,
        loading: Loading,
        stream: Stream | None = None,
        train: Dataset[Any] | None = None,
        validation: Sequence[Dataset[Any]] = (),
        test: Sequence[Dataset[Any]] = (),
        collate_train: Collate | None = None,
        collate: Collate | None = None,
    ) -> None:
        super().__init__()
        self.loading, self.stream, self.train = loading, stream, train
        self.validation, self.test = validation, test
        self.collate_train, self.collate = collate_train, collate

    def train_dataloader(self) -> "DataLoader[Any] | InParts":
        """Training loader from the step that the run has reached, in micro-batches for one device."""
        assert self.stream is not None and self.train is not None, "built without a training stream"  # noqa: PT018
        assert self.trainer is not None, "the stream starts at the step that the trainer has reached"
        trainer, world = self.trainer, self.trainer.world_size
        pieces = accumulation(self.stream.batch_size, world, self.loading.device_batch)
        share = self.stream.batch_size // (pieces * world)
        decoded = min(share, self.loading.decoded_batch or share)
        position = pieces, trainer.global_rank, world, trainer.global_step
        sampler = StreamSampler(self.stream, *position, decoded)
        first = next(iter(sampler), [])[:1]
        options = self._workers(self.train, first, decoded, self.collate_train)
        loader = DataLoader(self.train, batch_sampler=sampler, collate_fn=self.collate_train, **options)
        return loader if decoded == share else InParts(loader, math.ceil(share / decoded))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch to the device, where the parts of one that was read in parts are joined.

        What no device computes with, `HOST`, stays: reading it from a GPU would wait for all that this is computing.
        """
        if isinstance(batch, Parts):
            return joined([self.transfer_batch_to_device(part, device, dataloader_idx) for part in batch.batches])
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return {**moved, **{name: batch[name] for name in HOST if name in batch}} if isinstance(moved, dict) else moved

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """One ordered loader for each validation pass."""
        return [self._ordered(images) for images in self.validation]

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """One ordered loader for each test pass."""
        return [self._ordered(images) for images in self.test]

    def _ordered(self, images: Dataset[Any]) -> DataLoader[Any]:
        size = self.loading.test_batch or self.loading.device_batch
        options = self._workers(images, range(len(cast(Sized, images)))[:1], size, self.collate)
        batches = of_device(BatchSampler(SequentialSampler(cast(Sized, images)), size, drop_last=False), self.trainer)
        if not isinstance(batches, DeviceBatches):
            return DataLoader(images, batch_size=size, collate_fn=self.collate, **options)
        return DataLoader(images, batch_sampler=batches, collate_fn=self.collate, **options)

    def _workers(
        self, images: Dataset[Any], first: Sequence[Any], batch: int, collate: Collate | None
    ) -> dict[str, Any]:
        """Options of a DataLoader for its workers, by the size of the first sample."""

        def sample() -> Any:
            return (collate or default_collate)([images[index] for index in first]) if first else ()

        return worker_options(self.loading.workers, sample, batch, self.trainer)


def accumulation(batch_size: int, world: int, device_batch: int) -> int:
    """Micro-batches per step: the fewest that keep the batch per device at or below `device_batch`.

    Raises:
        SettingsError: the global batch does not divide evenly.
    """
    check(batch_size % world == 0, f"batch_size={batch_size} is not a multiple of the {world} devices")
    share = batch_size // world
    return next(n for n in range(1, share + 1) if share % n == 0 and share // n <= device_batch)
