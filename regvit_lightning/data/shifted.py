"""Images that test an ImageNet classifier elsewhere: V2, A, R, Sketch, ObjectNet, ReaL, and the test images themselves.

Each image has the classes that count as right, and each set those that a classifier chooses among: all of ImageNet's,
or the 200 of ImageNet-A and of ImageNet-R, or those that ObjectNet's 113 objects stand for.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from regvit_lightning.data import imagenet
from regvit_lightning.data.completeness import check_count, check_rendered
from regvit_lightning.data.imagenet import ImageFiles
from regvit_lightning.data.images import Transform
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.shifted_set import MAPPINGS, ShiftedSet
from regvit_lightning.errors import one_line

Accepted = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ShiftedImages:
    """One set.

    Attributes:
        files: the images; their labels are indices of the folders, whose names are `files.classes`.
        accepted: indices of the classes that are right, for each image; never empty.
        candidates: indices of the classes that a prediction is chosen among, ascending.
        left_out: number of images that no class is right for.
        border: pixels that are cut off every side.
    """

    files: ImageFiles
    accepted: list[Accepted]
    candidates: list[int]
    left_out: int = 0
    border: int = 0

    def view(self, view: Transform) -> Transform:
        """`view` of an image without its border."""
        return Borderless(self.border, view, self.files.root) if self.border else view


@dataclass(frozen=True)
class Borderless:
    """A view of an image of the folder `root` after `border` pixels are cut off every side."""

    border: int
    view: Transform
    root: str

    def __call__(self, image: Image.Image) -> Any:
        if min(image.size) <= 2 * self.border:
            size = f"{image.width} × {image.height} px"
            raise DataError(
                f"{self.root}: an image of {size} is all border, of {self.border} px; lower border, or remove it"
            )
        return self.view(image.crop((self.border, self.border, image.width - self.border, image.height - self.border)))


def shifted_images(data: DataSettings, name: str, classes: Sequence[str]) -> ShiftedImages:
    """Load the set called `name` for a classifier of `classes`, the sorted names of ImageNet's class folders.

    Raises:
        SettingsError: no such set of this data.
        DataError: a folder or a file of labels is missing; a folder that stands for no class; labels that do not fit.
    """
    layout, root = data.shifted_set(name), Path(data.root)
    check_rendered(data)
    folder = root / (layout.folder or os.path.join(data.imagenet, "val"))
    files = imagenet.index(folder, data.get)
    if layout.naming == "real":
        found = _with_labels_of_images(files, root / layout.labels, len(classes), data.get)
    else:
        found = _by_folder(files, _classes_of_folders(files, layout, root, classes, data.get))
    check_count(data, name, 0, len(found.files), f"{folder} holds", "images with a class")
    return ShiftedImages(found.files, found.accepted, found.candidates, found.left_out, layout.border)


def _classes_of_folders(
    files: ImageFiles, layout: ShiftedSet, root: Path, classes: Sequence[str], get: str
) -> dict[str, Accepted]:
    """Classes that are right for the images of each folder, by its name; a folder that is not there is left out."""
    if layout.naming == "objectnet":
        return _of_objectnet(root / layout.labels, len(classes), get)
    if layout.naming == "numbers":
        return {name: (_number(files, name, len(classes)),) for name in files.classes}
    number = {name: index for index, name in enumerate(classes)}
    for name in files.classes:
        if name not in number:
            known = f"the classifier knows {len(classes):,} classes such as {classes[0]}"
            raise DataError(f"class folder {files.root}/{name} is none of ImageNet's: {known}")
    return {name: (number[name],) for name in files.classes}


def _number(files: ImageFiles, name: str, classes: int) -> int:
    if not (name.isascii() and name.isdigit() and int(name) < classes):
        raise DataError(f"class folder {files.root}/{name}: expected the number of a class, 0 to {classes - 1}")
    return int(name)


def _by_folder(files: ImageFiles, accepted: Mapping[str, Accepted]) -> ShiftedImages:
    """The images of the folders that stand for classes, among which predictions are chosen."""
    of_folder = [accepted.get(name, ()) for name in files.classes]
    kept = [index for index, label in enumerate(files.labels) if of_folder[label]]
    if not kept:
        raise DataError(
            f"{files.root}: none of its folders, such as {files.classes[0]}, stands for a class of ImageNet"
        )
    right = [of_folder[files.labels[index]] for index in kept]
    candidates = sorted({label for labels in of_folder for label in labels})
    return ShiftedImages(files.subset(kept), right, candidates, len(files) - len(kept))


def _with_labels_of_images(files: ImageFiles, source: Path, classes: int, get: str) -> ShiftedImages:
    """The images that have a label in `real.json`: a list of class indices for each image, in the order of their names.

    Source: Beyer et al. 2020 (arXiv 2006.07159), whose file lists ILSVRC2012_val_00000001 to …_00050000.
    """
    labels = _read_json(source, get)
    if not isinstance(labels, list) or not all(_are_classes(one, classes) for one in labels):
        raise DataError(f"{source}: expected a list with a list of class indices 0 to {classes - 1} for each image")
    if len(labels) != len(files):
        raise DataError(f"{source} has the labels of {len(labels):,} images, {files.root} has {len(files):,}; {get}")
    names = [os.path.basename(files.path(index)) for index in range(len(files))]
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise DataError(f"{files.root} has several images called {twice}: {source} tells them apart by their names")
    by_name = sorted(range(len(files)), key=names.__getitem__)
    accepted: list[Accepted] = [()] * len(files)
    for index, own in zip(by_name, labels, strict=True):
        accepted[index] = tuple(own)
    kept = [index for index, own in enumerate(accepted) if own]
    if not kept:
        raise DataError(f"{source}: has a label for none of the {len(files):,} images; {get}")
    right = [accepted[index] for index in kept]
    return ShiftedImages(files.subset(kept), right, list(range(classes)), len(files) - len(kept))


def _are_classes(labels: Any, classes: int) -> bool:
    return isinstance(labels, list) and all(type(one) is int and 0 <= one < classes for one in labels)


def _of_objectnet(folder: Path, classes: int, get: str) -> dict[str, Accepted]:
    """Classes that each of ObjectNet's folders stands for, from its four mappings.

    Names of ImageNet's classes are lines of a list in ILSVRC's order; another file gives the line of each class index.

    Source: Barbu et al. 2019 (ObjectNet), folder `mappings` of its archive.
    """
    labels, names, order = (_read_mapping(folder / name, get) for name in MAPPINGS[:3])
    lines = _lines(folder / MAPPINGS[3], get)
    try:
        index = {lines[line]: number for number, line in _lines_of_classes(order, classes).items()}
        folders = {label: name for name, label in labels.items()}
        return {
            folders[label]: tuple(index[one.strip()] for one in several.split("; ")) for label, several in names.items()
        }
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise DataError(
            f"{folder}: its mappings do not fit each other or {classes:,} classes ({error!r}); {get}"
        ) from None


def _lines_of_classes(order: Mapping[str, int], classes: int) -> dict[int, int]:
    """Line of the list, from 0, of each class index; ids of ILSVRC may begin at 0 or at 1."""
    first = min(order.values())
    lines = {int(number): line - first for number, line in order.items()}
    if sorted(lines) != list(range(classes)) or sorted(lines.values()) != list(range(classes)):
        raise ValueError(f"{MAPPINGS[2]} has {len(lines)} classes")
    return lines


def _read_mapping(source: Path, get: str) -> Mapping[str, Any]:
    content = _read_json(source, get)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{source}: expected a mapping; {get}")
    return content


def _read_json(source: Path, get: str) -> Any:
    try:
        return json.loads(_text(source, get))
    except ValueError as error:
        raise DataError(f"{source}: not JSON ({one_line(error)}); {get}") from None


def _lines(source: Path, get: str) -> list[str]:
    return [line.strip() for line in _text(source, get).splitlines()]


def _text(source: Path, get: str) -> str:
    try:
        return source.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read {source}: {one_line(error)}; {get}") from None
    except UnicodeDecodeError:
        raise DataError(f"{source}: not a text in UTF-8; {get}") from None


def right(predictions: np.ndarray, accepted: Sequence[Accepted]) -> np.ndarray:
    """Whether each prediction (N, M) of class indices is among the accepted ones of its image: boolean (N, M)."""
    rows = zip(predictions.tolist(), accepted, strict=True)
    return np.array([[one in own for one in row] for row, own in rows], bool).reshape(predictions.shape)


def chance(images: ShiftedImages) -> float:
    """Accuracy in percent of a prediction drawn among the candidates."""
    return 100 * float(np.mean([len(set(own)) for own in images.accepted])) / len(images.candidates)


def most_frequent(images: ShiftedImages) -> float:
    """Accuracy in percent of the one class that is right for most images, given for all of them."""
    counts = np.bincount([label for own in images.accepted for label in set(own)])
    return 100 * float(counts.max()) / len(images.accepted)
