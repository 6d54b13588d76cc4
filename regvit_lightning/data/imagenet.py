"""ImageNet's layout as a LightningDataModule: a stream for training, ordered passes for evaluation."""

from collections.abc import Sequence
from pathlib import Path

from regvit_lightning.data.completeness import check_count, check_rendered
from regvit_lightning.data.images import Drawn, ImageFiles, Ordered, Transform, collate, index
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.module import Loading, Streamed
from regvit_lightning.data.stream import Stream


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
    check_rendered(data)
    folder = Path(data.root, data.folder(images), split)
    files = index(folder, data.get)
    check_count(data, images, int(split == "val"), len(files), f"{folder} holds")
    return files


class ImageNet(Streamed):
    """Class folders of images.

    Args:
        loading: workers and batch sizes.
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
        super().__init__(
            loading,
            stream,
            train=Drawn(*train, stream.seed, replace) if train and stream else None,
            validation=[Ordered(*part) for part in validation],
            test=[Ordered(*part) for part in test],
            collate_train=collate,
        )
