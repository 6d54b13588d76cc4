"""Images with one caption each, for training from text: where they lie, and the data set of drawn samples.

    a pattern such as `shards/train-*.tar`: webdataset's layout, <key>.jpg and <key>.txt in uncompressed tars
    a pattern such as `shards/*.parquet`, or one such file: img2dataset's, an image and its caption in each row
    a table, .csv or .tsv in UTF-8, whose header has a column `filepath` (below the table's folder) and a column
        `title` or `caption`, separated by tabs, commas or semicolons
    a folder of images with a .txt of the same name beside each

Pairs are read by index, so their order is drawn as for class folders, and a resumed run needs no reader state.
"""

import glob
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from regvit_lightning.data.caption_tables import from_table
from regvit_lightning.data.captioned import (
    CAPTION,
    NO_CAPTION,
    NO_IMAGE,
    SECOND,
    WHOLE_FILE,
    CaptionedImage,
    CaptionedImages,
    arrays_of,
    check_any,
    joined,
    usable,
)
from regvit_lightning.data.completeness import check_count, check_rendered
from regvit_lightning.data.decoded import Decoded
from regvit_lightning.data.images import Transform, open_readable
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.listing import LeftOut, composed, is_image, report, walk
from regvit_lightning.data.parquet import SUFFIX as PARQUET
from regvit_lightning.data.shards import from_shards
from regvit_lightning.data.transforms import read_view
from regvit_lightning.runtime import seeds

BESIDE = (CAPTION, ".json")  # files beside an image; img2dataset's facts in JSON are not needed

TOKENISED = 10_000  # captions whose tokens a process holds: 6 MB at 77 tokens, enough for a small set

Tokenize = Callable[[Sequence[str]], Tensor]


def train_pairs(data: DataSettings) -> CaptionedImages:
    """Index the image–text pairs of a data set.

    Raises:
        DataError: missing, incomplete or damaged.
        UserError: a Parquet file without the package that reads it.
    """
    source = Path(data.root, data.pairs)
    check_rendered(data)
    if not data.pairs:
        raise DataError(f"data '{data.name}' names no image-text pairs; give `pairs` in its file of configs/data")
    if glob.has_magic(data.pairs):
        pattern = os.path.join(glob.escape(data.root), data.pairs)
        pairs = from_shards([Path(shard) for shard in sorted(glob.glob(pattern))], source, data.get)
    elif source.is_file() and source.suffix == PARQUET:
        pairs = from_shards([source], source, data.get)
    elif source.is_dir():
        pairs = from_folder(source)
    elif source.is_file():
        pairs = from_table(source)
    else:
        raise DataError(f"no image-text pairs: {source} is not there; {data.get}")
    check_count(data, "pairs", 0, len(pairs), f"{source} holds", "pairs")
    return pairs


def from_folder(folder: Path) -> CaptionedImages:
    """Index images with a text file of the same name beside each, in `folder` and below.

    Pairs without an image or a usable caption are left out, and a `Notice` counts them.

    Raises:
        DataError: no pair.
    """
    left_out = LeftOut()
    images, texts = dict[str, Path](), dict[str, Path]()
    for path in sorted(_files(folder, left_out)):
        key = composed(str(path.relative_to(folder).with_suffix("")))
        if is_image(path.name):
            if key in images:
                left_out.add(SECOND, str(path))
            images.setdefault(key, path)
        elif path.suffix.lower() == CAPTION:
            texts[key] = path
    for lonely, reason in ((images.keys() - texts.keys(), NO_CAPTION), (texts.keys() - images.keys(), NO_IMAGE)):
        for key in sorted(lonely):
            left_out.add(reason, key)
    captions = {key: usable(texts[key].read_bytes(), key, left_out) for key in images if key in texts}
    files = [images[key] for key, caption in captions.items() if caption]
    kept = [caption for caption in captions.values() if caption]
    check_any(len(kept), folder, left_out)
    report(folder, left_out)
    return joined(files, [arrays_of([CaptionedImage(i, 0, WHOLE_FILE, text) for i, text in enumerate(kept)])])


def _files(folder: Path, left_out: LeftOut) -> list[Path]:
    """Images, captions and what img2dataset writes beside them."""
    folders = walk(folder, "", left_out, lambda name: is_image(name) or os.path.splitext(name)[1].lower() in BESIDE)
    return [folder / inside.path / name for inside in folders for name in inside.images]


class DrawnCaptionedImages(Dataset[dict[str, Any]]):
    """Augmented images with tokenised captions for training, indexed by (position in the run, index in the pairs).

    The augmentation of a sample depends only on the seed and its position. A pair whose image cannot be read is
    replaced by the next readable one, and its index is reported in `unreadable`.

    Args:
        pairs, transform, tokenize: the pairs, the augmentation, and the tokeniser.
        seed: seed of the augmentation.
    """

    def __init__(self, pairs: CaptionedImages, transform: Transform, tokenize: Tokenize, seed: int) -> None:
        self.pairs, self.transform, self.tokenize, self.seed = pairs, transform, tokenize, seed
        self.decoded = Decoded(pairs)
        self.tokenised: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, draw: tuple[int, int]) -> dict[str, Any]:
        position, start = draw
        view, index, unreadable = open_readable(self.pairs, partial(self._view, position), start)
        return {"image": view, "text": self._tokens(index), "unreadable": unreadable}

    def _view(self, position: int, index: int) -> Any:
        with seeds.torch_drawn_from(self.seed, "augment", position):
            return read_view(self.transform, self.decoded, index)

    def _tokens(self, index: int) -> Tensor:
        """Tokens of a caption; a small set meets each of its captions once in every pass."""
        tokens = self.tokenised.get(index)
        if tokens is None:
            tokens = self.tokenize([self.pairs.caption(index)])[0]
            if len(self.tokenised) < TOKENISED:
                self.tokenised[index] = tokens
        return tokens


def collate_pairs(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Collate `DrawnCaptionedImages`: image uint8 (B, 3, H, W), text (B, L), unreadable indices (any number,)."""
    return {
        "image": torch.stack([sample["image"] for sample in samples]),
        "text": torch.stack([sample["text"] for sample in samples]),
        "unreadable": torch.tensor([index for sample in samples for index in sample["unreadable"]], dtype=torch.long),
    }
