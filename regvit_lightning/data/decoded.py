"""Images of a small training set, decoded once in each process: at 64 pixels a fifth of the work of reading one."""

import os
from dataclasses import dataclass, field

from PIL import Image

from regvit_lightning.data.images import Files

MOST_BYTES = 256 * 2**20  # of decoded images in each process; no image of a larger set is held
BYTES_OF_PIXEL = 4  # Pillow's, for RGB
TOO_LARGE = -1

Stamp = tuple[int, int, int]


@dataclass(eq=False)
class Decoded:
    """Files whose decoded images are held in memory if all of them fit into `MOST_BYTES`, as large as the first one.

    An image whose file has changed (its inode, size or modification time) is decoded again. The images that are handed
    out are shared: a transform must not change them in place.

    Attributes:
        files: the training images.
        held: images with the stamps of their files, by index.
        room: bytes that are left, None before the first image; `TOO_LARGE` where none is held.
    """

    files: Files
    held: dict[int, tuple[Stamp, Image.Image]] = field(default_factory=dict)
    room: int | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty where there are no labels."""
        return self.files.classes

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> str:
        """Location of one image, as text."""
        return self.files.path(index)

    def source(self, index: int) -> str:
        """Path of the file that holds one image."""
        return self.files.source(index)

    def open(self, index: int) -> Image.Image:
        """Decode one image as RGB, or raise `DataError`."""
        if self.room == TOO_LARGE:
            return self.files.open(index)
        stamp = _stamp(self.files.source(index))
        if index in self.held and self.held[index][0] == stamp:
            return self.held[index][1]
        image = self.files.open(index)
        self._hold(index, stamp, image)
        return image

    def _hold(self, index: int, stamp: Stamp | None, image: Image.Image) -> None:
        size = BYTES_OF_PIXEL * image.width * image.height
        if self.room is None:
            self.room = MOST_BYTES if len(self) * size <= MOST_BYTES else TOO_LARGE
        self.held.pop(index, None)  # of the file before it changed; its bytes stay counted
        if stamp is not None and size <= self.room:
            self.room -= size
            self.held[index] = stamp, image


def _stamp(file: str) -> Stamp | None:
    """Facts that change with the content of a file; None if there is none."""
    try:
        facts = os.stat(file)
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
