"""ImageNet's layout as a LightningDataModule: a stream for training, ordered passes for evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from regvit_lightning.data import mini
from regvit_lightning.data.images import Drawn, ImageFiles, Ordered, Transform, collate, index
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.stream import Stream, StreamSampler
from regvit_lightning.settings import check


def train_files(data: DataSettings, images: str = "imagenet") -> ImageFiles:
    """Index the train split of `imagenet` or `imagenet22k`.

    Raises:
        DataError: missing or incomplete.
    """
    return _split(data, images, "train")


def test_files(data: DataSettings) -> ImageFiles:
    """Index the test split: ImageNet's `val` folder.

    Raises:
        DataError: missing or incomplete, or its classes are not those of train.
    """
    files = _split(data, "imagenet", "val")
    train = Path(data.root, data.imagenet, "train")
    if train.is_dir():
        classes = {entry.name for entry in train.iterdir() if entry.is_dir()}
        odd = sorted(classes ^ set(files.classes))
        if odd:
            raise DataError(f"{train} and its val have different classes: {', '.join(odd[:5])} in only one of them")
    return files


def _split(data: DataSettings, images: str, split: str) -> ImageFiles:
    if data.rendered and not mini.is_complete(Path(data.root)):
        raise DataError(f"data set '{data.name}' in {data.root} is missing or half-written; {data.get}")
    folder = Path(data.root, data.folder(images), split)
    files = index(folder, data.get)
    if images in data.counts:
        expected = data.counts[images][split == "val"]
        if len(files) != expected:
            raise DataError(f"{folder} holds {len(files):,} images, expected {expected:,}; {data.get}")
    return files


@dataclass(frozen=True)
class Loading:
    """How images are read.

    Attributes:
        workers: processes that decode images on each device; 0 decodes in the main process.
        device_batch: images that go through the network at once on one device, at most.
    """

    workers: int
    device_batch: int


class ImageNet(LightningDataModule):
    """Training batches drawn by a `Stream`, and any number of ordered evaluation passes.

    Args:
        loading: workers and device batch.
        stream: draws of the training run, or None when nothing is trained.
        train: files and augmentation of the training run.
        replace: training replaces files that cannot be read, and reports them, instead of stopping.
        validation, test: files and transform of ordered passes, one loader each.
    """

    def __init__(
        self,
        loading: Loading,
        stream: Stream | None = None,
        train: tuple[ImageFiles, Transform] | None = None,
        replace: bool = False,
        validation: Sequence[tuple[ImageFiles, Transform]] = (),
        test: Sequence[tuple[ImageFiles, Transform]] = (),
    ) -> None:
        super().__init__()
        self.loading, self.stream, self.train, self.replace = loading, stream, train, replace
        self.validation, self.test = validation, test

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The stream, from the step that the run has reached, in batches of one device."""
        assert self.stream is not None and self.train is not None, "built without a training stream"  # noqa: PT018
        assert self.trainer is not None, "the stream starts at the step that the trainer has reached"
        trainer, world = self.trainer, self.trainer.world_size
        pieces = accumulation(self.stream.batch_size, world, self.loading.device_batch)
        sampler = StreamSampler(self.stream, pieces, trainer.global_rank, world, trainer.global_step)
        dataset = Drawn(*self.train, self.stream.seed, self.replace)
        return DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, **self._workers())

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """One ordered loader for each validation split."""
        return [self._ordered(files, transform) for files, transform in self.validation]

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """One ordered loader for each test split."""
        return [self._ordered(files, transform) for files, transform in self.test]

    def _ordered(self, files: ImageFiles, transform: Transform) -> DataLoader[Any]:
        return DataLoader(Ordered(files, transform), batch_size=self.loading.device_batch, **self._workers())

    def _workers(self) -> dict[str, Any]:
        pinned = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return {"num_workers": self.loading.workers, "pin_memory": pinned}


def accumulation(batch_size: int, world: int, device_batch: int) -> int:
    """Micro-batches per step: the fewest that keep a device's batch at or below `device_batch`.

    Raises:
        SettingsError: the global batch does not divide evenly.
    """
    check(batch_size % world == 0, f"batch_size={batch_size} is not a multiple of the {world} devices")
    share = batch_size // world
    return next(n for n in range(1, share + 1) if share % n == 0 and share // n <= device_batch)
