"""Images with one caption each, stored as arrays and read by index, whatever they come from.

A pair that cannot be used, because its image, its caption or the text in it is missing, is left out and counted: among
millions from the web there are always some.
"""

import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from regvit_lightning.data import parquet
from regvit_lightning.data.images import EXTENSIONS, Convert, as_rgb, decode, open_image
from regvit_lightning.data.layout import DataError
from regvit_lightning.data.listing import LeftOut
from regvit_lightning.errors import one_line

CAPTION, LABEL = ".txt", ".cls"
WHOLE_FILE, ROW = -1, -2  # instead of the size of an image in a shard

NO_CAPTION = "without caption"
NO_LABEL = "without label"
NO_IMAGE = "captions without image"
NO_NUMBER = "with a label that is no number of a class"
EMPTY = "with an empty caption"
NOT_UTF_8 = "with a caption that is not UTF-8"
SECOND = "with the name of another image"


class CaptionedImage(NamedTuple):
    """Location of an image, and its caption.

    Attributes:
        file: index into `files`.
        offset, size: byte range of the image in that file; size `WHOLE_FILE` if the file is the image, `ROW` if
            offset is a row of a Parquet file.
        caption: its text, not empty.
    """

    file: int
    offset: int
    size: int
    caption: str


@dataclass(frozen=True, eq=False)
class CaptionedImages:
    """Pairs of one data set, stored as arrays: Python objects by the million would be copied into every worker process.

    Attributes:
        files: (F,) paths of shards or images.
        file, offset, size: (N,) as in `CaptionedImage`.
        texts: the captions in UTF-8, concatenated.
        ends: (N,) end of each caption in `texts`.
        classes: empty; the captions are the labels.
    """

    files: npt.NDArray[np.bytes_]
    file: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    texts: npt.NDArray[np.uint8]
    ends: npt.NDArray[np.int64]

    @property
    def classes(self) -> tuple[str, ...]:
        return ()

    def __len__(self) -> int:
        return len(self.file)

    def caption(self, index: int) -> str:
        """Caption of one image."""
        return self.texts[self.ends[index - 1] if index else 0 : self.ends[index]].tobytes().decode()

    def path(self, index: int) -> str:
        """Path of one image; in a shard, with the member's name or the row."""
        file, offset, size = self.source(index), int(self.offset[index]), int(self.size[index])
        if size == WHOLE_FILE:
            return file
        return f"{file}: row {offset:,}" if size == ROW else f"{file}: {_member(file, offset)}"

    def open(self, index: int, convert: Convert | None = None) -> Image.Image:
        """Decode one image as RGB, in full unless `convert` does otherwise.

        Raises:
            DataError: it cannot be read or is truncated.
        """
        if self.size[index] == WHOLE_FILE:
            return open_image(self.source(index), convert)
        rgb = convert or as_rgb
        return decode(self._content(index), lambda: f"image {self.path(index)}", rgb, "restore or remove it")

    def _content(self, index: int) -> bytes:
        file, offset, size = self.source(index), int(self.offset[index]), int(self.size[index])
        if size == ROW:
            return parquet.image(file, offset)
        try:
            with open(file, "rb") as shard:
                shard.seek(offset)
                return shard.read(size)
        except OSError as error:
            raise DataError(f"unreadable image {self.path(index)}: {one_line(error)}; restore it") from None

    def source(self, index: int) -> str:
        """Path of the file that holds one image: itself, or a shard."""
        return os.fsdecode(bytes(self.files[self.file[index]]))


def arrays_of(pairs: Sequence[CaptionedImage]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of `CaptionedImages` for some pairs, with the lengths of the captions."""
    texts = [pair.caption.encode() for pair in pairs]
    return {
        "file": np.array([pair.file for pair in pairs], np.int32),
        "offset": np.array([pair.offset for pair in pairs], np.int64),
        "size": np.array([pair.size for pair in pairs], np.int64),
        "texts": np.frombuffer(b"".join(texts), np.uint8),
        "lengths": np.array([len(text) for text in texts], np.int64),
    }


def joined(files: Sequence[Path], parts: Sequence[dict[str, npt.NDArray[Any]]]) -> CaptionedImages:
    """Join the arrays of all parts, see `arrays_of`."""
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return CaptionedImages(files=encoded(files), ends=whole.pop("lengths").cumsum(), **whole)


def encoded(files: Sequence[Path]) -> npt.NDArray[np.bytes_]:
    """Paths as an array of bytes."""
    return np.array([os.fsencode(file) for file in files])


def usable(text: bytes | str | None, name: str, left_out: LeftOut) -> str:
    """The caption without white space around it; empty, and counted in `left_out`, if there is nothing to read."""
    try:
        caption = (text.decode("utf-8-sig") if isinstance(text, bytes) else text or "").strip()
        caption.encode()  # a lone surrogate cannot be stored
    except UnicodeError:
        left_out.add(NOT_UTF_8, name)
        return ""
    if not caption:
        left_out.add(EMPTY, name)
    return caption


def number_of(text: bytes, name: str, left_out: LeftOut) -> str:
    """The number of a class as its digits; empty, and counted in `left_out`, if it is none below 1,000,000."""
    digits = text.strip()
    if not (digits.isdigit() and digits.isascii() and len(digits) <= 6):
        left_out.add(NO_NUMBER, name)
        return ""
    return digits.decode()


def check_any(pairs: int, source: object, left_out: LeftOut, beside: str = CAPTION) -> None:
    """Raise `DataError` if no pair is left."""
    if not pairs:
        reason = f"; left out: {left_out}" if str(left_out) else ""
        second = "a caption" if beside == CAPTION else "the number of its class"
        expected = f"a pair of an image ({', '.join(EXTENSIONS)}) and {second} ({beside})"
        raise DataError(f"{source}: holds no pair: expected {expected}{reason}")


def _member(file: str, offset: int) -> str:
    # In a tar, the header of a member is the block before its content.
    try:
        with open(file, "rb") as shard:
            shard.seek(offset - tarfile.BLOCKSIZE)
            return tarfile.TarInfo.frombuf(shard.read(tarfile.BLOCKSIZE), "utf-8", "replace").name
    except (OSError, tarfile.TarError):
        return f"byte {offset:,}, where the shard no longer has the member that it had"
