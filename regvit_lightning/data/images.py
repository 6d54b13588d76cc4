"""One image of a file: decoding it, what is told of one that cannot be decoded, and passing over it in training."""

from collections.abc import Callable
from typing import Any, Protocol

from PIL import Image

from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import one_line

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

UNDECODABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises

Transform = Callable[[Image.Image], Any]  # to uint8 (3, H, W), or to such tensors by name


class Files(Protocol):
    """What a run trains on: images that are asked for by their place."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, none where there are no labels."""

    def __len__(self) -> int: ...

    def path(self, index: int) -> str:
        """Where one image lies, in words."""

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
    """What to raise for a file that a decoder refuses.

    Args:
        file: what it is and where it lies, such as `image a/b.jpg`.
        error: of Pillow, or of what reads with it.
        advice: what to do.
    """
    reason = "not an image" if "cannot identify" in str(error) else one_line(error)
    return DataError(f"unreadable {file}: {reason}; {advice}")


def open_readable(files: Files, start: int, replace: bool = True) -> tuple[Image.Image, int, list[int]]:
    """The image with the index `start`, or the first one after it that can be read.

    Args:
        files: what is trained on; after the last image comes the first.
        start: index of the image that was drawn.
        replace: False takes that image or none.

    Returns:
        The image as RGB, its index, and the indices of the images before it that cannot be read.

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
