"""Jobs, and in which order they run: longest first, each after what it needs.

Longest first is Graham's list scheduling (1969) by the length of the path that hangs on a job: a pretraining comes
before the evaluations that wait for it, and the end of the whole is not spent waiting for one long job.
"""

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LocalJob:
    """One cell as a command.

    Attributes:
        name: for people, unique in the grid: `deit3-vitn_reg4 imagenet_knn seed 0`.
        command: program and arguments of the child process.
        base: its lock, log and outcome are `<base>.lock`, `.log` and `.json`.
        devices: how many it takes.
        needs: name of the job that must have succeeded before; empty for none.
        seconds: how long it is expected to take, or any number that grows with it.
    """

    name: str
    command: Sequence[str]
    base: Path
    devices: int = 1
    needs: str = ""
    seconds: float = 0.0

    def file(self, suffix: str) -> Path:
        """`<base><suffix>`."""
        return self.base.with_name(self.base.name + suffix)


def longest_first(jobs: Sequence[LocalJob]) -> list[LocalJob]:
    """Sorted by the seconds of the longest path that begins with a job; equal ones stay in their order."""
    after: dict[str, float] = {}
    for job in jobs:
        after[job.needs] = max(after.get(job.needs, 0.0), job.seconds)
    return sorted(jobs, key=lambda job: -(job.seconds + after.get(job.name, 0.0)))


def ready(jobs: Sequence[LocalJob], done: Collection[str], free: int) -> LocalJob | None:
    """The first of `jobs` whose needs are done; None when it has to wait for devices, of which `free` are.

    A job that needs several devices is not overtaken by those behind it: it would never get them.
    """
    first = next((job for job in jobs if not job.needs or job.needs in done), None)
    return first if first is not None and first.devices <= free else None


def makespan(jobs: Sequence[LocalJob], devices: int) -> float:
    """Seconds until all jobs are done on so many devices, begun longest first."""
    waiting, names = longest_first(jobs), {job.name for job in jobs}
    done: set[str] = {job.needs for job in jobs} - names
    running: list[tuple[float, str, int]] = []
    now, free = 0.0, devices
    while waiting or running:
        while (job := ready(waiting, done, free)) is not None:
            waiting.remove(job)
            free -= job.devices
            heapq.heappush(running, (now + job.seconds, job.name, job.devices))
        if not running:
            return float("inf")  # a job that needs more devices than there are
        now, name, given_back = heapq.heappop(running)
        done.add(name)
        free += given_back
    return now


def seconds_left(jobs: Sequence[LocalJob], begun: Mapping[str, float], devices: int) -> float:
    """Seconds until all jobs are done, where those in `begun` have run for so many seconds already."""
    return makespan([_shortened(job, begun.get(job.name, 0.0)) for job in jobs], devices)


def _shortened(job: LocalJob, seconds: float) -> LocalJob:
    return LocalJob(job.name, job.command, job.base, job.devices, job.needs, max(job.seconds - seconds, 0.0))
