"""Job scheduling: longest path first, each job after its dependency.

This is Graham's list scheduling (1969), prioritised by the length of the path that depends on a job: a pretraining
comes before the evaluations that wait for it, and the run does not end with a wait for one long job.
"""

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class LocalJob:
    """Command that runs one cell.

    Attributes:
        name: display name, unique in the grid: `deit3-vitn_reg4 imagenet_knn seed 0`.
        command: program and arguments of the child process.
        base: path of its files: log `<base>.log` and outcome `<base>.json`.
        folder: folder that it writes to; its lock is held while it runs.
        devices: number of devices that it uses.
        needs: name of the job that must succeed first; empty for none.
        seconds: expected duration, or any number that grows with it.
    """

    name: str
    command: Sequence[str]
    base: Path
    folder: Path
    devices: int = 1
    needs: str = ""
    seconds: float = 0.0

    def file(self, suffix: str) -> Path:
        """Path `<base><suffix>`."""
        return self.base.with_name(self.base.name + suffix)


def longest_first(jobs: Sequence[LocalJob]) -> list[LocalJob]:
    """Sort jobs by the duration of the longest path that starts with each, longest first; the sort is stable."""
    after: dict[str, float] = {}
    for job in jobs:
        after[job.needs] = max(after.get(job.needs, 0.0), job.seconds)
    return sorted(jobs, key=lambda job: -(job.seconds + after.get(job.name, 0.0)))


def ready(jobs: Sequence[LocalJob], done: Collection[str], free: int) -> LocalJob | None:
    """First of `jobs` whose dependency is done; None if it has to wait for devices, of which `free` are idle.

    A job that needs several devices is not overtaken by later ones: it would never get them.
    """
    first = next((job for job in jobs if not job.needs or job.needs in done), None)
    return first if first is not None and first.devices <= free else None


def makespan(jobs: Sequence[LocalJob], devices: int) -> float:
    """Seconds until all jobs are done on `devices` devices, started longest first."""
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
    """Seconds until all jobs are done; `begun` gives the elapsed seconds of running ones."""
    return makespan([_shortened(job, begun.get(job.name, 0.0)) for job in jobs], devices)


def _shortened(job: LocalJob, seconds: float) -> LocalJob:
    return replace(job, seconds=max(job.seconds - seconds, 0.0))
