"""Published values from `configs/published.yaml`, with source and protocol, matched to records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from regvit_lightning import records, settings
from regvit_lightning.data import layout
from regvit_lightning.records import Record
from regvit_lightning.settings import check
from regvit_lightning.values import notation

FILE = settings.CONFIGS / "published.yaml"
# Settings that are not part of the protocol, such as how a cell is run: features in bf16 are still DINOv2's features.
ANY = records.FREE_TO_CHANGE | {"precision", "untrained_size"}


@dataclass(frozen=True)
class Protocol:
    """Protocol under which published values were measured.

    Attributes:
        name: name of the protocol in `published.yaml`.
        words: one-line description of the protocol.
        metric: its name in records, or a description.
        better: +1 if higher is better, -1 if lower is.
        unit: unit of the published values.
        task: a file of `configs/tasks` that measures the same, empty for none.
        images: number of test images; 0 for any number of those of the published data set.
        settings: settings of the task that differ from its file.
        only: names of the settings that decide the value; empty for all.
        differs: known remaining differences from `task`.
    """

    name: str
    words: str
    metric: str
    better: int = 1
    unit: str = "%"
    task: str = ""
    images: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    only: Sequence[str] = ()
    differs: str = ""


@dataclass(frozen=True)
class Published:
    """One published value.

    Attributes:
        model: its name in the source.
        ids: ids of the same model in records, none if there is no such model here.
        part: measured part of the model, such as a kind of token; empty for the whole.
        protocol: protocol of the measurement.
        value: the published value of the metric.
        deviation: standard deviation in the source, None if not given.
        source: arXiv id or URL, and table.
    """

    model: str
    ids: tuple[str, ...]
    part: str
    protocol: Protocol
    value: float
    deviation: float | None
    source: str


def read_published(file: Path = FILE) -> list[Published]:
    """Read all entries of a file.

    Raises:
        SettingsError: the file is unreadable, a protocol is missing, or a row's number of values is wrong.
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
    """Build an entry from a row such as `DINOv2-g | normal`, and a value or a pair of mean and deviation."""
    model, _, part = (word.strip() for word in row.partition("|"))
    mean, deviation = value if isinstance(value, list) else (value, None)
    return Published(model, tuple(models.get(model, ())), part, protocol, float(mean), deviation, source)


@cache
def _protocol_here(task: str) -> dict[str, Any]:
    """Settings of a task as published, without the variant for the rendered data."""
    return settings.merged("tasks", task)


def agrees(record: Record, protocol: Protocol) -> bool:
    """True if a record was measured under a published protocol; never for rendered data."""
    if record.task != protocol.task or record.data == "mini":
        return False
    if record.images != protocol.images if protocol.images else record.data != layout.PUBLISHED:
        return False
    wanted = notation.merged(_protocol_here(protocol.task), protocol.settings)
    decisive = set(protocol.only or wanted) - ANY
    return _within({key: value for key, value in wanted.items() if key in decisive}, record.settings)


def _within(wanted: Any, given: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(given, dict) and all(_within(value, given.get(key)) for key, value in wanted.items())
    return bool(wanted == given)


def beside(entries: Sequence[Published], model: str, part: str, metric: str, record: Record) -> Published | None:
    """First entry of the same model, part and metric whose protocol is that of the record."""
    for entry in entries:
        same = model in entry.ids and (part, metric) == (entry.part, entry.protocol.metric)
        if same and agrees(record, entry.protocol):
            return entry
    return None


def versions(tasks: Sequence[str]) -> dict[str, int]:
    """Current protocol versions of those tasks that exist here."""
    return {task: _protocol_here(task)["version"] for task in tasks if task in settings.names("tasks")}
