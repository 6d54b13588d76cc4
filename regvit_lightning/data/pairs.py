"""Images with one caption each: tar shards, a CSV file or a folder, indexed once for random access.

    a pattern such as `shards/train-*.tar`: webdataset's layout, <key>.jpg and <key>.txt in uncompressed tars
    a table, .csv or .tsv in UTF-8, whose header has a column `filepath` (below the table's folder) and a column
        `title` or `caption`
    a folder of images with a .txt of the same name beside each

Pairs are read by index, so their order is drawn as for class folders, and a resumed run needs no reader state.
"""

import csv
import glob
import hashlib
import os
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from regvit_lightning.data import kept_index
from regvit_lightning.data.completeness import check_count, check_rendered
from regvit_lightning.data.images import EXTENSIONS, Transform, as_rgb, decode, open_image, open_readable
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.errors import one_line
from regvit_lightning.runtime import seeds

CAPTION = ".txt"
COLUMNS = ("filepath", "title", "caption")  # open_clip's names, and the usual name of the text
READERS = 16  # number of shards whose headers are read concurrently

KEPT = ("file", "offset", "size", "texts", "ends")  # arrays of the index of shards

Tokenize = Callable[[Sequence[str]], Tensor]


class CaptionedImage(NamedTuple):
    """Location of an image, and its caption.

    Attributes:
        file: index into `files`.
        offset, size: byte range of the image in that file; size -1 if the whole file is the image.
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
        file, offset, size: (N,) as in `Pair`.
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
        """Path of one image; in a shard, with the member's name."""
        file = self._file(index)
        return file if self.size[index] < 0 else f"{file}: {_member(file, int(self.offset[index]))}"

    def open(self, index: int) -> Image.Image:
        """Decode one image as RGB.

        Raises:
            DataError: it cannot be read or is truncated.
        """
        file = self._file(index)
        if self.size[index] < 0:
            return open_image(file)
        try:
            with open(file, "rb") as shard:
                shard.seek(int(self.offset[index]))
                content = shard.read(int(self.size[index]))
        except OSError as error:
            raise DataError(f"unreadable image {self.path(index)}: {one_line(error)}; restore it") from None
        return decode(content, lambda: f"image {self.path(index)}", as_rgb, "restore or remove it")

    def _file(self, index: int) -> str:
        return os.fsdecode(bytes(self.files[self.file[index]]))


def train_pairs(data: DataSettings) -> CaptionedImages:
    """Index the image–text pairs of a data set.

    Raises:
        DataError: missing, incomplete or damaged.
    """
    source = Path(data.root, data.pairs)
    check_rendered(data)
    if not data.pairs:
        raise DataError(f"data '{data.name}' names no image-text pairs; give `pairs` in its file of configs/data")
    if glob.has_magic(data.pairs):
        pattern = os.path.join(glob.escape(data.root), data.pairs)
        pairs = from_shards([Path(shard) for shard in sorted(glob.glob(pattern))], source, data.get)
    elif source.is_dir():
        pairs = from_folder(source)
    elif source.is_file():
        pairs = from_table(source)
    else:
        raise DataError(f"no image-text pairs: {source} is not there; {data.get}")
    check_count(data, "pairs", 0, len(pairs), f"{source} holds", "pairs")
    return pairs


def from_shards(shards: Sequence[Path], pattern: Path, get: str = "") -> CaptionedImages:
    """Index tar shards, about 10,000 pairs a second; the index is stored, see `kept_index.location`.

    Raises:
        DataError: no shards, or one is truncated, empty or compressed, or has an image or a caption without partner.
    """
    if not shards:
        raise DataError(f"no image-text pairs: no shard {pattern}{f'; {get}' if get else ''}")
    beside = shards[0].parent / f".index-{_fingerprint(shards)}"
    kept = beside if beside.is_dir() else kept_index.location(beside)
    with kept_index.in_turn(kept):
        arrays = kept_index.read(kept, KEPT)
        if arrays is None:
            with ThreadPoolExecutor(READERS) as readers:
                pairs = _joined(shards, list(readers.map(_read_shard, range(len(shards)), shards)))
            if not kept_index.keep(kept, {name: getattr(pairs, name) for name in KEPT}):
                return pairs
            arrays = kept_index.read(kept, KEPT)
    return pairs if arrays is None else CaptionedImages(files=_encoded(shards), **arrays)


def from_table(table: Path) -> CaptionedImages:
    """Index the images listed in a CSV or TSV file.

    Raises:
        DataError: not such a table, no row, or a row without a caption or with a missing image.
    """
    with table.open(encoding="utf-8", newline="") as file:
        try:
            rows = list(csv.DictReader(file, delimiter="\t" if table.suffix == ".tsv" else ","))
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{table}: not a table of image-text pairs ({one_line(error)})") from None
    names = list(rows[0]) if rows else []
    text = next((name for name in COLUMNS[1:] if name in names), "")
    if COLUMNS[0] not in names or not text:
        raise DataError(
            f"{table}: expected a first line with filepath and title (or caption), then a row for each pair"
        )
    files = [table.parent / (row[COLUMNS[0]] or "") for row in rows]
    for number, (row, image) in enumerate(zip(rows, files, strict=True), 2):
        if not image.is_file():
            raise DataError(f"{table}, row {number}: no image {image}; restore it or remove the row")
        _check_caption(row[text], f"{table}, row {number}: {row[COLUMNS[0]]}")
    return _joined(
        files, [_arrays([CaptionedImage(index, 0, -1, row[text].strip()) for index, row in enumerate(rows)])]
    )


