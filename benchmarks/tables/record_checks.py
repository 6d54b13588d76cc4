"""Validation of records before they enter a table or page: types, finite numbers, and file location."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from regvit_lightning.records import Record

LARGEST = 1e15  # bound of numbers shown with all digits; NaN is not below it
MAPPINGS = [entry.name for entry in fields(Record) if str(entry.type).startswith("dict")]


def fault(record: Record, data: str, path: str) -> str:
    """Short reason why a record cannot be used, or '' if it can.

    Args:
        data: name of its expected data.
        path: path of its file relative to the folder of the cells, with slashes.
    """
    wrong = _wrong_types(record) or _wrong_numbers(record)
    if wrong:
        return wrong
    if record.data != data:
        return f"a record of data '{record.data}'"
    proper = record.path(Path()).as_posix()
    return "" if proper == f"{data}/cells/{path}" else f"a record that belongs to {proper[:200]}"


def _wrong_types(record: Record) -> str:
    texts = (record.model, record.task, record.data, record.weights, record.data_root)
    if not _are_texts(texts) or type(record.seed) is not int or type(record.images) is not int:
        return "its names are not texts, or its seed or number of images is no whole number"
    if not all(isinstance(getattr(record, name), dict) for name in MAPPINGS):
        return "some of its parts are not mappings"
    if not isinstance(record.footnote, list) or not _are_texts(record.footnote):
        return "its footnote is no list of texts"
    if not record.protocol.keys() >= set(record.footnote):
        return "its footnote names facts that its protocol lacks"
    origin = [record.provenance.get(name, "") for name in ("commit", "date")]
    if not _are_texts(origin):
        return "its commit or its date is no text"
    if record.scores and not _are_texts([record.scores.get(name) for name in ("file", "digest")]):
        return "its scores name no file or no digest"
    return ""


def _wrong_numbers(record: Record) -> str:
    if not all(map(_is_column, record.columns.values())):
        return "its columns lack direction, unit or decimals"
    if not all(isinstance(metrics, dict) for metrics in record.floors.values()):
        return "its metrics are not numbers"
    if not all(_are_numbers(metrics.values()) for metrics in (record.metrics, *record.floors.values())):
        return "its metrics are not numbers"
    pairs = record.intervals.values()
    if not all(isinstance(ends, list) and len(ends) == 2 and _are_numbers(ends) for ends in pairs):
        return "its intervals are not pairs of numbers"
    return ""


def _is_column(facts: Any) -> bool:
    if not isinstance(facts, dict) or facts.keys() != {"better", "unit", "decimals"}:
        return False
    better, unit, decimals = facts["better"], facts["unit"], facts["decimals"]
    whole = type(better) is int and type(decimals) is int
    return whole and -1 <= better <= 1 and 0 <= decimals <= 9 and isinstance(unit, str)


def _are_texts(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _are_numbers(values: Any) -> bool:
    return all(type(value) in (int, float) and abs(value) < LARGEST for value in values)
