"""Decoding of single images, error messages for unreadable ones, and skipping those in training."""

from collections.abc import Callable
from typing import Any, Protocol

from PIL import Image

from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import one_line

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

UNDECODABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # exceptions that Pillow raises

Transform = Callable[[Image.Image], Any]  # to uint8 (3, H, W), or to such tensors by name


class Files(Protocol):
    """Training images accessed by index."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty where there are no labels."""

    def __len__(self) -> int: ...

    def path(self, index: int) -> str:
        """Location of one image, as text."""

    def open(self, index: int) -> Image.Image:
        """Decode one image as RGB, or raise `DataError`."""


def open_image(path: str) -> Image.Image:
    """Decode one image as RGB.

    Raises:
        DataError: the file cannot be read or is truncated.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except UNDECODABLE as error:
        raise decoding_error(f"image {path}", error) from None


def decoding_error(file: str, error: Exception, advice: str = "restore or remove the file") -> DataError:
    """Error to raise for a file that cannot be decoded.

    Args:
        file: description and path of the file, such as `image a/b.jpg`.
        error: exception of Pillow, or of a reader based on it.
        advice: what the user should do.
    """
    reason = "not an image" if "cannot identify" in str(error) else one_line(error)
    return DataError(f"unreadable {file}: {reason}; {advice}")


def open_readable(files: Files, start: int, replace: bool = True) -> tuple[Image.Image, int, list[int]]:
    """Open the image with the index `start`, or the first readable one after it.

    Args:
        files: the training images; the search wraps around after the last one.
        start: index of the image that was drawn.
        replace: False tries only that image.

    Returns:
        The image as RGB, its index, and the indices of the unreadable images before it.

    Raises:
        DataError: none of them can be read.
    """
    index, unreadable = start, list[int]()
    while True:
        try:
            return files.open(index), index, unreadable
        except DataError:
            unreadable.append(index)
            index = (index + 1) % len(files)
            if index == start or not replace:
                raise
