"""Cells as Slurm jobs: the job of each cell, its state and its outcome."""

import json
import re
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.grid import outcomes
from regvit_lightning.runtime import atomic, slurm

NOT_OURS = ("srun:", "slurmstepd:", "submitit ")  # prefixes of log lines not written by the program
RESOURCES = ("Resources", "Priority", "None", "BeginTime")  # uninformative pending reasons of Slurm


@dataclass(frozen=True)
class Submitted:
    """The last job submitted for a cell.

    Attributes:
        number: job id: `12`, or `12_3` in an array.
        log: file of its standard error.
        at: submission time, in seconds since 1970.
    """

    number: str
    log: str
    at: float

    def save(self, base: Path) -> None:
        """Store it next to the cell's log, replacing the outcome of an earlier attempt."""
        atomic.write_text(_file(base), json.dumps(asdict(self)) + "\n")
        atomic.remove(base.with_name(base.name + ".json"))


@dataclass(frozen=True)
class Place:
    """State of a job in the queue.

    Attributes:
        running: False while it is pending.
        words: its state and node, or the reason why it is pending.
        since: start time, in seconds since 1970; 0 while pending.
    """

    running: bool
    words: str
    since: float


class Queue:
    """Jobs in Slurm's queue, queried once; empty without Slurm."""

    def __init__(self) -> None:
        self._places: dict[str, Place] | None = None

    def find(self, number: str) -> Place | None:
        """State of a job in the queue; None when it has ended."""
        if self._places is None:
            self._places = dict(self._read())
        return self._places.get(number)

    def _read(self) -> list[tuple[str, Place]]:
        if shutil.which("squeue") is None:
            return []
        shown = slurm.command("squeue", "--noheader", "--me", "--array", "--format", "%i|%T|%S|%R").stdout
        return [_place(*line.split("|", 3)) for line in shown.splitlines() if line.count("|") >= 3]


def submitted(base: Path) -> Submitted | None:
    """Last job of a cell; None if none was submitted since the cell last ran on this machine."""
    with suppress(OSError, ValueError, TypeError, RecursionError):
        job = Submitted(**json.loads(_file(base).read_text(encoding="utf-8")))
        if isinstance(job.number, str) and isinstance(job.log, str) and isinstance(job.at, int | float):
            return job
    return None


def why(job: Submitted) -> str:
    """Reason why an ended job left no result: the last line of its program, or else Slurm's state."""
    log = Path(job.log)
    line = outcomes.last_line(log, NOT_OURS) or outcomes.last_line(log)
    return line or f"Slurm job {job.number} ended without any output: cancelled, or what it waits for failed"


def crashed(number: str) -> bool:
    """True if an ended job may succeed when retried: it crashed, and not because of a user's mistake."""
    shown = slurm.command("scontrol", "show", "job", "--oneliner", number).stdout
    facts = dict(re.findall(r"(JobState|ExitCode)=(\S+)", shown))
    status = facts.get("ExitCode", "").partition(":")[0]
    return facts.get("JobState") in ("FAILED", "OUT_OF_MEMORY", "NODE_FAIL") and status != str(outcomes.MISTAKE)


def _file(base: Path) -> Path:
    return base.with_name(base.name + ".job")


def _place(number: str, state: str, start: str, reason: str) -> tuple[str, Place]:
    since, running = 0.0, state in ("RUNNING", "COMPLETING")
    if running:
        with suppress(ValueError):
            since = datetime.fromisoformat(start).timestamp()
    where = reason.strip("()")
    words = f"{state.lower()}{'' if where in RESOURCES else ' on ' + where if running else ' (' + where + ')'}"
    return number, Place(running, words, since)
