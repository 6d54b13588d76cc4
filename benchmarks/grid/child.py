"""Child process that runs a cell: with its devices set before it starts, its own log, and no way to outlive us."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.grid.nursery import Forked, Nursery, die_with
from benchmarks.grid.queueing import LocalJob
from regvit_lightning.runtime.locks import PASSED_ON, Lock


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
    process: "subprocess.Popen[bytes] | Forked"
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
    job: LocalJob,
    devices: Sequence[str],
    locks: Sequence[Lock],
    environment: Mapping[str, str],
    attempt: int = 1,
    nursery: Nursery | None = None,
) -> Child:
    """Start a job.

    Args:
        job: the job; its log is overwritten at the first attempt.
        devices: indices of the GPUs visible to the child; none leaves `environment` unchanged.
        locks: locks passed on to the child.
        environment: environment of the child.
        attempt: number of the attempt, from 1.
        nursery: forks the child if it can; else a new Python is started.
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
        descriptors = [lock.descriptor for lock in locks]
        forked = nursery.start(job.command, own, output.fileno(), descriptors) if nursery else None
        process = forked or subprocess.Popen(
            list(job.command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=own,
            pass_fds=descriptors,
            start_new_session=True,  # Ctrl-C in the terminal reaches only the parent, which asks the children to end
            preexec_fn=die_with(os.getpid()) if sys.platform.startswith("linux") else None,
        )
    return Child(job, devices, locks, attempt, process, read=read)
