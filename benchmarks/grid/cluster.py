"""Cells as jobs of a Slurm cluster: which job works on which cell, and what became of it."""

import json
import re
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.grid import outcomes
from regvit_lightning.runtime import atomic, slurm

NOT_OURS = ("srun:", "slurmstepd:", "submitit ")  # lines of the log that are not the program's
RESOURCES = ("Resources", "Priority", "None", "BeginTime")  # reasons of Slurm that tell a user nothing


@dataclass(frozen=True)
class Submitted:
    """The job that was submitted last for a cell.

    Attributes:
        number: `12`, or `12_3` in an array.
        log: what it says on standard error.
        at: seconds since 1970, of the submission.
    """

    number: str
    log: str
    at: float

    def save(self, base: Path) -> None:
        """Keep it beside the cell's log, in place of the outcome of an earlier attempt."""
        atomic.write_text(_file(base), json.dumps(asdict(self)) + "\n")
        atomic.remove(base.with_name(base.name + ".json"))


@dataclass(frozen=True)
class Place:
    """Where a job stands in the queue.

    Attributes:
        running: or still waiting.
        words: its state and node, or why it waits.
        since: seconds since 1970, of its start; 0 before.
    """

    running: bool
    words: str
    since: float


class Queue:
    """The jobs that Slurm knows, asked for once; empty where there is no Slurm."""

    def __init__(self) -> None:
        self._places: dict[str, Place] | None = None

    def find(self, number: str) -> Place | None:
        """A job's position in the queue; None when it has ended."""
        if self._places is None:
            self._places = dict(self._read())
        return self._places.get(number)

    def _read(self) -> list[tuple[str, Place]]:
        if shutil.which("squeue") is None:
            return []
        shown = slurm.command("squeue", "--noheader", "--me", "--array", "--format", "%i|%T|%S|%R").stdout
        return [_place(*line.split("|", 3)) for line in shown.splitlines() if line.count("|") >= 3]


def submitted(base: Path) -> Submitted | None:
    """The job of a cell; None where none was submitted since it last ran on this machine."""
    with suppress(OSError, ValueError, TypeError):
        return Submitted(**json.loads(_file(base).read_text(encoding="utf-8")))
    return None


def why(job: Submitted) -> str:
    """Why an ended job left no result, in the last words of its program, or else of Slurm."""
    log = Path(job.log)
    line = outcomes.last_line(log, NOT_OURS) or outcomes.last_line(log)
    return line or f"Slurm job {job.number} ended without any output: cancelled, or what it waits for failed"


def crashed(number: str) -> bool:
    """Whether an ended job may succeed when it is run again: it failed by itself, and not by a user's mistake."""
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
