"""Images with boxes around their objects, independent of the annotation format, and errors for invalid ones.

A box is x1, y1, x2, y2 in pixels, from the upper left corner of the image; it contains the pixels x1 <= x < x2.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from regvit_lightning.data.headers import Header, check_turned, header, report_rotations
from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import Notice

OVER_THE_EDGE = 1.0  # pixels by which a box may exceed its image: tolerates rounding and off-by-one conventions

Boxes = npt.NDArray[np.float64]  # (M, 4)


@dataclass(frozen=True, eq=False)
class BoxedImages:
    """Images of one set, in the order of its list.

    Attributes:
        paths: (N,) bytes.
        sizes: (N, 2) width and height in pixels, from the file headers.
        boxes: N arrays (M, 4); M is 0 where all boxes of an image were left out.
        left_out: number of boxes that the reader left out, by reason.
        classes: class names of the boxes of each image; an empty name where the annotation gives none.
    """

    paths: npt.NDArray[np.bytes_]
    sizes: npt.NDArray[np.int64]
    boxes: Sequence[Boxes]
    left_out: Mapping[str, int] = field(default_factory=dict)
    classes: Sequence[Sequence[str]] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        """Path of one image."""
        return os.fsdecode(bytes(self.paths[index]))


class Annotation(NamedTuple):
    """Annotation of one image.

    Attributes:
        boxes: (M, 4).
        size: width and height of the image that it states, or None.
        classes: class name of each box, empty where none is given.
    """

    boxes: Boxes
    size: tuple[int, int] | None
    classes: Sequence[str] = ()


def with_sizes(
    source: Path, paths: Sequence[Path], annotations: Sequence[Annotation], left_out: Mapping[str, int] | None = None
) -> BoxedImages:
    """Read the image sizes, for which the header is enough, and check that the boxes lie within the images.

    A `Notice` says how many annotations state another size than their image has, and how many images carry an EXIF
    orientation, which is not applied.

    Args:
        source: list or annotations that name the images, for messages.

    Raises:
        DataError: an image that cannot be read, or a box that is empty or outside its image.
    """
    headers = [header(str(path)) for path in paths]
    for image, annotation in zip(headers, annotations, strict=True):
        if annotation.size == image.size[::-1]:
            check_turned(image, "annotation", annotation.size)
        _check(image, annotation.boxes)
    report_rotations(source, headers)
    _report_sizes(source, headers, annotations)
    names = np.array([os.fsencode(path) for path in paths])
    sizes = np.array([image.size for image in headers], np.int64).reshape(-1, 2)
    boxes, classes = ([one.boxes for one in annotations], [one.classes for one in annotations])
    return BoxedImages(names, sizes, boxes, left_out or {}, classes)


def _report_sizes(source: Path, headers: Sequence[Header], annotations: Sequence[Annotation]) -> None:
    pairs = zip(headers, annotations, strict=True)
    others = [image.path for image, annotation in pairs if annotation.size not in (None, image.size)]
    if others:
        text = (
            f"{len(others):,} annotations state another size than their image has (first {others[0]}): check the boxes"
        )
        warnings.warn(f"{source}: {text}", Notice, stacklevel=2)


def check_pixels(source: str, corners: npt.NDArray[np.float64]) -> None:
    """Raise `DataError` if one of the boxes (M, 4), as the annotation gives them, is not in pixels but in 0..1."""
    for box in corners:
        if box.min() >= 0 and box.max() <= 1:
            shown = ", ".join(f"{corner:g}" for corner in box)
            raise DataError(f"{source}: its box {shown} lies in 0..1: expected pixels; convert or correct it")


def _check(image: Header, boxes: Boxes) -> None:
    for box in boxes:
        inside = box[:2].min() >= -OVER_THE_EDGE and (box[2:] <= np.add(image.size, OVER_THE_EDGE)).all()
        if not inside or (np.minimum(box[2:], image.size) <= np.maximum(box[:2], 0)).any():
            fault = "is empty" if inside else f"lies outside of the image, {image.size[0]} × {image.size[1]} px"
            corners = ", ".join(f"{corner:g}" for corner in box)
            raise DataError(f"{image.path}: its box {corners} (x1, y1, x2, y2) {fault}; correct the annotation")