def from_folder(folder: Path) -> CaptionedImages:
    """Index images with a text file of the same name beside each, in `folder` and below.

    Raises:
        DataError: no pairs, or an image or a caption without its partner.
    """
    paths = [path for path in folder.rglob("*") if path.is_file()]
    images = {path.with_suffix(""): path for path in sorted(paths) if path.suffix.lower() in EXTENSIONS}
    texts = {path.with_suffix(""): path for path in paths if path.suffix == CAPTION}
    _check_partners(set(images), set(texts), str(folder))
    pairs = [
        CaptionedImage(index, 0, -1, _read_text(texts[key].read_bytes(), images[key]))
        for index, key in enumerate(images)
    ]
    return _joined(list(images.values()), [_arrays(pairs)])


def _arrays(pairs: Sequence[CaptionedImage]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of `CaptionedImages` for some pairs, with the lengths of the captions."""
    file, offset, size, captions = zip(*pairs, strict=True)
    texts = [caption.encode() for caption in captions]
    return {
        "file": np.array(file, np.int32),
        "offset": np.array(offset, np.int64),
        "size": np.array(size, np.int64),
        "texts": np.frombuffer(b"".join(texts), np.uint8),
        "lengths": np.array([len(text) for text in texts], np.int64),
    }


def _joined(files: Sequence[Path], parts: Sequence[dict[str, npt.NDArray[Any]]]) -> CaptionedImages:
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return CaptionedImages(files=_encoded(files), ends=whole.pop("lengths").cumsum(), **whole)


def _encoded(files: Sequence[Path]) -> npt.NDArray[np.bytes_]:
    return np.array([os.fsencode(file) for file in files])


def _fingerprint(shards: Sequence[Path]) -> str:
    """Fingerprint that changes with the name, the size or the modification time of any shard."""
    facts = [(shard.name, shard.stat().st_size, shard.stat().st_mtime_ns) for shard in shards]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _read_shard(number: int, shard: Path) -> dict[str, npt.NDArray[Any]]:
    images: dict[str, tarfile.TarInfo] = {}
    texts: dict[str, str] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")  # webdataset cuts at the first dot
                key = f"{folder}/{stem}" if folder else stem
                if member.isfile() and f".{extension.lower()}" in EXTENSIONS:
                    images[key] = member
                elif member.isfile() and f".{extension}" == CAPTION:
                    content = tar.extractfile(member)
                    texts[key] = _read_text(content.read() if content else b"", f"{shard}: {key}")
            end = tar.offset
        with shard.open("rb") as file:
            file.seek(end)
            whole = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"{shard}: truncated, empty or not an uncompressed tar ({one_line(error)}); get it anew"
        ) from None
    if not whole:  # tarfile stops silently where a member's header is truncated or damaged
        raise DataError(
            f"{shard}: truncated or damaged at byte {end:,}: neither a member nor the end mark; get it anew"
        )
    _check_partners(set(images), set(texts), str(shard))
    return _arrays(
        [CaptionedImage(number, member.offset_data, member.size, texts[key]) for key, member in images.items()]
    )


def _check_partners(images: set[Any], texts: set[Any], source: str) -> None:
    for lonely, partner in ((images - texts, "caption"), (texts - images, "image")):
        if lonely:
            first = ", ".join(sorted(str(key) for key in lonely)[:3])
            raise DataError(
                f"{source}: {len(lonely):,} without {partner}, first {first}; add the {partner} or remove it"
            )
    if not images:
        raise DataError(f"{source}: holds no pair of an image ({', '.join(EXTENSIONS)}) and a caption ({CAPTION})")


def _read_text(content: bytes, where: object) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise DataError(f"{where}: its caption is not UTF-8 text; mend or remove the pair") from None
    _check_caption(text, where)
    return text.strip()


def _check_caption(text: str | None, where: object) -> None:
    if not (text or "").strip():
        raise DataError(f"{where}: its caption is empty; write one or remove the pair")


def _member(file: str, offset: int) -> str:
    # In a tar, the header of a member is the block before its content.
    try:
        with open(file, "rb") as shard:
            shard.seek(offset - tarfile.BLOCKSIZE)
            return tarfile.TarInfo.frombuf(shard.read(tarfile.BLOCKSIZE), "utf-8", "replace").name
    except (OSError, tarfile.TarError):
        return f"byte {offset:,}, where the shard no longer has the member that it had"


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

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, draw: tuple[int, int]) -> dict[str, Any]:
        position, start = draw
        image, index, unreadable = open_readable(self.pairs, start)
        with seeds.drawn_from(self.seed, "augment", position):
            tokens = self.tokenize([self.pairs.caption(index)])[0]
            return {"image": self.transform(image), "text": tokens, "unreadable": unreadable}


def collate_pairs(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Collate `DrawnCaptionedImages`: image uint8 (B, 3, H, W), text (B, L), unreadable indices (any number,)."""
    return {
        "image": torch.stack([sample["image"] for sample in samples]),
        "text": torch.stack([sample["text"] for sample in samples]),
        "unreadable": torch.tensor([index for sample in samples for index in sample["unreadable"]], dtype=torch.long),
    }
