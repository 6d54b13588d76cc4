"""Headings of columns: which data they are of, and which setting tells two protocols of one metric apart."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from regvit_lightning import records
from regvit_lightning.data import layout
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.records import Record

SETS = {  # section of the data settings, and index of the split that is scored
    "ImageNet": ("imagenet", 1),
    "ADE20k": ("segmentation", 1),
    "NYUd": ("depth", 1),
    "VOC 2007": ("voc07", 0),
    "VOC 2012": ("voc12", 0),
    "COCO 20k": ("coco20k", 0),
}
SETTINGS_SHOWN = 3  # in a heading


def set_name(record: Record, name: str) -> str:
    """Name of the data set in a heading: `name` if the record was measured on that very set, else that of its data.

    Args:
        record: any record of a task that reads such data.
        name: a key of `SETS`. The record is of that set if it has as many test images; masks and boxes must also lie
            and be numbered as in the published set.
    """
    section, split = SETS[name]
    published = _published()
    same_layout = section in ("imagenet", "depth") or record.layout == published.section(section)
    if record.data == published.name or (record.images == published.counts[section][split] and same_layout):
        return name
    return f"{record.data} {section}" if section in layout.published_sets() else record.data


def counted(record: Record) -> str:
    """What `Record.images` counts, and its intervals are over: `test images`, or what the protocol names."""
    return str(record.protocol.get("intervals_over", "test images"))


@cache
def _published() -> DataSettings:
    return layout.resolve(layout.PUBLISHED, root_needed=False)


def protocol(record: Record) -> dict[str, Any]:
    """The settings that decide a record's result, and the layout of its data."""
    return {**records.decisive(record.settings), "layout": record.layout}


def protocol_facts(record: Record) -> dict[str, Any]:
    """The protocol of a record, nested keys joined by dots."""
    return flat(protocol(record))


def flat(tree: Mapping[str, Any], below: str = "") -> dict[str, Any]:
    """Values of nested mappings by their keys joined by dots."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        values |= flat(value, f"{below}{key}.") if isinstance(value, Mapping) and value else {f"{below}{key}": value}
    return values


def differences(protocols: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells each of several protocols from the others: `crop 64`, `crop 96, version 1`; empty for a single one.

    Args:
        protocols: facts of each, see `protocol_facts`.
    """
    keys = sorted({key for facts in protocols for key in facts})
    differ = [key for key in keys if any(_other(facts, protocols[0], key) for facts in protocols)]
    return [_named(facts, differ) for facts in protocols]


def _other(facts: Mapping[str, Any], first: Mapping[str, Any], key: str) -> bool:
    return (key in facts) != (key in first) or facts.get(key) != first.get(key)


def _named(facts: Mapping[str, Any], keys: Sequence[str]) -> str:
    shown = [f"{key} {facts[key]}" if key in facts else f"no {key}" for key in keys[:SETTINGS_SHOWN]]
    return ", ".join(shown) + (f" and {len(keys) - SETTINGS_SHOWN} more" if len(keys) > SETTINGS_SHOWN else "")


def distinct(names: Sequence[str], protocols: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Headings of columns: the name, and where several have the same one what differs between their protocols.

    Args:
        names: plain heading of each column.
        protocols: key and facts of each column's protocol; the key is shown where the differences are too many.
    """
    headings = list(names)
    for name in {name for name in names if names.count(name) > 1}:
        indices = [index for index, other in enumerate(names) if other == name]
        named = differences([protocols[index][1] for index in indices])
        for index, text in zip(indices, named, strict=True):
            unclear = named.count(text) > 1
            headings[index] = f"{name} ({text}{f', @{protocols[index][0]}' if unclear else ''})"
    return headings
