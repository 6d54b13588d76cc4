"""Compare two states of the results value by value, with a verdict for each."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.compare.reasons import protocol_changes
from benchmarks.tables import columns
from benchmarks.tables.columns import BySeed, Column, Measured, TableRow
from benchmarks.tables.differences import difference
from benchmarks.tables.scored_records import ScoredRecords
from benchmarks.tables.verdicts import (
    BETTER,
    BETTER_ONE_SEED,
    CHANGED,
    CHANGED_ONE_SEED,
    NOISE,
    UNKNOWN,
    WORSE,
    WORSE_ONE_SEED,
    verdict,
)
from regvit_lightning import statistics
from regvit_lightning.statistics import Comparison

NEW, GONE, PROTOCOL = "new", "gone", "protocol changed"
VERDICTS = (
    *(WORSE, BETTER, WORSE_ONE_SEED, BETTER_ONE_SEED, CHANGED, CHANGED_ONE_SEED, NOISE, UNKNOWN),
    *(PROTOCOL, NEW, GONE),
)
FALSE_ALARMS = 0.05  # chance of any, over all lines, if nothing really changed


@dataclass(frozen=True)
class Line:
    """One metric value in both versions of the results.

    Attributes:
        row, column: where the value stands in the overview table.
        old, new: values by seed; empty where that version has none.
        verdict: one of `VERDICTS`, empty where nothing changed.
        change: new minus old, where the two are comparable.
        reason: what makes the two not comparable.
    """

    row: TableRow
    column: Column
    old: BySeed
    new: BySeed
    verdict: str
    change: Comparison | None = None
    reason: str = ""


Grouped = dict[tuple[TableRow, str, str], dict[str, dict[int, Measured]]]


def compare_records(base: ScoredRecords, head: ScoredRecords) -> list[Line]:
    """Compare every value of either version; lines are sorted by task, model and metric."""
    sides = [_grouped(side) for side in (base, head)]
    lines = [line for number in sides[0] | sides[1] for line in _lines(*(side.get(number, {}) for side in sides))]
    return sorted(lines, key=lambda line: (line.column.rank, line.row.order(), line.column.protocol))


def _grouped(side: ScoredRecords) -> Grouped:
    """Group values by row, task and metric; then by protocol; then by seed."""
    grouped: Grouped = {}
    for number in columns.overview_numbers(side.cells):
        column, seed = number.column, number.cell.record.seed
        by_protocol = grouped.setdefault((number.row, column.task, column.metric), {})
        by_protocol.setdefault(column.protocol, {})[seed] = number
    return grouped


def _lines(old: Mapping[str, BySeed], new: Mapping[str, BySeed]) -> Iterator[Line]:
    """Compare the values of one metric under each protocol of either version."""
    if old and new and not old.keys() & new.keys():
        before, after = _together(old), _together(new)
        yield replace(_line(before, after, PROTOCOL), reason=protocol_changes(before, after))
        return
    for protocol in sorted(old.keys() | new.keys()):
        before, after = old.get(protocol, {}), new.get(protocol, {})
        if before and after:
            yield _compared(before, after)
        else:
            yield _line(before, after, GONE if before else NEW)


def _together(side: Mapping[str, BySeed]) -> BySeed:
    return {seed: number for group in side.values() for seed, number in group.items()}


def _line(old: BySeed, new: BySeed, verdict: str, change: Comparison | None = None) -> Line:
    some = next(iter((new or old).values()))
    return Line(some.row, some.column, dict(sorted(old.items())), dict(sorted(new.items())), verdict, change)


def _compared(old: BySeed, new: BySeed) -> Line:
    """Compare two versions of a value under one protocol."""
    if {seed: n.value for seed, n in old.items()} == {seed: n.value for seed, n in new.items()}:
        return _line(old, new, "")
    column = next(iter(new.values())).column
    change = difference(column, old, new)
    return _line(old, new, verdict(change, column.better), change)


def certainly_worse(lines: Sequence[Line]) -> list[Line]:
    """Lines that are worse beyond noise although so many were compared, by Holm's correction.

    A value that is not a number is always among them, one with a single seed never.
    """
    tested = [line for line in lines if line.change and line.change.over_seeds and line.change.p is not None]
    corrected = statistics.holm([line.change.p for line in tested if line.change and line.change.p is not None])
    certain = [line for line, p in zip(tested, corrected, strict=True) if p < FALSE_ALARMS]
    broken = [line for line in lines if line.change and not math.isfinite(line.change.value)]
    return [line for line in lines if line.verdict == WORSE and (line in certain or line in broken)]
