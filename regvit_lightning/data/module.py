"""LightningDataModule shared by all data sets: training batches drawn by a `Stream`, and ordered passes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from regvit_lightning.data.stream import Stream, StreamSampler
from regvit_lightning.runtime.interruption import leave_to_main_process
from regvit_lightning.settings import check

Collate = Callable[[list[Any]], Any]


@dataclass(frozen=True)
class Loading:
    """Settings for loading images.

    Attributes:
        workers: processes that decode images on each device; 0 decodes in the main process.
        device_batch: maximum training images per device and forward pass; a larger share of a step is split.
        test_batch: images per batch of an ordered pass; None takes `device_batch`.
    """

    workers: int
    device_batch: int
    test_batch: int | None = None


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

    def train_dataloader(self) -> DataLoader[Any]:
        """Training loader from the step that the run has reached, in batches for one device."""
        assert self.stream is not None and self.train is not None, "built without a training stream"  # noqa: PT018
        assert self.trainer is not None, "the stream starts at the step that the trainer has reached"
        trainer, world = self.trainer, self.trainer.world_size
        pieces = accumulation(self.stream.batch_size, world, self.loading.device_batch)
        sampler = StreamSampler(self.stream, pieces, trainer.global_rank, world, trainer.global_step)
        return DataLoader(self.train, batch_sampler=sampler, collate_fn=self.collate_train, **self._workers())

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """One ordered loader for each validation pass."""
        return [self._ordered(images) for images in self.validation]

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """One ordered loader for each test pass."""
        return [self._ordered(images) for images in self.test]

    def _ordered(self, images: Dataset[Any]) -> DataLoader[Any]:
        size = self.loading.test_batch or self.loading.device_batch
        return DataLoader(images, batch_size=size, collate_fn=self.collate, **self._workers())

    def _workers(self) -> dict[str, Any]:
        pinned = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return {"num_workers": self.loading.workers, "pin_memory": pinned, "worker_init_fn": leave_to_main_process}


def accumulation(batch_size: int, world: int, device_batch: int) -> int:
    """Micro-batches per step: the fewest that keep the batch per device at or below `device_batch`.

    Raises:
        SettingsError: the global batch does not divide evenly.
    """
    check(batch_size % world == 0, f"batch_size={batch_size} is not a multiple of the {world} devices")
    share = batch_size // world
    return next(n for n in range(1, share + 1) if share % n == 0 and share // n <= device_batch)
