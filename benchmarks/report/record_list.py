"""List of all records with their provenance, and the details that the page shows for an opened record."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.tables.scored_records import ScoredRecord
from regvit_lightning.records import Record

KINDS = {  # data types of the columns, by which the page's script sorts
    "task": "text",
    "seed": "number",
    "result": "text",
    "images": "number",
    "date": "text",
    "commit": "text",
    "device": "text",
    "seconds": "number",
}


@dataclass(frozen=True)
class ListedRecord:
    """One row of the record list.

    Attributes:
        model, task: model and task of the record.
        values: values of the other columns, by the names in `KINDS`.
        command: command that reproduces the record.
        words: text searched by the filter.
    """

    model: str
    task: str
    values: dict[str, Any]
    command: str
    words: str


def listed(cells: Sequence[ScoredRecord], commands: Sequence[str]) -> list[ListedRecord]:
    """Build one row per record.

    Args:
        cells: records in the order of the page's list.
        commands: command of each record.
    """
    rows = []
    for cell, command in zip(cells, commands, strict=True):
        record, values = cell.record, _values(cell.record)
        words = " ".join([record.model, *map(str, values.values())])
        rows.append(ListedRecord(record.model, record.task, values, command, words))
    return rows


def _values(record: Record) -> dict[str, Any]:
    origin = record.provenance
    commit = origin.get("commit", "")[:10] or "unknown"
    return {
        "task": record.task,
        "seed": record.seed,
        "result": ", ".join(_result(record, metric, facts["decimals"]) for metric, facts in record.columns.items()),
        "images": record.images,
        "date": origin.get("date", "")[:16].replace("T", " "),
        "commit": f"{commit} + changes" if origin.get("dirty") else commit,
        "device": origin.get("device", ""),
        "seconds": origin.get("seconds", ""),
    }


def _result(record: Record, metric: str, decimals: int) -> str:
    return f"{metric} {record.metrics[metric]:.{decimals}f}" if metric in record.metrics else ""


def facts(cells: Sequence[ScoredRecord], commands: Sequence[str], runs: Path) -> list[dict[str, Any]]:
    """Details that the page shows for each opened record; `key` identifies the record in the page's URL."""
    return [
        {
            "key": f"{cell.record.model}/{cell.record.task}/{cell.record.seed}",
            "file": str(cell.file),
            "log": logs(cell.record, runs),
            "command": command,
            "record": asdict(cell.record),
        }
        for cell, command in zip(cells, commands, strict=True)
    ]


def logs(record: Record, runs: Path) -> str:
    """Paths of the cell's existing logs: that of the grid, and that of a trained head."""
    folder = runs / record.data
    grid = folder / "grid" / record.model / f"{record.task}.seed{record.seed}.log"
    head = folder / record.model / f"seed{record.seed}" / record.task / "log"
    return ", ".join(str(log) for log in (grid, head) if os.path.exists(log)) or f"{head} (not here)"
