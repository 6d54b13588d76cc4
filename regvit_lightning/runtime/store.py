"""Arrays that several processes share through files: each is computed once, and the oldest leave when space is short.

A file holds one array, a header with its shape and size before it, and the SHA-256 of both after it. It is written
under a temporary name, flushed and renamed, so that a process that is killed leaves nothing that is read. A file that
is damaged all the same is named in a line and computed again. Reading maps the file: processes share its pages.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from regvit_lightning.errors import Notice
from regvit_lightning.runtime import atomic, locks

Rows = npt.NDArray[np.float32]

HEADER = 4096  # bytes before the array, so that it begins at a page
DIGEST = 32  # bytes of the checksum after it
SUFFIX = ".rows"
LOCK_DIGITS = 3  # of a pass's name, in that of its lock: at most 4096 lock files, however many passes there are
ROOM = "room.lock"  # held while room is made and filled, so that all files together stay below the bound
PIECE = 2**24  # bytes hashed at a time


def key(facts: Mapping[str, Any]) -> str:
    """Name of the array that these facts determine: 32 hexadecimal digits, the same in every process."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


@dataclass
class Store:
    """Folder of float32 arrays by key.

    Attributes:
        folder: where the files are; made when the first array is kept.
        most_bytes: of all files together; where a new one exceeds it, those that were not used for longest are removed.
        read, computed: rows that this process has taken from files, and those that it has computed.
    """

    folder: Path
    most_bytes: int
    read: int = 0
    computed: int = 0

    def rows(
        self, name: str, keys: Sequence[str], compute: Callable[[list[int]], list[Rows]], beside: Sequence[str] = ()
    ) -> list[Rows]:
        """The arrays with these keys, all with the same number of rows, from files or computed once.

        Of several processes that ask for arrays of the same pass at the same time, one computes and the others wait.
        Where a file cannot be kept, a line says so and the arrays stay in memory.

        Args:
            name: name of the pass that computes the arrays, see `key`.
            keys: names of the arrays.
            compute: returns the arrays at the given positions in `keys` and then `beside`, in one pass.
            beside: names of arrays of the same pass that others are likely to ask for: kept as well where it runs.
        """
        with locks.in_turn(self.folder / f"{name[:LOCK_DIGITS]}.lock"):
            found = [self._read(own) for own in keys]
            missing = [position for position, rows in enumerate(found) if rows is None]
            if missing:
                every = [*keys, *beside]
                missing += [len(keys) + i for i, own in enumerate(beside) if not self._file(own).exists()]
                made = zip(missing, compute(missing), strict=True)
                kept = {position: self._kept(every[position], rows) for position, rows in made}
                found = [kept.get(position, rows) for position, rows in enumerate(found)]
        there = [rows for rows in found if rows is not None]
        self.computed += len(there[0]) if missing else 0
        self.read += 0 if missing else len(there[0])
        return there

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"

    def _read(self, name: str) -> Rows | None:
        """The array in a file, mapped; None if there is none, or with a line if it is damaged, which removes it.

        A file that cannot be read now, such as another user's, stays.
        """
        file = self._file(name)
        try:
            shape = _verified(file)
            with suppress(OSError):  # a folder that can be read only
                os.utime(file)  # used now: it leaves last
            return np.memmap(file, np.float32, "r", HEADER, shape)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
        except ValueError as error:
            reason = f"are damaged ({error})"
            atomic.remove(file)
        warnings.warn(f"shared features {file} {reason}: computed again", Notice, stacklevel=2)
        return None

    def _kept(self, name: str, rows: Rows) -> Rows:
        """The array mapped from its new file, or as it is where it cannot be kept."""
        needed = HEADER + rows.nbytes + DIGEST
        if needed > self.most_bytes:
            return rows
        file, temporary = self._file(name), atomic.temporary_of(self._file(name))
        try:
            with locks.in_turn(self.folder / ROOM):
                self._make_room(needed)
                _write(temporary, rows)
                os.replace(temporary, file)
            return np.memmap(file, np.float32, "r", HEADER, rows.shape)
        except OSError as error:
            advice = "the next task computes them again"
            warnings.warn(
                f"shared features are not kept in {self.folder} ({error.strerror}): {advice}", Notice, stacklevel=2
            )
            return rows
        finally:
            atomic.remove(temporary)

    def _make_room(self, needed: int) -> None:
        """Remove leftovers of killed processes, then the files that were not used for longest, until `needed` fits.

        A process that has mapped a file goes on reading it after it is removed.
        """
        atomic.remove_leftovers(self.folder)
        facts = []
        for file in self.folder.glob(f"*{SUFFIX}"):
            with suppress(FileNotFoundError):  # removed by another process
                stat = file.stat()
                facts.append((stat.st_mtime_ns, stat.st_size, file))
        total = sum(size for _, size, _ in facts)
        for _, size, file in sorted(facts):
            if total + needed <= self.most_bytes:
                return
            atomic.remove(file)
            total -= size


def _write(file: Path, rows: Rows) -> None:
    """Write header, array and checksum, and flush them to disk.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    content = np.ascontiguousarray(rows, np.float32)
    header = json.dumps({"shape": list(content.shape)}).encode().ljust(HEADER)
    digest = hashlib.sha256(header)
    digest.update(content.data)
    with file.open("wb") as opened:
        for part in (header, content.data, digest.digest()):
            opened.write(part)
        opened.flush()
        os.fsync(opened.fileno())


def _verified(file: Path) -> tuple[int, ...]:
    """Shape of the array in a file whose size and checksum are right.

    Raises:
        ValueError: they are not.
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        header = opened.read(HEADER)
        digest.update(header)
        shape = _shape(header)
        left = 4 * int(np.prod(shape))
        if os.fstat(opened.fileno()).st_size != HEADER + left + DIGEST:
            raise ValueError("its size is wrong")
        while left:
            piece = opened.read(min(PIECE, left))
            if not piece:
                raise ValueError("it ends early")
            digest.update(piece)
            left -= len(piece)
        if opened.read(DIGEST) != digest.digest():
            raise ValueError("its checksum is wrong")
    return shape


def _shape(header: bytes) -> tuple[int, ...]:
    facts = json.loads(header)
    shape = facts.get("shape") if isinstance(facts, dict) else None
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError("its header is wrong")
    return tuple(shape)
