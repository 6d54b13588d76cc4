"""File locks (`flock`) that are released when the processes that hold them end, however these end.

The lock of a folder is a file beside it, held by whatever writes to the folder: a pretraining, an evaluation, or the
grid that runs one, whose child process inherits it. So a cell whose grid was killed is free again exactly when nothing
works on it any more. This holds across machines if their shared file system supports `flock` (NFS does).
"""

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from regvit_lightning.errors import UserError

PASSED_ON = "REGVIT_LOCKS"  # environment variable: descriptors of the locks that a grid passes on to its child
PATIENCE = 2.0  # seconds; whoever only asks for the holder, see `holder`, is done by then

_held: set[int] = set()  # descriptors that forked processes close


class Lock:
    """A held lock; released when this process and all that inherited `descriptor` have closed it."""

    def __init__(self, file: Path, descriptor: int, inherited: bool = False) -> None:
        self.file, self.descriptor, self.inherited = file, descriptor, inherited

    def say(self, **facts: Any) -> None:
        """Write facts about the holder into the lock file, such as who holds it and since when."""
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, (json.dumps(facts) + "\n").encode(), 0)

    def release(self) -> None:
        """Close the lock in this process; one that was inherited lasts as long as the process."""
        if not self.inherited:
            os.close(self.descriptor)


def beside(folder: Path) -> Path:
    """Lock file of a folder, beside it: it outlives the folder, which may be emptied or removed under the lock."""
    return folder.with_name(f"{folder.name}.lock")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, so that no other process writes to it.

    Processes forked meanwhile, such as those that decode images, do not hold it.

    Raises:
        UserError: another process holds it, which the message names with its host and since when; or see `acquire`.
    """
    lock = _acquire_patiently(beside(folder))
    if lock is None:
        raise UserError(f"{folder} is in use by {in_words(holder(beside(folder)) or {})}; wait for its end, or stop it")
    before = read_facts(lock.descriptor) if lock.inherited else {}
    lock.say(**{"since": time.time(), **before, "host": os.uname().nodename, "process": os.getpid()})
    _close_in_forks()
    _held.add(lock.descriptor)
    try:
        yield
    finally:
        _held.discard(lock.descriptor)
        lock.release()


@contextmanager
def in_turn(file: Path) -> Iterator[bool]:
    """Wait for the lock of `file`, so that one process after another enters; the lock ends with the process.

    Processes forked meanwhile do not hold it, so that those that decode images do not keep it when this one is killed.
    Where the file cannot be written, or its file system has no locks, every process enters at once.

    Yields:
        Whether the file could be opened.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o664)
    except OSError:
        yield False
        return
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        _close_in_forks()
        _held.add(descriptor)
        yield True
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def acquire(file: Path) -> Lock | None:
    """Acquire the lock of `file`, or take the one that was passed on by the process that started this one.

    Returns:
        The lock; None if another process holds it.

    Raises:
        UserError: the file cannot be written, or its file system does not support locks.
    """
    for descriptor in _passed_on():
        if _is_file(descriptor, file):
            return Lock(file, descriptor, inherited=True)
    while True:
        opened = _open_locked(file)
        if opened is None:
            return None
        if _is_file(opened, file):
            return Lock(file, opened)
        os.close(opened)  # the file was removed, together with the folder around it, while this process opened it


def holder(file: Path) -> dict[str, Any] | None:
    """Facts that the holder wrote into the lock file; None if the lock is free.

    This briefly takes the lock: a process that tries to acquire it at this moment fails and must retry. Any number of
    processes may ask at the same time.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise
        return read_facts(descriptor)
    else:
        return None
    finally:
        os.close(descriptor)


def in_words(facts: Mapping[str, Any]) -> str:
    """The holder of a lock: `process 12 on host node1 since 2026-11-25 21:30`."""
    words = [f"process {facts['process']}" if "process" in facts else "another process"]
    words += [f"on host {facts['host']}"] if "host" in facts else []
    words += [f"since {time.strftime('%Y-%m-%d %H:%M', time.localtime(since(facts)))}"] if since(facts) else []
    return " ".join(" ".join(words).split())


def since(facts: Mapping[str, Any]) -> float:
    """Time at which the holder took the lock, in seconds since 1970; 0 if it is not known."""
    value = facts.get("since")
    return float(value) if isinstance(value, int | float) and 0 < value < 2**40 else 0.0


def read_facts(descriptor: int) -> dict[str, Any]:
    """Content of an open lock file; empty while it is being written, or if it holds something else."""
    try:
        facts = json.loads(os.pread(descriptor, 4096, 0))
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _acquire_patiently(file: Path) -> Lock | None:
    end = time.monotonic() + PATIENCE
    while (lock := acquire(file)) is None and time.monotonic() < end:
        time.sleep(0.1)
    return lock


def _open_locked(file: Path) -> int | None:
    """Descriptor of the locked file; None if another process holds the lock."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o664)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}; choose another folder") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise UserError(f"cannot lock {file}: {error.strerror}; choose a folder on another file system") from None
    return descriptor


def _passed_on() -> list[int]:
    return [int(number) for number in os.environ.get(PASSED_ON, "").split(",") if number.isdecimal()]


def _is_file(descriptor: int, file: Path) -> bool:
    """Whether an open descriptor is that of the file which now has this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except OSError:
        return False


@cache
def _close_in_forks() -> None:
    os.register_at_fork(after_in_child=_close_held)


def _close_held() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()
