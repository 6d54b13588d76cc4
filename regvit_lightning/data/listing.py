"""Files of a folder: which are taken and which are left out, and names that differ in nothing but their spelling.

Names are compared in Unicode's composed form (NFC), because some file systems store `é` in two characters; suffixes
without regard to case. What is left out is counted and reported in one line, so that no image vanishes unnoticed.
"""

import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from regvit_lightning.data.images import EXTENSIONS
from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import Notice

# Folders and files that operating systems, archives and notebooks leave behind, besides names that begin with a dot.
OF_THE_SYSTEM = frozenset(
    ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", "Thumbs.db")
)

SUFFIXES = frozenset(EXTENSIONS)
HIDDEN = "hidden or left by the system"
OTHER_KIND = "not an image that can be read"
NAMED_AS_IMAGE = "folder named as an image"
CIRCLE = "link to a folder that contains it"
NAMED, LONGEST = 3, 200  # examples per reason in the message, and letters of each


def composed(name: str) -> str:
    """The name in Unicode's composed form, in which names are compared."""
    return unicodedata.normalize("NFC", name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or was left by the system, as `.ipynb_checkpoints` or `._x.jpg`."""
    return name.startswith(".") or name in OF_THE_SYSTEM


def is_image(name: str) -> bool:
    """Whether a file name or path has the suffix of an image that can be read; a name that is all suffix has none."""
    dot = name.rfind(".")  # as os.path.splitext, in a third of its time: there may be millions of names
    return name[dot:].lower() in SUFFIXES and name[:dot].rpartition("/")[2].strip(".") != ""


@dataclass
class LeftOut:
    """Entries of a data set that are not read, counted by reason.

    Attributes:
        counts: number of entries by reason.
        examples: the first few names by reason.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Count an entry called `name`."""
        self.counts[reason] += count
        named = self.examples.setdefault(reason, [])
        if len(named) < NAMED:
            named.append("".join(letter if letter.isprintable() else "?" for letter in name[:LONGEST]))

    def merge(self, other: "LeftOut") -> None:
        """Add the entries of another folder or file."""
        for reason, count in other.counts.items():
            self.counts[reason] += count
            self.examples[reason] = [*self.examples.get(reason, []), *other.examples[reason]][:NAMED]

    def __str__(self) -> str:
        reasons = []
        for reason, count in self.counts.items():
            more = ", …" if count > len(self.examples[reason]) else ""
            reasons.append(f"{count:,} {reason} ({', '.join(self.examples[reason])}{more})")
        return "; ".join(reasons)


def report(source: object, left_out: LeftOut | str) -> None:
    """Warn with a `Notice` of what was left out of `source`, if anything was."""
    if text := str(left_out):
        warnings.warn(f"{source}: left out: {text}", Notice, stacklevel=2)


@dataclass(frozen=True)
class Folder:
    """A folder that was listed.

    Attributes:
        path: path relative to the base of the listing.
        time: its modification time in nanoseconds.
        images: names of the images in it, not sorted.
    """

    path: str
    time: int
    images: list[str]


def walk(base: Path, below: str, left_out: LeftOut, is_taken: Callable[[str], bool] = is_image) -> Iterator[Folder]:
    """List the images in the folder `below` of `base` and in its subfolders, following links.

    Args:
        base: folder that the results are relative to.
        below: relative path of the first folder.
        left_out: counts the entries that are not taken.
        is_taken: decides by its name whether a file is taken.

    Raises:
        DataError: a folder that cannot be listed.
    """
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [(below, frozenset())]  # with the folders above it
    while pending:
        path, above = pending.pop()
        try:
            facts = os.stat(base / path)
            identity = facts.st_dev, facts.st_ino
            if identity in above:
                left_out.add(CIRCLE, path)
                continue
            folders, images = _entries(base, path, left_out, is_taken)
        except OSError as error:
            raise DataError(f"cannot list {base / path}: {error.strerror}; allow it or remove the folder") from None
        pending += [(folder, above | {identity}) for folder in reversed(folders)]
        yield Folder(path, facts.st_mtime_ns, images)


def _entries(base: Path, path: str, left_out: LeftOut, is_taken: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """Subfolders, as paths relative to `base`, and names of the images of one folder."""
    folders, images = [], []
    with os.scandir(base / path) as entries:
        for entry in entries:
            name = entry.name
            if is_hidden(name):
                left_out.add(HIDDEN, os.path.join(path, name))
            elif entry.is_dir():
                if is_image(name):
                    left_out.add(NAMED_AS_IMAGE, os.path.join(path, name))
                else:
                    folders.append(os.path.join(path, name))
            elif is_taken(name) and entry.is_file():
                images.append(name)
            else:
                left_out.add(OTHER_KIND, os.path.join(path, name))
    return sorted(folders), images


class Spellings:
    """Finds files on disk whose names are spelt in another way than in a list or an annotation.

    A file of another Unicode form is the same file; an image `a.JPG` or `a.jpeg` is the one listed as `a.jpg`.
    Folders are listed once, and only where a name is not there as it is spelt.
    """

    def __init__(self) -> None:
        self._names: dict[str, dict[str, str]] = {}
        self._stems: dict[str, dict[str, list[str]]] = {}

    def find(self, path: str) -> str:
        """Path of the file on disk, or `path` unchanged if there is none."""
        if os.path.isfile(path):
            return path
        folder, name = os.path.split(path)
        folder = self._folder(folder)
        self._list(folder)
        name = composed(name)
        if name in self._names[folder]:
            return os.path.join(folder, self._names[folder][name])
        stem, suffix = os.path.splitext(name)
        others = self._stems[folder].get(stem, []) if suffix.lower() in EXTENSIONS else []
        others.sort(key=lambda other: (os.path.splitext(other)[1].lower() != suffix.lower(), other))
        return os.path.join(folder, others[0]) if others else path

    def _folder(self, path: str) -> str:
        if os.path.isdir(path or "."):
            return path
        parent, name = os.path.split(path)
        if parent == path:
            return path
        parent = self._folder(parent)
        self._list(parent)
        return os.path.join(parent, self._names[parent].get(composed(name), name))

    def _list(self, folder: str) -> None:
        if folder in self._names:
            return
        names = self._names[folder] = dict[str, str]()
        stems = self._stems[folder] = dict[str, list[str]]()
        try:
            entries = os.listdir(folder or ".")
        except (OSError, ValueError):  # not there, or a name with a NUL
            return
        for entry in entries:
            name = composed(entry)
            names[name] = entry
            if is_image(entry):
                stems.setdefault(os.path.splitext(name)[0], []).append(entry)
