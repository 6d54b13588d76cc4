"""Other people's numbers from `configs/published.yaml`, with source and protocol; which of ours they stand beside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from regvit_lightning import records, settings
from regvit_lightning.records import Record
from regvit_lightning.settings import check
from regvit_lightning.values import notation

FILE = settings.CONFIGS / "published.yaml"
# Of how a cell is run, or not of the protocol: features in bf16 are still DINOv2's features.
ANY = records.FREE_TO_CHANGE | {"precision", "untrained_size"}


@dataclass(frozen=True)
class Protocol:
    """How published numbers were measured.

    Attributes:
        name: of the protocol in `published.yaml`.
        words: the protocol in a line.
        metric: its name in records, or what it is.
        better: +1 where higher is better, -1 where lower is.
        unit: of the published values.
        task: a file of `configs/tasks` that measures the same, empty for none.
        images: number of test images, where `task` is given.
        settings: those of the task that differ from its file.
        differs: what is known to differ from `task`, all the same.
    """

    name: str
    words: str
    metric: str
    better: int = 1
    unit: str = "%"
    task: str = ""
    images: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    differs: str = ""


@dataclass(frozen=True)
class Published:
    """One number.

    Attributes:
        model: as the source calls it.
        ids: of records of the same model, none where there is no such model here.
        part: of the model that is measured, such as a kind of token; empty for the whole.
        protocol: how it was measured.
        value: the published value of the metric.
        deviation: standard deviation in the source, None where it gives none.
        source: arXiv id or address, and table.
    """

    model: str
    ids: tuple[str, ...]
    part: str
    protocol: Protocol
    value: float
    deviation: float | None
    source: str


def read_published(file: Path = FILE) -> list[Published]:
    """All entries of a file.

    Raises:
        SettingsError: not readable, a protocol is not described, or a row has not as many values as columns.
    """
    content = settings.read_yaml(file)
    protocols = {name: Protocol(name, **facts) for name, facts in content["protocols"].items()}
    entries = []
    for group in content["tables"]:
        for row, values in group["rows"].items():
            columns, where = group["columns"], f"{file.name}: {group['source']}, {row}"
            check(len(values) == len(columns), f"{where}: {len(values)} values for {len(columns)} columns")
            for column, value in zip(columns, values, strict=True):
                check(column in protocols, f"{where}: no protocol {column}")
                if value is not None:
                    entries.append(_entry(row, protocols[column], value, group["source"], content["models"]))
    return entries


def _entry(row: str, protocol: Protocol, value: Any, source: str, models: Mapping[str, Sequence[str]]) -> Published:
    """From a row such as `DINOv2-g | normal`, and a value that may be a pair of mean and deviation."""
    model, _, part = (word.strip() for word in row.partition("|"))
    mean, deviation = value if isinstance(value, list) else (value, None)
    return Published(model, tuple(models.get(model, ())), part, protocol, float(mean), deviation, source)


@cache
def _protocol_here(task: str) -> dict[str, Any]:
    """The settings of a task as published, without the overlay of the rendered data."""
    return settings.merged("tasks", task)


def agrees(record: Record, protocol: Protocol) -> bool:
    """Whether a record was measured under a published protocol; one on rendered data never is."""
    if record.task != protocol.task or record.data == "mini" or record.images != protocol.images:
        return False
    wanted = notation.merged(_protocol_here(protocol.task), protocol.settings)
    return _within({key: value for key, value in wanted.items() if key not in ANY}, record.settings)


def _within(wanted: Any, given: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(given, dict) and all(_within(value, given.get(key)) for key, value in wanted.items())
    return bool(wanted == given)


def beside(entries: Sequence[Published], model: str, part: str, metric: str, record: Record) -> Published | None:
    """The first entry of the same model, part and metric whose protocol is that of the record."""
    for entry in entries:
        same = model in entry.ids and (part, metric) == (entry.part, entry.protocol.metric)
        if same and agrees(record, entry.protocol):
            return entry
    return None


def versions(tasks: Sequence[str]) -> dict[str, int]:
    """Versions of the protocols as they are now, of those tasks that are here."""
    return {task: _protocol_here(task)["version"] for task in tasks if task in settings.names("tasks")}
