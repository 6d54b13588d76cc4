"""Digests of data sets: which files a split has, their sizes and their labels, wherever its folder lies.

Two copies of a data set have the same digest, and one whose images were added, removed, renamed, relabelled or encoded
anew has another one. The content of images and masks is not read, that of lists, poses and box annotations is.
"""

import glob
import hashlib
import json
import os
import time
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from regvit_lightning.data import kept_index
from regvit_lightning.data.image_sets import ALL, Segmentation
from regvit_lightning.data.images import EXTENSIONS
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.mini import writer

MANY = 50_000  # files: the digest of a larger folder is stored beside it
SETTLED = 2_000_000_000  # nanoseconds: a more recently changed folder might change again with the same timestamp
NOT_OURS = ("__MACOSX", "@eaDir")  # folders that archives and file servers add
LABELS = (".xml", ".json")  # annotations: a label can change without a change of the size
LISTS = (*LABELS, ".txt", ".mat")  # and so can lists, poses and labels of a set that has them beside its images


def digests(data: DataSettings, section: str) -> dict[str, str]:
    """Digest of each split of a data set that is there.

    Takes one pass over the folders. The digest of more than `MANY` files is stored in the hidden folder `.index` beside
    them, or in the user's cache where that cannot be written. It remains valid until a file is added, removed, renamed
    or replaced; a file that is overwritten in place is noticed only in a smaller folder.

    Args:
        data: location and layout of the images.
        section: `imagenet`, `imagenet22k`, `pairs`, `segmentation`, `depth`, or the name of a set with boxes or masks,
            or of videos.

    Returns:
        16 hexadecimal digits for each of `train` and `test` whose files exist, `all` for such sets; for data
        rendered on this machine `rendered`, from its version and settings alone. Empty if there are no images.

    Raises:
        SettingsError: no such section.
    """
    if data.rendered:
        made = writer.rendered_as(Path(data.root))
        return {"rendered": _hash(json.dumps(made, sort_keys=True).encode())} if made else {}
    hashes = {}
    for split, parts in _splits(data, section).items():
        listed = [part.digest() for part in parts]
        if any(listed):
            hashes[split] = _hash("\n".join(listed).encode())
    return hashes


