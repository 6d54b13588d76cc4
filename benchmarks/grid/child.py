"""Child process that runs a cell: with its devices set before it starts, its own log, and no way to outlive us."""

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

from benchmarks.grid.queueing import LocalJob
from regvit_lightning.runtime.locks import PASSED_ON, Lock

PR_SET_PDEATHSIG = 1  # option of prctl(2): signal the child when its parent dies


@dataclass
class Child:
    """A running child.

    Attributes:
        job: the job that it runs.
        devices: indices of its devices.
        locks: locks of the cell and its devices, held by the child until it ends, even if this process ends earlier.
        attempt: 1, or 2 after a crash.
        begun: start time on the monotonic clock.
        read: bytes of the log already returned by `news`.
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
        """Complete lines logged since the last call."""
        with self.job.file(".log").open("rb") as file:
            file.seek(self.read)
            whole, end, _ = file.read().rpartition(b"\n")
        self.read += len(whole) + len(end)
        lines = [line for line in whole.decode(errors="replace").split("\n") if line.strip()]
        self.last = lines[-1].strip() if lines else self.last
        return lines

    def poll(self) -> int | None:
        """Exit status, or None while it runs; when it has ended, the rest of its process group is killed."""
        ended = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        self.kill()  # loader workers; before the child is reaped, so that its pid still denotes this group
        return self.process.wait()

    def terminate(self) -> None:
        """Ask the child to end: it may write a checkpoint and stops its own subprocesses."""
        self.process.terminate()

    def kill(self) -> None:
        """Kill the child's whole process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def start(
    job: LocalJob, devices: Sequence[str], locks: Sequence[Lock], environment: Mapping[str, str], attempt: int = 1
) -> Child:
    """Start a job.

    Args:
        job: the job; its log is overwritten at the first attempt.
        devices: indices of the GPUs visible to the child; none leaves `environment` unchanged.
        locks: locks passed on to the child.
        environment: environment of the child.
        attempt: number of the attempt, from 1.
    """
    own = {**environment, "PYTHONUNBUFFERED": "1", PASSED_ON: ",".join(str(lock.descriptor) for lock in locks)}
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
            start_new_session=True,  # Ctrl-C in the terminal reaches only the parent, which asks the children to end
            preexec_fn=_die_with(os.getpid()),
        )
    return Child(job, devices, locks, attempt, process, read=read)


def _die_with(parent: int) -> Callable[[], None] | None:
    """Pre-exec function of the child: have the kernel send it SIGTERM when its parent dies."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def arrange() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGTERM)

    return arrange
