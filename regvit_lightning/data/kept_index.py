"""Image indices cached on disk, so that millions of files are listed once and not by every process.

An index is a hidden folder of arrays beside the images, or in the user's cache where nothing can be written there. The
arrays are memory-mapped: all processes share one copy.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from regvit_lightning.runtime import locks

Arrays = dict[str, npt.NDArray[Any]]


def location(beside: Path) -> Path:
    """Folder in which the index of `beside` can be stored.

    That is `beside` itself; for read-only data a folder in the user's cache (`XDG_CACHE_HOME` or `~/.cache`), or else
    in the machine's temporary folder. If none can be written, it is `beside`: every process then lists the files.
    """
    name = hashlib.sha256(os.fsencode(beside.absolute())).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "regvit-lightning"
    temporary = Path(tempfile.gettempdir()) / f"regvit-lightning-{os.getuid()}"
    folders = beside, cache / "index" / name, temporary / "index" / name
    return next((folder for folder in folders if _writable(folder.parent)), beside)


def _writable(folder: Path) -> bool:
    """Whether this user can write into `folder`, which is created, and no other user owns it below a shared folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        own = folder.stat().st_uid == os.getuid() or not str(folder).startswith(tempfile.gettempdir())
        return own and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False


def read(folder: Path, names: Sequence[str]) -> Arrays | None:
    """Memory-map the arrays of a stored index; None if there is none."""
    try:
        return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
    except (OSError, ValueError):  # missing, or written by another version of numpy
        return None


def is_current(folder: Path, arrays: Arrays) -> bool:
    """Whether no folder has had an entry added, removed or replaced since the index was made.

    Args:
        folder: the folder of the images.
        arrays: `folders`, every folder that was listed, relative to `folder`; `times`, their last changes in ns.
    """
    try:
        times = [os.stat(os.path.join(folder, os.fsdecode(bytes(name)))).st_mtime_ns for name in arrays["folders"]]
    except OSError:
        return False
    return bool(times == arrays["times"].tolist())


def keep(folder: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Write an index atomically, replacing an existing one; False if that is not possible."""
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except OSError:  # no write permission, no space, or a process that could not wait came first
        shutil.rmtree(temporary, ignore_errors=True)
        return False
    return True


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Context manager: this process is the only one on all machines that looks up or builds the index in `folder`.

    Where nothing can be written beside the images, or the file system has no locks, every process enters.
    """
    lock, opened = locks.beside(folder), False
    try:
        with locks.in_turn(lock) as opened:
            yield
    finally:
        if opened and not folder.is_dir():  # nothing could be stored, so remove the lock as well
            with suppress(OSError):
                lock.unlink()
                folder.parent.rmdir()
