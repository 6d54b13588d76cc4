"""Labelled images in webdataset's shards: <key>.jpg and <key>.cls, the number of its class, in uncompressed tars.

For training over a network, where millions of single files are slow: a shard is read in pieces of whole images. Images
are drawn by index, as from class folders, so a run on shards has the bits of one on folders with the same order.
"""

import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from regvit_lightning.data import parquet
from regvit_lightning.data.captioned import LABEL, CaptionedImages
from regvit_lightning.data.images import Convert
from regvit_lightning.data.layout import DataError
from regvit_lightning.data.shards import from_shards


@dataclass(frozen=True, eq=False)
class LabelledShards:
    """Images in shards with the numbers of their classes.

    Attributes:
        images: the images, whose captions are the numbers.
        labels: (N,) class indices.
        classes: the numbers as names, from 0 to the largest that occurs.
        root: empty; decoded images are kept beside folders, not beside shards.
    """

    images: CaptionedImages
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    root: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        """Shard and name of one image in it."""
        return self.images.path(index)

    def source(self, index: int) -> str:
        """Path of the shard that holds one image."""
        return self.images.source(index)

    def open(self, index: int, convert: Convert | None = None) -> Image.Image:
        """Decode one image as RGB, in full unless `convert` does otherwise.

        Raises:
            DataError: it cannot be read or is truncated.
        """
        return self.images.open(index, convert)

    def subset(self, keep: Sequence[int]) -> "LabelledShards":
        """The images at the indices `keep`, with all classes; without captions."""
        places = {name: getattr(self.images, name)[keep] for name in ("file", "offset", "size", "ends")}
        return LabelledShards(replace(self.images, **places), self.labels[keep], self.classes)


def labelled_shards(root: str, pattern: str, get: str = "") -> LabelledShards:
    """Index the shards that match `pattern` below `root`, see `from_shards`.

    Raises:
        DataError: no shards, no labelled image in them, or one is truncated, empty or compressed.
    """
    shards = [Path(shard) for shard in sorted(glob.glob(str(Path(glob.escape(root), pattern))))]
    others = [shard for shard in shards if shard.suffix == parquet.SUFFIX]
    if others:
        raise DataError(
            f"{others[0]}: Parquet holds captions; labelled images are read from tar shards, <key>.cls beside"
        )
    images = from_shards(shards, Path(root, pattern), get, LABEL)
    labels = _numbers(images)
    return LabelledShards(images, labels, tuple(map(str, range(int(labels.max()) + 1))))


def _numbers(images: CaptionedImages) -> npt.NDArray[np.int64]:
    """The captions (N,), which are digits, as numbers."""
    lines = np.insert(images.texts, images.ends[:-1], ord("\n"))
    return np.fromstring(lines.tobytes(), np.int64, sep="\n")
