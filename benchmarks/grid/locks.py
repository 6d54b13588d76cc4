"""File locks (`flock`) that are released when the processes that hold them end, however these end.

A lock is inherited by the child process that does the work, so a cell whose grid was killed is free again exactly when
nothing works on it any more. This holds across machines if their shared file system supports `flock` (NFS does).
"""

import contextlib
import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from regvit_lightning.errors import UserError


class Lock:
    """A held lock; released when this process and all that inherited `descriptor` have closed it."""

    def __init__(self, file: Path, descriptor: int) -> None:
        self.file, self.descriptor = file, descriptor

    def say(self, **facts: Any) -> None:
        """Write facts about the holder into the lock file, such as who holds it and since when."""
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, (json.dumps(facts) + "\n").encode(), 0)

    def release(self) -> None:
        """Close the lock in this process."""
        os.close(self.descriptor)


def acquire(file: Path) -> Lock | None:
    """Acquire the lock of `file`; None if another process holds it.

    The file is never removed: another process might be waiting for it under the same name.

    Raises:
        UserError: the file cannot be written, or its file system does not support locks.
    """
    descriptor = -1
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o664)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        raise UserError(f"cannot lock {file}: {error.strerror}; choose a folder on another file system") from None
    return Lock(file, descriptor)


def holder(file: Path) -> dict[str, Any] | None:
    """Facts that the holder wrote into the lock file; None if the lock is free.

    This briefly takes the lock: a process that tries to acquire it at this moment fails and must retry.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise
        with contextlib.suppress(ValueError):  # it is being written
            return dict(json.loads(os.pread(descriptor, 4096, 0)))
        return {}
    else:
        return None
    finally:
        os.close(descriptor)
