"""Layouts of published sets of images with classes: which images each split has, and their classes.

The files are those of the sets' authors, as torchvision unpacks them: Aircraft (FGVC-Aircraft 2013b, variants),
Caltech-101, Stanford Cars, CIFAR-10 and CIFAR-100 (the python version), CUB-200-2011, DTD (first of ten splits),
Flowers-102, Food-101, Oxford-IIIT Pets, SUN397 (first of ten splits) and PASCAL VOC.
"""

import os
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from regvit_lightning.data import imagenet
from regvit_lightning.data.classified_set import ClassifiedSet
from regvit_lightning.data.completeness import read_list
from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import one_line
from regvit_lightning.runtime import seeds

CALTECH_TRAIN = 30  # images of each class, drawn; all others are test images (Kornblith et al. 2019, SimCLR, DINOv2)


@dataclass(frozen=True, eq=False)
class Pixels:
    """Images that lie together in a file: (N, 3, side, side), uint8."""

    values: npt.NDArray[np.uint8]

    def open(self, index: int) -> Image.Image:
        """One image as RGB."""
        return Image.fromarray(np.ascontiguousarray(self.values[index].transpose(1, 2, 0)))


@dataclass(frozen=True, eq=False)
class Listed:
    """Images of one split, by their paths below the set's folder or by their pixels, and targets as in `Split`."""

    source: Sequence[str] | Pixels
    targets: npt.NDArray[Any]


@dataclass(frozen=True)
class Found:
    """Names of the classes, and the splits by title: train, the held-out one if there is one, test."""

    classes: tuple[str, ...]
    splits: dict[str, Listed]


def read(root: Path, layout: ClassifiedSet, get: str) -> Found:
    """The images and classes of a set.

    Args:
        root: folder of the set.
        layout: its layout and splits.
        get: how to get the data; appended to messages.

    Raises:
        DataError: a file is missing or malformed.
    """
    if layout.layout in LISTS:
        return _of_lists(root, LISTS[layout.layout], get)
    return READERS[layout.layout](root, layout, get)


# --------------------------------------------------------------------------------------------------- class folders


def _folders(root: Path, layout: ClassifiedSet, get: str) -> Found:
    found = {title: imagenet.index(root / title, get) for title in layout.splits}
    classes = found[layout.splits[0]].classes
    for title, files in found.items():
        other = sorted(set(files.classes) ^ set(classes))
        if other:
            raise DataError(f"{root / title}: other class folders than {layout.splits[0]}: {', '.join(other[:5])}")
    below = {title: [f"{title}/{os.fsdecode(bytes(path))}" for path in files.paths] for title, files in found.items()}
    return Found(classes, {title: Listed(below[title], files.labels) for title, files in found.items()})


def _caltech101(root: Path, layout: ClassifiedSet, get: str) -> Found:
    """Train images are drawn once for all seeds, as the set has no splits of its own."""
    files = imagenet.index(root, get)
    generator, train = seeds.generator(0, "Caltech-101"), np.zeros(len(files), bool)
    for label in range(len(files.classes)):
        indices = np.flatnonzero(files.labels == label)
        train[indices[torch.randperm(len(indices), generator=generator)[:CALTECH_TRAIN].numpy()]] = True
    paths = [os.fsdecode(bytes(path)) for path in files.paths]

    def part(mask: npt.NDArray[np.bool_]) -> Listed:
        return Listed([paths[index] for index in np.flatnonzero(mask)], files.labels[mask])

    return Found(files.classes, {"train": part(train), "test": part(~train)})


# ----------------------------------------------------------------------------------------------------------- lists


@dataclass(frozen=True)
class ListLayout:
    """A layout with a text file for each split.

    Attributes:
        lists: files below the set's folder: train, the held-out one if there is one, test.
        line: expected form of a line, with the groups `image`, and `name` of its class.
        path: format of the image's path below the set's folder.
    """

    lists: tuple[str, ...]
    line: str
    path: str


LISTS = {
    "aircraft": ListLayout(
        tuple(f"data/images_variant_{split}.txt" for split in ("train", "val", "test")),
        r"(?P<image>\d+) (?P<name>.+)",
        "data/images/{image}.jpg",
    ),
    "dtd": ListLayout(
        tuple(f"labels/{split}1.txt" for split in ("train", "val", "test")),
        r"(?P<image>(?P<name>[^/]+)/[^/]+)",
        "images/{image}",
    ),
    "food101": ListLayout(
        ("meta/train.txt", "meta/test.txt"), r"(?P<image>(?P<name>[^/]+)/[^/]+)", "images/{image}.jpg"
    ),
    "pets": ListLayout(
        ("annotations/trainval.txt", "annotations/test.txt"),
        r"(?P<image>(?P<name>\S+)_\d+)( \d+)*",
        "images/{image}.jpg",
    ),
    "sun397": ListLayout(("Training_01.txt", "Testing_01.txt"), r"/?(?P<image>(?P<name>.+)/[^/]+)", "{image}"),
}


