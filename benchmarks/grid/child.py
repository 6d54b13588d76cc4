"""One child process that works on a cell: its devices set before it starts, its own log, and no way to outlive us."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.grid.locks import Lock
from benchmarks.grid.queueing import LocalJob

PR_SET_PDEATHSIG = 1  # of prctl(2): a signal for the child when its parent dies


@dataclass
class Child:
    """A running child.

    Attributes:
        job: what it does.
        devices: where.
        locks: held by it until it ends, whatever becomes of this process; of the cell and of its devices.
        attempt: 1, or 2 after a crash.
        begun: by the monotonic clock.
        read: bytes of the log that `news` has given.
    """

    job: LocalJob
    devices: Sequence[str]
    locks: Sequence[Lock]
    attempt: int
    process: "subprocess.Popen[bytes]"
    begun: float = field(default_factory=time.monotonic)
    read: int = 0
    last: str = ""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def news(self) -> list[str]:
        """Whole lines that were logged since the last call."""
        with self.job.file(".log").open("rb") as file:
            file.seek(self.read)
            whole, end, _ = file.read().rpartition(b"\n")
        self.read += len(whole) + len(end)
        lines = [line for line in whole.decode(errors="replace").split("\n") if line.strip()]
        self.last = lines[-1].strip() if lines else self.last
        return lines

    def poll(self) -> int | None:
        """Exit status once it has ended; then nothing of its process group is left."""
        ended = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        self.kill()  # loader workers; before the child is reaped, so that its number means this very group
        return self.process.wait()

    def terminate(self) -> None:
        """Ask it to end: it may write a checkpoint, and tells its own helpers."""
        self.process.terminate()

    def kill(self) -> None:
        """End its whole process group at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def start(
    job: LocalJob, devices: Sequence[str], locks: Sequence[Lock], environment: Mapping[str, str], attempt: int = 1
) -> Child:
    """Start a job.

    Args:
        job: its log is begun anew at the first attempt.
        devices: numbers of GPUs, all that it will see; none leaves `environment` as it is.
        locks: given on to the child.
        environment: of the child.
        attempt: counts from 1.
    """
    own = {**environment, "PYTHONUNBUFFERED": "1"}
    if devices:
        own["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    log: Path = job.file(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb" if attempt == 1 else "ab") as output:
        if attempt > 1:
            output.write(f"--- attempt {attempt}\n".encode())
            output.flush()
        read = output.tell()
        process = subprocess.Popen(
            list(job.command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=own,
            pass_fds=[lock.descriptor for lock in locks],
            start_new_session=True,  # Ctrl-C in the terminal is for us: we ask the children to end
            preexec_fn=_die_with(os.getpid()),
        )
    return Child(job, devices, locks, attempt, process, read=read)


def _die_with(parent: int) -> Callable[[], None] | None:
    """What the child does before it becomes the program: have SIGTERM sent to itself when its parent is killed."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def arrange() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGTERM)

    return arrange
