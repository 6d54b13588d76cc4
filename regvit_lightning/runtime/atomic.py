"""Atomic file writing: to a temporary file in the same folder, flushed to disk, then renamed."""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from regvit_lightning.errors import UserError, one_line

OLD = 24 * 3600.0  # no file takes so long to be written


def write(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a temporary file beside `path`, flush it to disk and rename it to `path`.

    Raises:
        UserError: the folder is not writable or the disk is full; an existing file at `path` is unchanged.
    """
    temporary = temporary_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fill(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(f"cannot write {path}: {reason}; make room or choose another folder") from None
    finally:
        remove(temporary)


def temporary_of(path: Path, process: int | None = None) -> Path:
    """Temporary file of `path` while a process of this host writes it, by default this process."""
    return path.with_name(f".{path.name}.{os.uname().nodename}.{process or os.getpid()}.tmp")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, see `write`."""
    write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def check_writable(path: Path) -> None:
    """Check, before any work is done, that `path` can be written.

    Raises:
        UserError: it cannot be written.
    """
    probe = path.with_name(f".{path.name}.probe")
    try:
        write_text(probe, "")
    except UserError as error:
        raise UserError(str(error).replace(str(probe), str(path))) from None
    remove(probe)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files in `folder` of processes that were killed while writing.

    Those of this host are judged by whether the process still runs; those of other hosts, on a shared disk, by their
    age of more than `OLD` seconds.
    """
    own = re.compile(rf"\.{re.escape(os.uname().nodename)}\.(\d+)\.tmp$")
    for file in folder.glob(".*.tmp"):
        number = own.search(file.name)
        if not _runs(int(number[1])) if number else _is_old(file):
            remove(file)


def _is_old(file: Path) -> bool:
    try:
        return time.time() - file.lstat().st_mtime > OLD
    except OSError:  # removed meanwhile
        return False


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # owned by another user
        return True
    return True


def remove(path: Path) -> None:
    """Remove a file if it exists and can be removed."""
    try:
        path.unlink(missing_ok=True)
    except OSError:  # a folder that cannot be accessed has no temporary file either
        return