def _of_lists(root: Path, layout: ListLayout, get: str) -> Found:
    rows = {name: _rows(root / name, layout, get) for name in layout.lists}
    classes = sorted({name for _, name in rows[layout.lists[0]]})
    for file, of_file in rows.items():
        unknown = sorted({name for _, name in of_file} - set(classes))
        if unknown:
            raise DataError(f"{root / file}: class {unknown[0]} is not in {layout.lists[0]}; {get}")
    number = {name: index for index, name in enumerate(classes)}
    return Found(
        tuple(classes),
        {
            file: Listed([image for image, _ in of_file], np.array([number[name] for _, name in of_file], np.int64))
            for file, of_file in rows.items()
        },
    )


def _rows(file: Path, layout: ListLayout, get: str) -> list[tuple[str, str]]:
    """Path and class of each image of a list."""
    rows = []
    for line in read_list(file, "an image", get):
        match = re.fullmatch(layout.line, line)
        if match is None:
            raise DataError(f"{file}: '{line[:80]}' is no image with its class; {get}")
        rows.append((layout.path.format(image=match["image"]), match["name"]))
    return rows


def _cub(root: Path, layout: ClassifiedSet, get: str) -> Found:
    """CUB's three lists have a number for each image: its path, its class from 1, and whether it is for training."""
    paths, labels, train = (
        _by_number(root / f"{name}.txt", get) for name in ("images", "image_class_labels", "train_test_split")
    )
    if not paths.keys() == labels.keys() == train.keys():
        raise DataError(
            f"{root}: its lists images, image_class_labels and train_test_split have different images; {get}"
        )
    classes = tuple(sorted({path.partition("/")[0] for path in paths.values()}))
    number = {name: index for index, name in enumerate(classes)}
    wrong = [key for key, path in paths.items() if str(number[path.partition("/")[0]] + 1) != labels[key]]
    if wrong:
        raise DataError(f"{root}: image {wrong[0]} has another class in image_class_labels.txt than its folder; {get}")

    def part(flag: str) -> Listed:
        own = [path for key, path in paths.items() if train[key] == flag]
        targets = [number[path.partition("/")[0]] for path in own]
        return Listed([f"images/{path}" for path in own], np.array(targets, np.int64))

    return Found(classes, {"train": part("1"), "test": part("0")})


def _by_number(file: Path, get: str) -> dict[str, str]:
    rows = [line.split(maxsplit=1) for line in read_list(file, "a number and a value", get)]
    if any(len(row) != 2 for row in rows):
        raise DataError(f"{file}: expected a number and a value on each line; {get}")
    return dict(rows)


# ------------------------------------------------------------------------------------------------- Matlab and pickle


def _flowers(root: Path, layout: ClassifiedSet, get: str) -> Found:
    labels = _mat(root / "imagelabels.mat", "labels", get).ravel().astype(np.int64) - 1
    splits = {name: _mat(root / "setid.mat", name, get).ravel() for name in ("trnid", "valid", "tstid")}
    if any(numbers.min() < 1 or numbers.max() > len(labels) for numbers in splits.values()):
        raise DataError(f"{root / 'setid.mat'}: numbers of images that imagelabels.mat does not have; {get}")
    classes = tuple(f"{number + 1:03d}" for number in range(int(labels.max()) + 1))
    return Found(
        classes,
        {
            name: Listed([f"jpg/image_{int(number):05d}.jpg" for number in numbers], labels[numbers.astype(int) - 1])
            for name, numbers in splits.items()
        },
    )


def _cars(root: Path, layout: ClassifiedSet, get: str) -> Found:
    names = [str(name) for name in _mat(root / "devkit/cars_meta.mat", "class_names", get).ravel()]
    annotations = {"cars_train": "devkit/cars_train_annos.mat", "cars_test": "cars_test_annos_withlabels.mat"}
    splits = {}
    for folder, file in annotations.items():
        rows = np.atleast_1d(_mat(root / file, "annotations", get))
        try:
            paths = [f"{folder}/{row.fname}" for row in rows]
            targets = np.array([int(row.__dict__["class"]) - 1 for row in rows])
        except (AttributeError, KeyError, ValueError) as error:
            raise DataError(f"{root / file}: expected fname and class of each image ({error!r}); {get}") from None
        splits[folder] = Listed(paths, targets.astype(np.int64))
    return Found(tuple(names), splits)


