"""Outcome of the last attempt at a cell: a small file next to its log, read by `make status` and other grids."""

import json
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from regvit_lightning.runtime import atomic

MISTAKE = 2  # exit status for a user's mistake: a retry would fail in the same way


@dataclass(frozen=True)
class CellOutcome:
    """Outcome of a cell.

    Attributes:
        name: name of the job.
        error: last line of its output when it failed; empty when it succeeded.
        log: file with its full output.
        seconds: duration of the last attempt, from the start of its process to its end.
        ended: end time, in seconds since 1970.
    """

    name: str
    error: str
    log: str
    seconds: float
    ended: float

    def save(self, file: Path) -> None:
        """Write the outcome atomically."""
        atomic.write_text(file, json.dumps(asdict(self), indent=1) + "\n")


def read_outcome(file: Path) -> CellOutcome | None:
    """Read the outcome in `file`; None if it is absent or damaged."""
    try:
        outcome = CellOutcome(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    texts = all(isinstance(value, str) for value in (outcome.name, outcome.error, outcome.log))
    times = all(isinstance(value, int | float) for value in (outcome.seconds, outcome.ended))
    return outcome if texts and times else None


def ended(name: str, status: int, log: Path, seconds: float) -> CellOutcome:
    """Outcome of a process that ended with `status` (negative: the number of the signal that killed it)."""
    error = ""
    if status:
        error = last_line(log) or f"exit status {status}"
    if status < 0:
        hint = ", perhaps out of memory" if -status == signal.SIGKILL else ""
        error = f"killed by {signal.Signals(-status).name}{hint}; before: {last_line(log) or 'no output'}"
    return CellOutcome(name, error, str(log), round(seconds, 1), time.time())


def last_line(log: Path, but: tuple[str, ...] = ()) -> str:
    """Last line of a log that is not empty and does not begin with one of `but`."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, 2) - 8192, 0))
            lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip() and not line.startswith(but)), "")
