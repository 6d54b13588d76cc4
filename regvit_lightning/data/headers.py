"""What the headers of image files tell, so that pairs are checked before a run and not where one is first decoded."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from regvit_lightning.data.images import decode, rotation
from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import Notice

MOST_ELONGATED = 100  # long side over short side; resized by its short side, such an image would take gigabytes
SIDEWAYS = 5  # EXIF orientations from 5 on swap width and height
TURN = "turn its pixels for good (exiftran -ai, or mogrify -auto-orient) or annotate the pixels as stored"


@dataclass(frozen=True)
class Header:
    """Facts from the header of an image file.

    Attributes:
        path: the file.
        size: width and height in stored pixels.
        rotation: EXIF orientation 1..8, which no reader applies.
    """

    path: str
    size: tuple[int, int]
    rotation: int


def header(path: str) -> Header:
    """Read the header of a photograph.

    Raises:
        DataError: not an image, or damaged there.
    """
    return decode(path, f"image {path}", lambda image: _facts(path, image))


def _facts(path: str, image: Image.Image) -> Header:
    return Header(path, image.size, rotation(image))


def check_size(image: Header, annotation: str, size: Sequence[int]) -> None:
    """Check that an annotation is made for an image of this size.

    Args:
        image: the image.
        annotation: description and path, such as `mask a/b.png`.
        size: width and height that the annotation has or states.

    Raises:
        DataError: another size; the message says so if it is that of the image turned by its EXIF orientation.
    """
    if tuple(size) != image.size:
        check_turned(image, annotation, size)
        raise DataError(f"{_sizes(image, annotation, size)}: not a pair")


def check_turned(image: Header, annotation: str, size: Sequence[int]) -> None:
    """Raise `DataError` if an annotation of this size is made for the image as its EXIF orientation shows it."""
    if tuple(size) == image.size[::-1] and image.rotation >= SIDEWAYS:
        rule = "it is made for the image turned by its EXIF orientation, which is not applied"
        raise DataError(f"{_sizes(image, annotation, size)}: {rule}; {TURN}")


def _sizes(image: Header, annotation: str, size: Sequence[int]) -> str:
    width, height = image.size
    return f"{annotation} is {size[0]} × {size[1]} px, its image {image.path} {width} × {height}"


def check_ratio(image: Header) -> None:
    """Raise `DataError` for an image that is too elongated to be resized by its short side."""
    if max(image.size) > MOST_ELONGATED * min(image.size):
        width, height = image.size
        limit = f"more than {MOST_ELONGATED} times as long as wide"
        raise DataError(f"image {image.path} is {width} × {height} px, {limit}; cut it or take it away")


def report_rotations(source: object, images: Iterable[Header]) -> None:
    """Warn with one `Notice` if images of an annotated set carry an EXIF orientation."""
    turned = [image.path for image in images if image.rotation != 1]
    if turned:
        rule = "which is not applied: their annotations must be made for the pixels as stored"
        warnings.warn(
            f"{source}: {len(turned):,} images carry an EXIF orientation (first {turned[0]}), {rule}",
            Notice,
            stacklevel=2,
        )
