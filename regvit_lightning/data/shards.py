"""Shards of images: webdataset's uncompressed tars with <key>.jpg and <key>.txt (or <key>.cls), and Parquet files.

The shards are indexed once for random access, and the index is stored: a run draws from them as from single files, and
continues at the sample at which it stopped, without state of a reader.
"""

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from regvit_lightning.data import kept_index, parquet
from regvit_lightning.data.captioned import (
    CAPTION,
    NO_CAPTION,
    NO_IMAGE,
    NO_LABEL,
    ROW,
    SECOND,
    CaptionedImage,
    CaptionedImages,
    arrays_of,
    check_any,
    encoded,
    joined,
    number_of,
    usable,
)
from regvit_lightning.data.layout import DataError
from regvit_lightning.data.listing import HIDDEN, LeftOut, composed, is_hidden, is_image, report
from regvit_lightning.data.tar_headers import BoundedHeader
from regvit_lightning.errors import one_line

READERS = 16  # number of shards whose headers are read concurrently
KEPT = ("file", "offset", "size", "texts", "ends", "left_out")  # arrays of the index of shards
ZEROS = 1 << 20  # bytes read at once where a tar may continue after its end


class Part(NamedTuple):
    """The pairs of one shard.

    Attributes:
        arrays: see `arrays_of`.
        left_out: members that are not taken.
    """

    arrays: dict[str, npt.NDArray[Any]]
    left_out: LeftOut


def from_shards(shards: Sequence[Path], pattern: Path, get: str = "", beside: str = CAPTION) -> CaptionedImages:
    """Index shards, about 10,000 pairs a second; the index is stored beside them in a hidden folder, if possible.

    Pairs without an image or a usable caption are left out, and a `Notice` counts them.

    Args:
        shards: their paths.
        pattern: what they match, for messages.
        get: how to get the data; appended to the error message.
        beside: suffix of the text beside an image: `.txt`, or `.cls` for the number of its class, see
            `labelled_shards`.

    Raises:
        DataError: no shards, no pair in them, or one is truncated, empty or compressed.
    """
    if not shards:
        raise DataError(f"no image-text pairs: no shard {pattern}{f'; {get}' if get else ''}")
    own = shards[0].parent / f".index-{_fingerprint(shards)}{'' if beside == CAPTION else beside}"
    kept = own if own.is_dir() else kept_index.location(own)
    with kept_index.in_turn(kept):
        arrays = kept_index.read(kept, KEPT)
        if arrays is None:
            arrays = _indexed(shards, pattern, beside)
            if kept_index.keep(kept, arrays):
                arrays = kept_index.read(kept, KEPT) or arrays
    report(pattern, str(arrays["left_out"]))
    return CaptionedImages(files=encoded(shards), **{name: arrays[name] for name in KEPT if name != "left_out"})


def _fingerprint(shards: Sequence[Path]) -> str:
    """Fingerprint that changes with the name, the size or the modification time of any shard."""
    facts = [(shard.name, shard.stat().st_size, shard.stat().st_mtime_ns) for shard in shards]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _indexed(shards: Sequence[Path], pattern: Path, beside: str) -> kept_index.Arrays:
    with ThreadPoolExecutor(READERS) as readers:
        parts = list(readers.map(_read_shard, range(len(shards)), shards, [beside] * len(shards)))
    left_out = LeftOut()
    for part in parts:
        left_out.merge(part.left_out)
    pairs = joined(shards, [part.arrays for part in parts])
    check_any(len(pairs), shards[0] if len(shards) == 1 else pattern, left_out, beside)
    arrays = {name: getattr(pairs, name) for name in KEPT if name != "left_out"}
    return arrays | {"left_out": np.array(str(left_out))}


def _read_shard(number: int, shard: Path, beside: str) -> Part:
    return _read_parquet(number, shard) if shard.suffix == parquet.SUFFIX else _read_tar(number, shard, beside)


def _read_parquet(number: int, shard: Path) -> Part:
    left_out, pairs = LeftOut(), []
    for row, (caption, has_image) in enumerate(parquet.captions(shard)):
        name = f"{shard.name}: row {row:,}"
        if not has_image:
            left_out.add(NO_IMAGE, name)
        elif text := usable(caption, name, left_out):
            pairs.append(CaptionedImage(number, row, ROW, text))
    return Part(arrays_of(pairs), left_out)


def _read_tar(number: int, shard: Path, beside: str) -> Part:
    left_out = LeftOut()
    images: dict[str, tarfile.TarInfo] = {}
    texts: dict[str, bytes] = {}
    try:
        with shard.open("rb") as file:
            for tar, member in _members(shard, file):
                _sort_in(shard, tar, member, images, texts, left_out, beside)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise DataError(
            f"{shard}: truncated, empty or not an uncompressed tar ({one_line(error)}); get it again"
        ) from None
    without, read = (NO_CAPTION, usable) if beside == CAPTION else (NO_LABEL, number_of)
    for lonely, reason in ((images.keys() - texts.keys(), without), (texts.keys() - images.keys(), NO_IMAGE)):
        for key in sorted(lonely):
            left_out.add(reason, f"{shard.name}: {key}")
    pairs = []
    for key, member in images.items():
        if key in texts and (caption := read(texts[key], f"{shard.name}: {key}", left_out)):
            pairs.append(CaptionedImage(number, member.offset_data, member.size, caption))
    return Part(arrays_of(pairs), left_out)


def _sort_in(
    shard: Path,
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    images: dict[str, tarfile.TarInfo],
    texts: dict[str, bytes],
    left_out: LeftOut,
    beside: str,
) -> None:
    """Add a member to the images or the texts by its key, the name up to its last dot.

    webdataset cuts at the first dot, so that `a.b.jpg` would have the key `a` and a kind that nothing reads.
    """
    key, _, suffix = composed(member.name).rpartition(".")
    name = f"{shard.name}: {member.name}"
    if not member.isfile():
        return
    if is_hidden(member.name.rpartition("/")[2]):
        left_out.add(HIDDEN, name)
    elif is_image(member.name):
        if key in images:
            left_out.add(SECOND, name)
        images.setdefault(key, member)
    elif f".{suffix.lower()}" == beside:
        content = tar.extractfile(member)
        texts[key] = content.read() if content else b""


def _members(shard: Path, file: IO[bytes]) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Members of a tar, and of further tars that were appended to it with `cat`."""
    start: int | None = 0
    while start is not None:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:", tarinfo=BoundedHeader) as tar:
            for member in tar:
                yield tar, member
            end = tar.offset
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            # tarfile stops silently where a member's header is truncated or damaged
            raise DataError(
                f"{shard}: truncated or damaged at byte {end:,}: neither a member nor the end mark; get it again"
            )
        start = _next_tar(file)


def _next_tar(file: IO[bytes]) -> int | None:
    """Start of the next block that is not zero, or None at the end of the file."""
    while chunk := file.read(ZEROS):
        zeros = len(chunk) - len(chunk.lstrip(b"\0"))
        if zeros < len(chunk):
            start = file.tell() - len(chunk) + zeros
            return start - start % tarfile.BLOCKSIZE
    return None
