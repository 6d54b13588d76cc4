"""ImageNet's layout, class folders of images: index, splits, two data sets, and the LightningDataModule.

`Ordered` reads every image once, in order (evaluation); an unreadable image raises an error that names it. `Drawn`
reads the images that a `Stream` draws, with augmentation (training).
"""

import glob
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from regvit_lightning.data import kept_index
from regvit_lightning.data.completeness import check_count, check_rendered
from regvit_lightning.data.decoded import WHOLE, Decoded
from regvit_lightning.data.images import EXTENSIONS, Convert, Transform, open_image, open_readable
from regvit_lightning.data.labelled_shards import LabelledShards, labelled_shards
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.listing import HIDDEN, NAMED_AS_IMAGE, LeftOut, composed, is_hidden, is_image, report, walk
from regvit_lightning.data.module import Loading, Streamed
from regvit_lightning.data.stream import Stream
from regvit_lightning.data.transforms import Steps, read_view
from regvit_lightning.runtime import seeds


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Paths and class indices of one split.

    Arrays, not lists: millions of Python objects would be copied into every worker process, page by page, as their
    reference counts change.

    Attributes:
        classes: names of the class folders, sorted; a class index refers to this tuple.
        paths: (N,) bytes, sorted within a class.
        labels: (N,) class indices.
        root: base folder of relative paths.
    """

    classes: tuple[str, ...]
    paths: npt.NDArray[np.bytes_]
    labels: npt.NDArray[np.int64]
    root: str = ""

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        """Path of one image."""
        return os.path.join(self.root, os.fsdecode(bytes(self.paths[index])))

    def source(self, index: int) -> str:
        """Path of the file that holds one image: itself."""
        return self.path(index)

    def open(self, index: int, convert: Convert | None = None) -> Image.Image:
        """Decode one image as RGB, in full unless `convert` does otherwise.

        Raises:
            DataError: the file cannot be read or is truncated.
        """
        return open_image(self.path(index), convert)

    def subset(self, keep: Sequence[int]) -> "ImageFiles":
        """The images at the indices `keep`, with all classes."""
        return ImageFiles(self.classes, self.paths[keep], self.labels[keep], self.root)

    def split(self, share: float, seed: int) -> tuple["ImageFiles", "ImageFiles"]:
        """Hold out `share` of the images of every class, drawn from `seed`; returns (remaining, held-out).

        Every class with two images or more is represented on both sides.

        Raises:
            DataError: no class has two images.
        """
        generator = seeds.generator(seed, "held out")
        labels = torch.tensor(self.labels)
        held: list[int] = []
        for label in range(len(self.classes)):
            indices = torch.nonzero(labels == label).flatten()
            count = min(max(round(share * len(indices)), 1), len(indices) - 1)
            held += indices[torch.randperm(len(indices), generator=generator)][:count].tolist()
        if not held:
            raise DataError(f"nothing to hold out: none of the {len(self.classes)} classes has two images")
        kept = np.setdiff1d(np.arange(len(self)), held)
        return self.subset(kept.tolist()), self.subset(sorted(held))


KEPT = ("classes", "paths", "labels", "folders", "times", "left_out")  # arrays of a stored index
SETTLED = 2_000_000_000  # nanoseconds: a more recently changed folder might change again with the same timestamp


def index(folder: Path, get: str = "") -> ImageFiles:
    """Index `folder/<class>/**/<image>`; links are followed, and a `Notice` names what is left out.

    The index is stored in the hidden folder `.index` beside `folder`, or in the user's cache where that cannot be
    written, see `kept_index.location`; it remains valid until a file or a folder is added or removed. Of several
    concurrent processes, one lists the files and the others wait for it.

    Args:
        folder: one split, `train` or `val`.
        get: how to get the data; appended to the error message.

    Raises:
        DataError: there is no such folder, no class folder in it, or a class without an image.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: expected class folders of images{f'; {get}' if get else ''}")
    beside = folder.parent / ".index" / folder.name
    arrays = _stored(folder, beside)
    if arrays is None:
        kept = kept_index.location(beside)
        with kept_index.in_turn(kept):
            arrays = _stored(folder, kept) or _indexed(folder, kept, f"; {get}" if get else "")
    report(folder, str(arrays["left_out"]))
    classes = tuple(os.fsdecode(bytes(name)) for name in arrays["classes"])
    return ImageFiles(classes, arrays["paths"], arrays["labels"], str(folder))


def _stored(folder: Path, kept: Path) -> kept_index.Arrays | None:
    """The index stored in `kept`, if there is one that still holds."""
    arrays = kept_index.read(kept, KEPT)
    return arrays if arrays is not None and kept_index.is_current(folder, arrays) else None


def _indexed(folder: Path, kept: Path, advice: str) -> kept_index.Arrays:
    """List the files of `folder`, and store the index in `kept` if no folder has changed a moment ago."""
    begun = time.time_ns()
    arrays = _list(folder, advice)
    if begun - int(arrays["times"].max()) > SETTLED and kept_index.keep(kept, arrays):
        return kept_index.read(kept, KEPT) or arrays
    return arrays


