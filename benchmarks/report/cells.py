"""The records that a page shows: read, checked, put in order."""

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from regvit_lightning import records
from regvit_lightning.errors import UserError
from regvit_lightning.models.names import without_tag
from regvit_lightning.records import Record

LARGEST = 1e15  # of a metric that is shown with all its digits; NaN is not below it
REGISTERS = re.compile(r"_reg(\d+)")


@dataclass(frozen=True)
class Cell:
    """A record and where it lies."""

    record: Record
    file: Path

    @property
    def key(self) -> str:
        """Names the cell in the page's address."""
        return f"{self.record.model}/{self.record.task}/{self.record.seed}"


def load(results: Path, data: str) -> tuple[list[Cell], list[str]]:
    """All cells of one data set, models in order; and a line for each file that is not one of them, and why."""
    found, skipped = [], []
    for file in sorted((results / data / "cells").rglob("*.json")):
        try:
            record = records.read_record(file)
        except UserError as error:
            skipped.append(str(error))
            continue
        fault = _fault(record, data) or _misplaced(record, file, results)
        if fault:
            skipped.append(f"{file}: {fault}; {records.AGAIN}")
        else:
            found.append(Cell(record, file))
    return sorted(found, key=lambda cell: (*order(cell.record), cell.record.task, cell.record.seed)), skipped


def _misplaced(record: Record, file: Path, results: Path) -> str:
    own = record.path(results)
    return "" if own == file else f"a record that belongs to {str(own)[:200]}"


def _fault(record: Record, data: str) -> str:
    """Why a record cannot be shown, or is one of other data, or ''."""
    texts = (record.model, record.task, record.data, record.weights, record.data_root)
    mappings = [getattr(record, entry.name) for entry in fields(record) if str(entry.type).startswith("dict")]
    if not all(isinstance(text, str) for text in texts) or type(record.seed) is not int:
        return "its names are not texts, or its seed is no number"
    if not all(isinstance(one, dict) for one in mappings) or not _is_list_of_texts(record.footnote):
        return "some of its parts are not mappings, or its footnote is no list"
    numbers = [*record.metrics.values(), *(value for kept in record.floors.values() for value in _values(kept))]
    if not all(map(_is_column, record.columns.values())) or not all(map(_is_number, numbers)):
        return "its metrics are not numbers"
    return "" if record.data == data else f"a record of data '{record.data}'"


def _is_column(facts: Any) -> bool:
    if not isinstance(facts, dict) or not {"better", "unit", "decimals"} <= facts.keys():
        return False
    decimals = facts["decimals"]
    return (
        facts["better"] in (-1, 1) and type(decimals) is int and 0 <= decimals <= 9 and isinstance(facts["unit"], str)
    )


def _values(kept: Any) -> list[Any]:
    return list(kept.values()) if isinstance(kept, dict) else [None]


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def registers(record: Record) -> int:
    """Number of registers of the model."""
    count = record.backbone.get("num_registers")
    return count if isinstance(count, int) else 0


def family(model: str) -> str:
    """What a model and its twins with other numbers of registers have in common: its name without theirs."""
    return REGISTERS.sub("", model)


def order(record: Record) -> tuple[bool, str, str, int, str]:
    """Untrained models first; then by family, the run without a tag before those with one, and number of registers."""
    own = family(record.model)
    return not record.model.startswith("random-"), without_tag(own), own, registers(record), record.model


def logs(record: Record, runs: Path) -> str:
    """Where the cell's logs lie, of those that are here: of the grid, and of a head that was trained."""
    folder = runs / record.data
    grid = folder / "grid" / record.model / f"{record.task}.seed{record.seed}.log"
    head = folder / record.model / f"seed{record.seed}" / record.task / "log"
    return ", ".join(str(place) for place in (grid, head) if os.path.exists(place)) or f"{head} (not here)"
