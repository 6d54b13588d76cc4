"""The records that a page shows: read, checked, named, and each with the command that makes it again."""

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from regvit_lightning import records, settings
from regvit_lightning.errors import UserError
from regvit_lightning.records import Record
from regvit_lightning.settings import SettingsError

PLAIN = re.compile(r"[\w.@+/-]+", re.ASCII)  # what may stand in a command without a thought about quotes
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
            record = records.load(file)
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
    if not isinstance(facts, dict) or set(facts) != {"better", "unit", "decimals"}:
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


def order(record: Record) -> tuple[bool, str, int, str]:
    """Untrained models first; then by family and number of registers."""
    return not record.model.startswith("random-"), family(record.model), registers(record), record.model


def logs(record: Record, runs: Path) -> str:
    """Where the cell's logs lie, of those that are here: of the grid, and of a head that was trained."""
    folder = runs / record.data
    grid = folder / "grid" / record.model / f"{record.task}.seed{record.seed}.log"
    head = folder / record.model / f"seed{record.seed}" / record.task / "log"
    return ", ".join(str(place) for place in (grid, head) if os.path.exists(place)) or f"{head} (not here)"


# --------------------------------------------------------------------------------------------------------- commands


def command(record: Record) -> str:
    """The line that evaluates the cell again, beside the results that are kept; or why there is none, after a `#`."""
    data = record.data if record.data in settings.names("data") else record.data_root
    names = [record.model, record.task, data]
    if not all(PLAIN.fullmatch(name) for name in names):
        return "# no command: a name in this record is not one that a shell leaves alone"
    if record.task not in settings.names("tasks"):
        return f"# no command: this version has no task '{record.task}'"
    model = _model(record.model)
    if not model:
        return f"# MODEL is the path of the file with the weights {record.weights}: its name alone is known"
    words = [f"MODEL={model}", f"TASK={record.task}", f"DATA={data}", f"SEED={record.seed}"]
    if record.data_root and data == record.data:
        words.append(
            f"DATA_ROOT={shlex.quote(record.data_root)}" if PLAIN.fullmatch(record.data_root) else "DATA_ROOT=…"
        )
    variant, changed = _changed(record)
    if variant:
        words.append(f"VARIANT={variant}")
    try:
        given = " ".join(f"{key}={_flow_word(value)}" for key, value in sorted(changed.items()))
    except ValueError:
        return f"# no command: settings {', '.join(sorted(changed))} cannot be given as words"
    if given:
        words.append(f'ARGS="{given}"')
    return " ".join(["make eval", *words, "RESULTS=again"])


def _model(name: str) -> str:
    """What `MODEL=` must be, or '' where only the file knows."""
    untrained, bare = ("random-", name.removeprefix("random-")) if name.startswith("random-") else ("", name)
    recipe, _, size = bare.rpartition("-")
    known = (recipe in settings.names("recipes")) != bool(untrained and not recipe)
    if known and re.fullmatch(r"vit[a-z]\d*_reg\d+", size):
        return name
    import timm

    return f"{untrained}timm/{bare}" if "/" not in bare and timm.is_model(bare.partition(".")[0]) else ""


def _changed(record: Record) -> tuple[str, dict[str, Any]]:
    """The variant of the task that the record's settings are nearest to, '' for the data's own, and what differs."""
    candidates = []
    for variant in dict.fromkeys(("auto", "", "mini")):
        try:
            usual = _usual(record.task, variant, record.data)
        except SettingsError:  # the task has no such variant
            continue
        keys = (usual.keys() | record.settings.keys()) - records.FREE_TO_CHANGE
        differ = {key: record.settings.get(key) for key in keys if record.settings.get(key) != usual.get(key)}
        candidates.append((len(differ), variant, differ))
    _, variant, differ = min(candidates, key=lambda one: one[0])
    return "" if variant == "auto" else variant, differ


@cache
def _usual(task: str, variant: str, data: str) -> dict[str, Any]:
    """Settings of a task as they are without any word; `auto` takes the variant of the data."""
    if variant == "auto":
        known = data in settings.names("data")
        variant = str(settings.read_yaml(settings.find("data", data)[-1]).get("variant", "")) if known else ""
    _, chosen = settings.load("tasks", task, variant)
    return settings.resolved(chosen)


def _flow_word(value: Any) -> str:
    text = _flow(value)
    return f"'{text}'" if re.search(r"[\s{}\[\]]", text) else text


def _flow(value: Any) -> str:
    """A value in YAML's flow notation, without any quote.

    Raises:
        ValueError: it has a text that would need some.
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(kept)}" for key, kept in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str) and not (PLAIN.fullmatch(value) and _read_back(value) == value):
        raise ValueError(f"{value!r} needs quotes")
    return str(value)


def _read_back(text: str) -> Any:
    return cast(DictConfig, OmegaConf.create(f"value: {text}"))["value"]


def commands(cells: Sequence[Cell]) -> str:
    """The commands of several cells, one a line."""
    return "\n".join(command(cell.record) for cell in cells)
