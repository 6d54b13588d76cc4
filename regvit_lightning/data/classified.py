"""Images with classes in two or three splits, for logistic regression: every layout of `classified_layouts` as one."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from regvit_lightning.data import classified_layouts
from regvit_lightning.data.classified_layouts import Listed, Pixels
from regvit_lightning.data.completeness import check_count, check_rendered, find_files
from regvit_lightning.data.images import open_image
from regvit_lightning.data.layout import DataError, DataSettings


@dataclass(frozen=True, eq=False)
class Split:
    """Images of one split, read as `imagenet.Ordered` reads files; `labels` are their indices.

    Attributes:
        source: paths of the images, or their pixels.
        targets: (N,) class indices; or (N, K) of 1, 0, and NaN where it is not known, for images with several classes.
    """

    source: Sequence[str] | Pixels
    targets: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """Index of each image."""
        return np.arange(len(self), dtype=np.int64)

    def open(self, index: int) -> Image.Image:
        """Decode one image as RGB.

        Raises:
            DataError: the file cannot be read or is truncated.
        """
        if isinstance(self.source, Pixels):
            return self.source.open(index)
        return open_image(self.source[index])

    def subset(self, keep: Sequence[int]) -> "Split":
        """The images at the indices `keep`."""
        if isinstance(self.source, Pixels):
            return Split(Pixels(self.source.values[keep]), self.targets[keep])
        return Split([self.source[index] for index in keep], self.targets[keep])


@dataclass(frozen=True)
class ClassifiedImages:
    """One set.

    Attributes:
        classes: names of the classes, in the order of their indices.
        train, test: the splits.
        held_out: the split on which its authors choose; None where they have none.
    """

    classes: tuple[str, ...]
    train: Split
    held_out: Split | None
    test: Split

    def splits(self) -> list[Split]:
        """Train, held-out where it is there, and test."""
        return [self.train, *([] if self.held_out is None else [self.held_out]), self.test]


def classified_images(data: DataSettings, name: str) -> ClassifiedImages:
    """Load the set called `name`.

    Raises:
        SettingsError: no such set of this data.
        DataError: a folder, a list or an image is missing; a list that is malformed; a split without images.
    """
    layout = data.classified_set(name)
    check_rendered(data)
    root = Path(data.root, layout.folder)
    if not root.is_dir():
        raise DataError(f"no folder {root} with the images of {name}; {data.get}")
    listed = classified_layouts.read(root, layout, data.get)
    for number, (title, part) in enumerate(listed.splits.items()):
        if not len(part.targets):
            raise DataError(f"{root}: no image in {title}; {data.get}")
        if part.targets.ndim == 1 and not 0 <= part.targets.min() <= part.targets.max() < len(listed.classes):
            numbers = f"numbers {part.targets.min()} to {part.targets.max()} of {len(listed.classes)} classes from 0"
            raise DataError(f"{root}: the labels of {title} are {numbers}; {data.get}")
        check_count(data, name, number, len(part.targets), f"{name} {title} in {root} has")
    parts = [_split(root, title, part, data.get) for title, part in listed.splits.items()]
    return ClassifiedImages(listed.classes, parts[0], parts[1] if len(parts) == 3 else None, parts[-1])


def _split(root: Path, title: str, part: Listed, get: str) -> Split:
    if isinstance(part.source, Pixels):
        return Split(part.source, part.targets)
    return Split(find_files(Path(f"{root} ({title})"), [str(root / path) for path in part.source], get), part.targets)
