"""Images of a small training set, decoded once: at 64 pixels most of the work of reading one.

What an augmentation does to every image before its first random draw, such as resizing, is done once, too. The pixels
are one array that all processes share: a memory-mapped file beside the images, which the next run finds again, or
memory where none can be written.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from regvit_lightning.data import kept_index
from regvit_lightning.data.augmentation import ResizedCrop
from regvit_lightning.data.images import Files
from regvit_lightning.data.layout import DataError

MOST_BYTES = 256 * 2**20  # of the pixels of a set; of a larger one, every image is decoded whenever it is drawn
KEPT = ("pixels", "ends", "sizes", "stamps", "digest")  # arrays of a stored set
GONE = (0, 0, 0, 0)  # stamp of an image that is not stored

Stamp = tuple[int, int, int, int]
Pixels = npt.NDArray[np.uint8]  # (H, W, 3), not to be changed in place


@dataclass(frozen=True)
class Fixed:
    """First steps of an augmentation, without any random draw.

    Attributes:
        name: words for a file name, different for steps that give different pixels.
        steps: the steps, from image to image.
    """

    name: str = "whole"
    steps: Sequence[Callable[[Image.Image], Image.Image]] = ()

    def __call__(self, image: Image.Image) -> Image.Image:
        for step in self.steps:
            image = step(image)
        return image


WHOLE = Fixed()


@dataclass(eq=False)
class Decoded:
    """Training images after their fixed steps, stored if all of them fit into `MOST_BYTES`, as large as the first one.

    Where they do not fit after the fixed steps but do as they are, the decoded images are stored. They are stored when
    the first one is asked for; of several runs that begin at once, one stores them and the others wait for it. An image
    whose file has changed since (its inode, size or a time of change) is decoded again.

    Attributes:
        files: the training images.
        fixed: steps that belong to every image.
        beside: folder of the images: the arrays are kept beside it; None keeps them in memory.
    """

    files: Files
    fixed: Fixed = WHOLE
    beside: Path | None = None
    _stored: kept_index.Arrays | None = field(default=None, init=False, repr=False)
    _left: Fixed = field(default=WHOLE, init=False, repr=False)  # steps that stored images still need
    _asked: bool = field(default=False, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.files)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_stored": None, "_asked": False}  # a process that is not forked maps the file itself

    def open(self, index: int) -> Image.Image:
        """One image as RGB after the fixed steps, or raise `DataError`."""
        stored = self._pixels(index)
        return self.fixed(self.files.open(index)) if stored is None else self._left(Image.fromarray(stored))

    def crop(self, index: int, crop: ResizedCrop) -> Image.Image:
        """A random crop of one image, without fixed steps; of a large JPEG that is not stored by `draft`.

        Raises:
            DataError: the image cannot be read.
        """
        stored = self._pixels(index)
        return self.files.open(index, crop.of_opened) if stored is None else crop(Image.fromarray(stored))

    def pixels(self, index: int) -> Pixels:
        """Pixels of one image after the fixed steps, or raise `DataError`."""
        stored = self._pixels(index)
        return stored if stored is not None and not self._left.steps else np.asarray(self.open(index))

    def _pixels(self, index: int) -> Pixels | None:
        if not self._asked:
            self._asked = True
            self._store()
        if self._stored is None or (stamp := _stamp(self.files.source(index))) is None:
            return None
        kept = self._stored
        if stamp != tuple(kept["stamps"][index].tolist()):
            return None
        height, width = kept["sizes"][index].tolist()
        end = int(kept["ends"][index])
        flat: Pixels = kept["pixels"][end - 3 * height * width : end]
        return flat.reshape(height, width, 3)

    def _store(self) -> None:
        for stored, left in ((self.fixed, WHOLE), (WHOLE, self.fixed)):
            if _fits(self.files, stored):
                arrays = _found_or_made(self.files, stored, self.beside)
                self._stored = {name: np.asarray(array) for name, array in arrays.items()}  # memmap's methods are slow
                self._left = left
                return


def _fits(files: Files, fixed: Fixed) -> bool:
    """Whether all images, as large as the first one that can be read, are at most `MOST_BYTES`."""
    for index in range(len(files)):
        try:
            width, height = fixed(files.open(index)).size
        except DataError:
            continue
        return 3 * width * height * len(files) <= MOST_BYTES
    return False


def _found_or_made(files: Files, fixed: Fixed, beside: Path | None) -> kept_index.Arrays:
    """The stored arrays, from disk if they are there and every file is as it was."""
    if beside is None:
        return _made(files, fixed, b"")
    folder = kept_index.location(beside.absolute().parent / ".index" / f"{beside.name}-{fixed.name}.decoded")
    digest = _digest(files, fixed)
    with kept_index.in_turn(folder):
        kept = kept_index.read(folder, KEPT)
        if kept is not None and bytes(kept["digest"][0]) == digest:
            return kept
        made = _made(files, fixed, digest)
        there = kept_index.keep(folder, made)  # otherwise earlier ones may be there still
        return (kept_index.read(folder, KEPT) if there else None) or made


def _digest(files: Files, fixed: Fixed) -> bytes:
    """Digest of the list of files with their stamps, of the fixed steps, and of the library that decodes."""
    digest = hashlib.sha256(f"{fixed.name} {PIL.__version__}".encode())
    for index in range(len(files)):
        digest.update(f"\0{files.path(index)}\0{_stamp(files.source(index))}".encode(errors="surrogateescape"))
    return digest.hexdigest().encode()


def _made(files: Files, fixed: Fixed, digest: bytes) -> kept_index.Arrays:
    """Decode all images that can be read, one after another, until `MOST_BYTES` are full."""
    pixels, ends, sizes, stamps = bytearray(), list[int](), list[Stamp | tuple[int, int]](), list[Stamp]()
    for index in range(len(files)):
        stamp = _stamp(files.source(index)) or GONE
        try:
            image = np.asarray(fixed(files.open(index)))
        except DataError:  # reported where the image is drawn
            stamp = GONE
        if stamp != GONE and len(pixels) + image.nbytes <= MOST_BYTES:
            pixels += image.tobytes()
            sizes.append(image.shape[:2])
        else:
            stamp = GONE
            sizes.append((0, 0))
        ends.append(len(pixels))
        stamps.append(stamp)
    arrays = {"ends": ends, "sizes": sizes, "stamps": stamps, "digest": [digest]}
    return {"pixels": np.frombuffer(pixels, np.uint8), **{name: np.array(values) for name, values in arrays.items()}}


def _stamp(file: str) -> Stamp | None:
    """Facts that change with the content of a file; None if there is none."""
    try:
        facts = os.stat(file)
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
