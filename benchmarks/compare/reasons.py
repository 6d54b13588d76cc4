"""What changed besides the numbers: settings of protocols and recipes, and versions of packages."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.tables.columns import BySeed
from benchmarks.tables.headings import flat
from benchmarks.tables.scored_records import ScoredRecords
from regvit_lightning import records

SHOWN = 5  # changes named in a line


def protocol_changes(old: BySeed, new: BySeed) -> str:
    """Settings and layout that differ between two protocols of one metric: `crop 64 → 96, version 1 → 2`."""
    before, after = (next(iter(side.values())).column.facts for side in (old, new))
    return in_words(before, after)


def changed_facts(base: ScoredRecords, head: ScoredRecords) -> list[str]:
    """Settings of recipes that changed, a line for each model, and a line of the versions of packages that changed."""
    if not base.cells or not head.cells:
        return []
    before, after = _recipes(base), _recipes(head)
    lines = [(model, in_words(before[model], after[model])) for model in sorted(before.keys() & after.keys())]
    lines.append(("versions", in_words(_versions(base), _versions(head))))
    return [f"{name}: {'trained with ' if name != 'versions' else ''}{words}" for name, words in lines if words]


def in_words(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Values that differ, nested keys joined by dots: `lr 0.001 → 0.002, clip none → 3.0`."""
    before, after = flat(old), flat(new)
    keys = [key for key in sorted(before | after) if _value(before, key) != _value(after, key)]
    shown = [f"{key} {_value(before, key)} → {_value(after, key)}" for key in keys[:SHOWN]]
    return ", ".join(shown) + (f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else "")


def _value(facts: Mapping[str, Any], key: str) -> Any:
    return facts.get(key, "not there")


def _recipes(side: ScoredRecords) -> dict[str, Mapping[str, Any]]:
    """Settings of its recipe by model, as far as records have them."""
    known = ((record.model, record.backbone.get("trained_with")) for record in side.records)
    return {model: records.without_earlier(settings) for model, settings in known if isinstance(settings, Mapping)}


def _versions(side: ScoredRecords) -> dict[str, str]:
    """Versions of each package in the records, in ascending order; a record of an older format may lack them."""
    of_package: dict[str, set[str]] = {}
    for record in side.records:
        for package, version in record.provenance.get("versions", {}).items():
            of_package.setdefault(package, set()).add(version or "none")
    return {package: _joined(sorted(versions)) for package, versions in of_package.items()}


def _joined(versions: Sequence[str]) -> str:
    return " and ".join(versions)