def changed(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Names of the splits whose digests differ; a split that is missing on either side is not compared."""
    return [split for split in sorted(old.keys() & new.keys()) if old[split] != new[split]]


@dataclass(frozen=True)
class Part:
    """Files that belong to a split.

    Attributes:
        path: a folder, of which files with one of `suffixes` count; or a single file, whose content counts.
        suffixes: ends of file names in lower case.
        read: those of files whose content counts.
        by_size: a single file is identified by its size, not by its content.
    """

    path: Path
    suffixes: tuple[str, ...] = EXTENSIONS
    read: tuple[str, ...] = LABELS
    by_size: bool = False

    def digest(self) -> str:
        """Digest of the files; empty if there are none."""
        try:
            if self.path.is_dir():
                return _folder(self.path, self.suffixes, self.read)
            return _size(self.path) if self.by_size else _hash(self.path.read_bytes())
        except OSError:
            return ""


def _splits(data: DataSettings, section: str) -> dict[str, list[Part]]:
    """The files of each split of a section."""
    root = Path(data.root)
    if section in ("imagenet", "imagenet22k"):
        if glob.has_magic(data.folder(section)):
            return {"train": _shards(data, data.folder(section))}
        folder = root / data.folder(section)
        return {"train": [Part(folder / "train")], "test": [Part(folder / "val")]}
    if section == "pairs":
        return {"train": _pairs(data)}
    if section == "segmentation" or section in data.masked:
        layout = data.masked_set(section)
        return {split: _masked(root, layout, number) for number, split in enumerate(("train", "test"))}
    if section == "depth":
        return {split: _depth(data, number) for number, split in enumerate(("train", "test"))}
    if section in data.videos:
        return {"all": _videos(data, section)}
    if section in data.salient:
        return {"all": _salient(data, section)}
    if section in data.classified:
        return {"all": [_classified(data, section)]}
    if section in data.shifted:
        return {"all": _shifted(data, section)}
    if section in data.keypoints:
        return {"all": [Part(root / data.keypoint_set(section).folder, (*EXTENSIONS, *LISTS), LISTS)]}
    if section in data.retrieval:
        searched = data.retrieval_set(section)
        folder = root / searched.folder
        return {"all": [Part(folder / searched.images), Part(folder / searched.ground_truth)]}
    boxed_set = data.boxed_set(section)
    images, annotations, names = (Path(path) for path in boxed_set.paths(data.root))
    listed = [] if str(names) == ALL else [Part(names)]
    return {"all": [Part(images, (*EXTENSIONS, boxed_set.image_suffix.lower())), Part(annotations, LABELS), *listed]}


def _pairs(data: DataSettings) -> list[Part]:
    if not data.pairs:
        return []
    if glob.has_magic(data.pairs):
        return _shards(data, data.pairs)
    return [Part(Path(data.root, data.pairs), (*EXTENSIONS, ".txt"))]


def _shards(data: DataSettings, pattern: str) -> list[Part]:
    shards = sorted(glob.glob(os.path.join(glob.escape(data.root), pattern)))
    return [Part(Path(shard), by_size=True) for shard in shards]


def _masked(root: Path, layout: Segmentation, number: int) -> list[Part]:
    images = Part(root / layout.images[number], (layout.image_suffix.lower(),))
    masks = Part(root / layout.masks[number], (layout.mask_suffix.lower(),))
    return [images, masks, *([Part(root / layout.lists[number])] if layout.lists else [])]


def _depth(data: DataSettings, number: int) -> list[Part]:
    layout, root = data.depth, Path(data.root)
    if layout.mat:
        return [Part(root / layout.mat, by_size=True), Part(root / layout.splits)]
    return [Part(root / layout.lists[number]), Part(root / layout.folders[number])]


def _videos(data: DataSettings, name: str) -> list[Part]:
    frames, masks, listed = data.video_set(name).paths()
    return [
        *(Part(Path(data.root, folder)) for folder in (frames, masks)),
        *([Part(Path(data.root, listed))] if listed else []),
    ]


def _salient(data: DataSettings, name: str) -> list[Part]:
    layout, root = data.salient_set(name), Path(data.root)
    return [
        Part(root / layout.images),
        Part(root / layout.masks),
        *([Part(root / layout.names)] if layout.names else []),
    ]


def _classified(data: DataSettings, name: str) -> Part:
    layout = data.classified_set(name)
    every = layout.layout.startswith("cifar")  # its files have no suffix
    return Part(Path(data.root, layout.folder), ("",) if every else (*EXTENSIONS, *LISTS), LISTS)


def _shifted(data: DataSettings, name: str) -> list[Part]:
    layout, root = data.shifted_set(name), Path(data.root)
    images = Part(root / layout.folder if layout.folder else root / data.imagenet / "val")
    return [images, *(Part(root / file) for file in layout.label_files())]


@dataclass
class _Walk:
    """One pass over a folder.

    Attributes:
        folders, times: every folder, relative to the first one, with the time of its last change in nanoseconds.
        files: number of files that count.
    """

    suffixes: tuple[str, ...]
    read: tuple[str, ...]
    folders: list[bytes] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    files: int = 0

    def lines(self, folder: str, below: str = "") -> Iterator[bytes]:
        """One line for each file, folder by folder in the order of their names."""
        self.folders.append(os.fsencode(below))
        self.times.append(os.stat(folder).st_mtime_ns)
        with os.scandir(folder) as entries:
            shown = (entry for entry in entries if entry.name[0] != "." and entry.name not in NOT_OURS)
            ordered = sorted(shown, key=lambda entry: entry.name)
        for entry in ordered:
            path = f"{below}{entry.name}"
            if entry.is_dir():
                yield from self.lines(entry.path, f"{path}/")
            elif entry.name.lower().endswith(self.suffixes):
                self.files += 1
                yield _line(path, entry, self.read)


def _line(path: str, entry: "os.DirEntry[str]", read: tuple[str, ...]) -> bytes:
    name = os.fsencode(path if path.isascii() else unicodedata.normalize("NFC", path))
    if not entry.is_file():  # a broken link, or no file at all
        return b"%s\0-1\0\n" % name
    labels = _hash(Path(entry.path).read_bytes()) if path.lower().endswith(read) else ""
    return b"%s\0%d\0%s\n" % (name, entry.stat().st_size, labels.encode())


def _folder(folder: Path, suffixes: Sequence[str], read: tuple[str, ...]) -> str:
    """Digest of the files in a folder, from the stored one if it is still valid; empty if there are none."""
    suffix = _hash(" ".join([*sorted(set(suffixes)), *(sorted(read) if read != LABELS else ())]).encode())
    beside = folder.absolute().parent / ".index" / f"{folder.name}-{suffix}.digest"
    stored = beside if os.access(folder.absolute().parent, os.W_OK) else kept_index.location(beside)
    kept = kept_index.read(stored, ("folders", "times", "digest"))
    if kept is not None and kept_index.is_current(folder, kept):
        return bytes(kept["digest"][0]).decode()
    begun, walk, digest = time.time_ns(), _Walk(tuple(suffixes), read), hashlib.sha256()
    for line in walk.lines(str(folder)):
        digest.update(line)
    shown = digest.hexdigest() if walk.files else ""
    if walk.files > MANY and begun - max(walk.times) > SETTLED:
        arrays = {"folders": walk.folders, "times": walk.times, "digest": [shown.encode()]}
        kept_index.keep(kept_index.location(beside), {name: np.array(values) for name, values in arrays.items()})
    return shown


def _size(file: Path) -> str:
    return _hash(f"{file.name} {file.stat().st_size}".encode())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
