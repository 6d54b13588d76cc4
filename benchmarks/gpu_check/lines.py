"""The lines of the table: what was measured, how it ended, and the files that are rewritten after every part."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.tables import markdown
from regvit_lightning.errors import one_line

OK, BELOW, FAILED, SKIPPED, NOT_RUN = "ok", "below its aim", "failed", "skipped", "not run"
# Packages that may be missing: what needs them is skipped.
OPTIONAL = ("mmseg", "mmengine", "mmcv", "cv2", "open_clip", "ftfy")


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        name: what was measured.
        value: measured value; None for a line without one.
        unit: unit of the value; empty for a ratio.
        aim: what the value should be, in words; empty for none.
        state: `ok`, `below its aim`, `failed`, `skipped` or `not run`.
        source: quantities behind the value with their units; or the reason why there is none.
        facts: the same quantities by name, JSON-serialisable, for the file and for later parts.
    """

    name: str
    value: float | None = None
    unit: str = ""
    aim: str = ""
    state: str = OK
    source: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def at_least(name: str, value: float, least: float, source: str, **more: Any) -> Line:
    """Line of a value that should be at least `least`; below it, the check as a whole still succeeds."""
    return Line(name, value, aim=f"≥ {least:g}", state=OK if value >= least else BELOW, source=source, **more)


def at_most(name: str, value: float, most: float, source: str, failure: str = BELOW, **more: Any) -> Line:
    """Line of a value that should be at most `most`; NaN never is. `failure` is its state if it is not."""
    return Line(name, value, aim=f"≤ {most:.2g}", state=OK if value <= most else failure, source=source, **more)


def failure(name: str, error: BaseException) -> Line:
    """Line of a measurement that raised: skipped if an optional package is missing, else failed."""
    missing = _missing(error)
    if missing:
        return Line(name, state=SKIPPED, source=f"{missing} is not installed")
    return Line(name, state=FAILED, source=f"{type(error).__name__}: {one_line(error)}")


def _missing(error: BaseException | None) -> str:
    """The optional package whose absence led to `error`, directly or through another error; empty if none did."""
    while error is not None:
        missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if missing in OPTIONAL:
            return missing
        error = error.__cause__ or error.__context__
    return ""


def guarded(name: str, work: Callable[[], Iterator[Line]]) -> Iterator[Line]:
    """Lines of `work`; if it raises, a last line called `name` with the reason, and the traceback on standard error."""
    try:
        yield from work()
    except Exception as error:
        line = failure(name, error)
        if line.state == FAILED:
            import traceback

            traceback.print_exc()
        yield line


def table(lines: Sequence[Line], note: str) -> str:
    """The lines as Markdown with a note below."""
    rows = [("measurement", "value", "aim", "state", "from")]
    rows += [(line.name, _value(line), line.aim or "–", line.state, line.source or "–") for line in lines]
    return f"{markdown.table([[cell.replace('|', '/') for cell in row] for row in rows])}\n\n{note}\n"


def _value(line: Line) -> str:
    if line.value is None:
        return "–"
    size = abs(line.value)
    text = f"{line.value:,.0f}" if size >= 100 or line.value == int(line.value) else f"{line.value:.3g}"
    return f"{text} {line.unit}".strip()


def write(place: Path, lines: Sequence[Line], about: Mapping[str, Any], note: str) -> None:
    """Write `<place>.json` and `<place>.md`, atomically.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    from regvit_lightning.runtime import atomic

    content = {**about, "lines": [asdict(line) for line in lines]}
    atomic.write_text(place.with_suffix(".json"), json.dumps(content, indent=1) + "\n")
    atomic.write_text(place.with_suffix(".md"), table(lines, note))
