"""Decoding of image files: the only place where Pillow opens one, and the errors for those that cannot be decoded.

Every reader of photographs, masks and depth maps passes through `decode`. Pixels are read in the order in which they
are stored, for all tasks: a camera's EXIF orientation is not applied, as in torchvision, timm, DINOv2, LOST and COCO's
tools, whose boxes and masks are in stored pixels, too. `rotation` tells the readers of annotations when this matters.
"""

import io
import os
import stat
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
from PIL import Image

from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import one_line

# By content, whatever the name: Pillow's other readers are not tried, as some start programs (Ghostscript for EPS).
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "AVIF")
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff"),
    *(".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".avif"),
)

MOST_PIXELS = 2 * 89_478_485  # beyond this Pillow refuses to decode, to stop decompression bombs
FROM_16_TO_8_BITS = 257  # 65535 / 255
ORIENTATION = 0x0112  # EXIF tag; 1 means as stored
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # chunks that Pillow bounds in size and that no pixel depends on

T = TypeVar("T")
Transform = Callable[[Image.Image], Any]  # to uint8 (3, H, W), or to such tensors by name
Convert = Callable[[Image.Image], Image.Image]  # from an image that Pillow has opened and not decoded to RGB


class Files(Protocol):
    """Training images accessed by index."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty where there are no labels."""

    def __len__(self) -> int: ...

    def path(self, index: int) -> str:
        """Location of one image, as text."""

    def source(self, index: int) -> str:
        """Path of the file that holds one image."""

    def open(self, index: int, convert: Convert | None = None) -> Image.Image:
        """Decode one image as RGB, in full unless `convert` does otherwise, or raise `DataError`."""


def open_image(path: str, convert: Convert | None = None) -> Image.Image:
    """Decode one image as RGB, by `as_rgb` unless another conversion is given.

    Raises:
        DataError: the file cannot be read, is truncated, or has pixels without a stated range.
    """
    return decode(path, f"image {path}", convert or as_rgb)


def decode(
    file: str | bytes,
    name: str | Callable[[], str],
    convert: Callable[[Image.Image], T],
    advice: str = "restore or remove the file",
) -> T:
    """Open an image file and convert it.

    Args:
        file: path, or content.
        name: description and path for messages, such as `image a/b.jpg`; or a function that looks it up.
        convert: takes the image as Pillow opens it, pixels not yet decoded; raises `ValueError` for what does not fit.
        advice: what the user should do about a damaged file.

    Raises:
        DataError: not one of `FORMATS`, damaged, too large, or refused by `convert`.
    """
    try:
        if isinstance(file, str):
            _check_plain(file)
        return _converted(file, convert)
    except DataError:
        raise
    except Exception as error:  # Pillow's readers raise unrelated classes on damaged content
        raise _decoding_error(name if isinstance(name, str) else name(), error, advice) from None


def _check_plain(path: str) -> None:
    """Raise `ValueError` for a folder, and for a pipe or a device, which would block."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(f"it is {'a folder' if stat.S_ISDIR(mode) else 'not a plain file'}; rename or remove it")


def _converted(file: str | bytes, convert: Callable[[Image.Image], T]) -> T:
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS) as image:
            return convert(image)
    except ValueError as error:
        if "MAX_TEXT" not in str(error):  # the limits of PngImagePlugin
            raise
    with Image.open(_without_text(file), formats=FORMATS) as image:
        return convert(image)


def _without_text(file: str | bytes) -> io.BytesIO:
    """A PNG without its texts and its colour profile, which may be too large for Pillow."""
    if isinstance(file, str):
        with open(file, "rb") as opened:
            file = opened.read()
    kept, start = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while start < len(file):
        end = start + 12 + int.from_bytes(file[start : start + 4], "big")  # length, kind, content, checksum
        if file[start + 4 : start + 8] not in PNG_TEXT:
            kept.append(file[start:end])
        start = end
    return io.BytesIO(b"".join(kept))


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB with 8 bits.

    Grey images of 16 bits are scaled from 0..65535 to 0..255. All other modes are left to Pillow, which ignores
    transparency.

    Raises:
        ValueError: 32-bit integers or floating-point numbers, which have no stated range.
    """
    wide = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")  # scaled to 16 bits by Pillow
    if wide:
        grey = np.rint(np.asarray(image) / FROM_16_TO_8_BITS).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F"):
        kind = {"I": "32-bit integers", "F": "floating-point numbers"}[image.mode]
        raise ValueError(f"its pixels are {kind} without a stated range; convert it to 8 or 16 bits")
    return image.convert("RGB")


def rotation(image: Image.Image) -> int:
    """EXIF orientation 1..8 of an opened image; 1 for the stored one, 5..8 swap width and height.

    The orientation of a TIFF belongs to its format, and Pillow applies it itself.
    """
    if "exif" not in image.info or image.format == "TIFF":  # without it, getexif would decode a PNG
        return 1
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data, whatever Pillow raises: shown as it is stored
        return 1
    return value if value in range(1, 9) else 1


def _decoding_error(file: str, error: Exception, advice: str) -> DataError:
    if isinstance(error, Image.DecompressionBombError):
        return DataError(f"unreadable {file}: it has more than {MOST_PIXELS:,} pixels, Pillow's limit; shrink it")
    reason = "not an image" if "cannot identify" in str(error) else one_line(error)
    return DataError(f"unreadable {file}: {reason}{'' if '; ' in reason else f'; {advice}'}")


def open_readable(
    files: Files, opener: Callable[[int], T], start: int, replace: bool = True
) -> tuple[T, int, list[int]]:
    """Open the image with the index `start`, or the first readable one after it.

    Args:
        files: the training images; the search wraps around after the last one.
        opener: gives the image with an index, or raises `DataError`, such as `files.open`.
        start: index of the image that was drawn.
        replace: False tries only that image.

    Returns:
        The image, its index, and the indices of the unreadable images before it.

    Raises:
        DataError: none of them can be read.
    """
    index, unreadable = start, list[int]()
    while True:
        try:
            return opener(index), index, unreadable
        except DataError:
            unreadable.append(index)
            index = (index + 1) % len(files)
            if index == start or not replace:
                raise