def _list(folder: Path, advice: str) -> kept_index.Arrays:
    """Classes, images with their labels, and all folders with the time of their last change, relative to `folder`."""
    folders, paths, labels = [b""], list[bytes](), list[int]()
    times, left_out = [folder.stat().st_mtime_ns], LeftOut()
    classes = class_folders(folder, left_out)
    if not classes:
        raise DataError(f"{folder} holds no class folder: expected {folder}/<class>/<image>{advice}")
    for label, name in enumerate(classes.values()):
        images: list[bytes] = []
        for inside in walk(folder, name, left_out):
            folders.append(os.fsencode(inside.path))
            times.append(inside.time)
            if inside.images:
                below = os.fsencode(inside.path) + b"/"
                images += [below + file for file in os.fsencode("\0".join(inside.images)).split(b"\0")]
        if not images:
            raise DataError(f"class folder {folder / name} holds no image ({', '.join(EXTENSIONS)}){advice}")
        paths += sorted(images)
        labels += [label] * len(images)
    names = [os.fsencode(name) for name in classes]
    columns = {"classes": names, "paths": paths, "labels": labels, "folders": folders, "times": times}
    return {name: np.array(values) for name, values in columns.items()} | {"left_out": np.array(str(left_out))}


def class_folders(folder: Path, left_out: LeftOut | None = None) -> dict[str, str]:
    """Class folders of a split, sorted: names of the folders by names of the classes, which are in composed form.

    Args:
        folder: one split.
        left_out: counts the entries that are no class folders.

    Raises:
        DataError: two folders with one name in different Unicode forms.
    """
    left_out = left_out or LeftOut()
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                left_out.add(HIDDEN, entry.name)
            elif not entry.is_dir():
                left_out.add("beside the class folders", entry.name)
            elif is_image(entry.name):
                left_out.add(NAMED_AS_IMAGE, entry.name)
            else:
                folders.append(entry.name)
    classes = {composed(name): name for name in sorted(folders, key=composed)}
    if len(classes) < len(folders):
        raise DataError(f"{folder}: two class folders have the same name in different Unicode forms; join them")
    return classes


def training_images(data: DataSettings, images: str) -> "ImageFiles | LabelledShards":
    """Index the train split of `imagenet` or `imagenet22k`: class folders, or shards where the setting is a pattern.

    Raises:
        DataError: missing or incomplete.
    """
    pattern = data.folder(images)
    if not glob.has_magic(pattern):
        return train_files(data, images)
    shards = labelled_shards(data.root, pattern, data.get)
    check_count(data, images, 0, len(shards), f"{Path(data.root, pattern)} holds")
    return shards


def train_files(data: DataSettings, images: str = "imagenet") -> ImageFiles:
    """Index the train split of `imagenet` or `imagenet22k`, in class folders.

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
        unpaired = sorted(set(class_folders(train)) ^ set(files.classes))
        if unpaired:
            raise DataError(
                f"{train} and its val have different classes: {', '.join(unpaired[:5])} in only one of them"
            )
    return files


def _split(data: DataSettings, images: str, split: str) -> ImageFiles:
    check_rendered(data)
    folder = Path(data.root, data.folder(images), split)
    files = index(folder, data.get)
    check_count(data, images, int(split == "val"), len(files), f"{folder} holds")
    return files


class Ordered(Dataset[tuple[Tensor, int]]):
    """Data set of every image once: (uint8 (3, H, W), class index)."""

    def __init__(self, files: ImageFiles, transform: Transform) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.files.open(index)), int(self.files.labels[index])


class Drawn(Dataset[dict[str, Any]]):
    """Data set of augmented training images, indexed by (position in the run, index in the files).

    The augmentation of a sample depends only on the seed and its position.

    Args:
        files, transform: the images, and the augmentation.
        seed: seed of the augmentation.
        replace: a file that cannot be read is replaced by the next one that can, and its index is reported in
            `unreadable` (pretraining); otherwise it is an error (evaluation). In pretraining, the decoded images of a
            small set are kept beside it, see `Decoded`.
    """

    def __init__(self, files: ImageFiles | LabelledShards, transform: Transform, seed: int, replace: bool) -> None:
        self.files, self.transform, self.seed, self.replace = files, transform, seed, replace
        self.steps = transform if isinstance(transform, Steps) else None
        fixed = self.steps.fixed if self.steps else WHOLE
        self.decoded = Decoded(files, fixed, Path(files.root) if files.root and replace else None)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, draw: tuple[int, int]) -> dict[str, Any]:
        position, start = draw
        return self._sample(*open_readable(self.files, partial(self._view, position), start, self.replace))

    def _view(self, position: int, index: int) -> Any:
        with seeds.torch_drawn_from(self.seed, "augment", position):
            return read_view(self.transform, self.decoded, index)

    def __getitems__(self, draws: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        """The samples of a batch, as `__getitem__` gives them; small images are augmented together."""
        together = self.steps.together if self.steps else None
        if together is None:
            return [self[draw] for draw in draws]
        opened = [open_readable(self.files, self.decoded.pixels, start, self.replace) for _, start in draws]
        images = [image for image, _, _ in opened]
        numbers = [position for position, _ in draws]
        drawn = [together.draw(images[i]) for i in seeds.torch_each_drawn_from(numbers, self.seed, "augment")]
        views = together(images, drawn)
        return [self._sample(view, *one[1:]) for view, one in zip(views, opened, strict=True)]

    def _sample(self, image: Any, index: int, unreadable: list[int]) -> dict[str, Any]:
        return {"image": image, "label": int(self.files.labels[index]), "unreadable": unreadable}


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate samples of `Drawn`: image uint8 (B, 3, H, W), label (B,), unreadable indices (any number,).

    Where the transform gives several tensors by name, `image` has a batch of each.
    """
    return {
        "image": default_collate([sample["image"] for sample in samples]),
        "label": torch.tensor([sample["label"] for sample in samples]),
        "unreadable": torch.tensor([index for sample in samples for index in sample["unreadable"]], dtype=torch.long),
    }


class ImageNet(Streamed):
    """LightningDataModule of class folders of images.

    Args:
        loading: workers and batch sizes.
        stream: draws of the training run, or None for evaluation only.
        train: files and augmentation of the training run.
        replace: in training, replace files that cannot be read and report them, instead of stopping.
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
