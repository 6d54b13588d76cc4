"""Images with boxes around their objects, independent of the annotation format, and errors for invalid ones.

A box is x1, y1, x2, y2 in pixels, from the upper left corner of the image; it contains the pixels x1 <= x < x2.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from regvit_lightning.data.images import open_image
from regvit_lightning.data.layout import DataError

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
    """

    paths: npt.NDArray[np.bytes_]
    sizes: npt.NDArray[np.int64]
    boxes: Sequence[Boxes]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        """Path of one image."""
        return os.fsdecode(bytes(self.paths[index]))


def with_sizes(paths: Sequence[Path], boxes: Sequence[Boxes], left_out: Mapping[str, int] | None = None) -> BoxedImages:
    """Read the image sizes, for which the header is enough, and check that the boxes lie within the images.

    Raises:
        DataError: an image that cannot be read, or a box that is empty or outside its image.
    """
    sizes = [_size(path) for path in paths]
    for path, size, own in zip(paths, sizes, boxes, strict=True):
        _check(path, size, own)
    names = np.array([os.fsencode(path) for path in paths])
    return BoxedImages(names, np.array(sizes, np.int64).reshape(-1, 2), boxes, left_out or {})


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except Exception:
        open_image(str(path))  # reports in one line what is wrong with the file
        raise


def _check(path: Path, size: tuple[int, int], boxes: Boxes) -> None:
    for box in boxes:
        inside = box[:2].min() >= -OVER_THE_EDGE and (box[2:] <= np.add(size, OVER_THE_EDGE)).all()
        if not inside or (box[2:] <= box[:2]).any():
            fault = "is empty" if inside else f"lies outside of the image, {size[0]} × {size[1]} px"
            corners = ", ".join(f"{corner:g}" for corner in box)
            raise DataError(f"{path}: its box {corners} (x1, y1, x2, y2) {fault}; correct the annotation")