def _mat(file: Path, key: str, get: str) -> npt.NDArray[Any]:
    """The variable `key` of a Matlab file of version 7 or older."""
    from scipy.io import loadmat

    try:
        return np.asarray(loadmat(file, squeeze_me=True, struct_as_record=False)[key])
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise DataError(f"cannot read {key} of {file}: {one_line(error)}; {get}") from None


CIFAR = {
    "cifar10": (
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        ("test_batch",),
        "batches.meta",
        "label_names",
    ),
    "cifar100": (("train",), ("test",), "meta", "fine_label_names"),
}
LABELS = {"cifar10": "labels", "cifar100": "fine_labels"}
HARMLESS = {  # what a pickle of arrays needs to be read
    ("numpy.core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"): ("numpy", "ndarray"),
    ("numpy", "dtype"): ("numpy", "dtype"),
    ("_codecs", "encode"): ("_codecs", "encode"),
}


class ArraysOnly(pickle.Unpickler):
    """Reads pickles of arrays, numbers and texts; any other object is refused, as loading it could run a program."""

    def find_class(self, module: str, name: str) -> Any:
        """Find a class or function of `HARMLESS`."""
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, and not arrays alone")
        return super().find_class(*HARMLESS[module, name])


def _cifar(root: Path, layout: ClassifiedSet, get: str) -> Found:
    train, test, meta, key = CIFAR[layout.layout]
    names = _pickled(root / meta, get).get(key.encode())
    if not isinstance(names, list):
        raise DataError(f"{root / meta}: expected {key}; {get}")
    classes = tuple(name.decode() for name in names)
    splits = {"train": train, "test": test}
    return Found(classes, {title: _batches(root, files, LABELS[layout.layout], get) for title, files in splits.items()})


def _batches(root: Path, files: Sequence[str], key: str, get: str) -> Listed:
    pixels, labels = list[npt.NDArray[np.uint8]](), list[int]()
    for file in files:
        content = _pickled(root / file, get)
        values, own = content.get(b"data"), content.get(key.encode())
        known: list[int] = own if isinstance(own, list) and all(type(label) is int for label in own) else []
        if not known or not isinstance(values, np.ndarray) or values.shape != (len(known), 3 * 32 * 32):
            raise DataError(f"{root / file}: expected data of 3,072 bytes and a label in {key} for each image; {get}")
        pixels.append(values.reshape(-1, 3, 32, 32))
        labels += known
    return Listed(Pixels(np.concatenate(pixels)), np.array(labels, np.int64))


def _pickled(file: Path, get: str) -> Mapping[bytes, Any]:
    try:
        with file.open("rb") as opened:
            content = ArraysOnly(opened, encoding="bytes").load()
    except Exception as error:  # pickle raises unrelated classes on damaged content
        raise DataError(f"cannot read {file}: {one_line(error)}; {get}") from None
    if not isinstance(content, dict):
        raise DataError(f"{file}: expected a mapping; {get}")
    return content


# ------------------------------------------------------------------------------------------------------------- VOC


def _voc(root: Path, layout: ClassifiedSet, get: str) -> Found:
    """An image has a class if it has an object of it; where all of them are difficult, it is not known."""
    lists = {title: root / "ImageSets" / "Main" / f"{title}.txt" for title in layout.splits}
    names = {title: [line.split()[0] for line in read_list(file, "an image", get)] for title, file in lists.items()}
    objects = {
        title: [_objects(root / "Annotations" / f"{name}.xml", get) for name in own] for title, own in names.items()
    }
    classes = tuple(sorted({name for own in objects.values() for image in own for name in image}))
    return Found(
        classes,
        {
            title: Listed(
                [f"JPEGImages/{name}.jpg" for name in names[title]],
                np.array([[image.get(name, 0.0) for name in classes] for image in own], np.float32),
            )
            for title, own in objects.items()
        },
    )


def _objects(file: Path, get: str) -> dict[str, float]:
    """By class of the objects of an image: 1, or NaN where all of them are difficult."""
    try:
        objects = ElementTree.parse(file).getroot().findall("object")
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"unreadable annotation {file}: {one_line(error)}; {get}") from None
    found: dict[str, float] = {}
    for one in objects:
        name, difficult = one.findtext("name", "").strip(), one.findtext("difficult", "0").strip() == "1"
        found[name] = 1.0 if not difficult or found.get(name) == 1.0 else np.nan
    return found


READERS: dict[str, Callable[[Path, ClassifiedSet, str], Found]] = {
    "folders": _folders,
    "caltech101": _caltech101,
    "cub": _cub,
    "flowers": _flowers,
    "cars": _cars,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "voc": _voc,
}
