"""Whether results agree with kept ones, in lines for a terminal: as kept, or what differs and by how much."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean

from benchmarks.compare.lines import GONE, NEW, PROTOCOL, VERDICTS, Line, compare_records
from benchmarks.compare.reasons import changed_facts
from benchmarks.tables.by_task import metric_name
from benchmarks.tables.columns import BySeed, key
from benchmarks.tables.escapes import in_line
from benchmarks.tables.scored_records import ScoredRecords
from benchmarks.tables.shown import change_parts
from benchmarks.tables.verdicts import UNKNOWN

SHOWN = 12  # values of one verdict that are listed
MEANINGS = {
    UNKNOWN: "differ, without an interval",
    PROTOCOL: "kept under another protocol",
    NEW: "not among the kept results",
    GONE: "among the kept results alone",
}
LUCK = "an interval of one seed does not cover the luck of a training, and other hardware rounds differently"


def agreement(kept: ScoredRecords, here: ScoredRecords) -> list[str]:
    """Compare the records here with the kept ones of the same models, tasks and seeds.

    Args:
        kept: kept results, of these and any other models.
        here: results to compare; at least one record.

    Returns:
        The number of values that are as kept, then each kind of difference with its values and intervals, then
        settings and versions that changed.
    """
    wanted = {key(record) for record in here.records}
    same = replace(kept, cells=[cell for cell in kept.cells if key(cell.record) in wanted])
    if not same.cells:
        return [f"nothing in {kept.name} is of these models, tasks and seeds"]
    lines = compare_records(same, here)
    equal = sum(not line.verdict for line in lines)
    if equal == len(lines):
        return [f"as kept: all {equal} values are those of {kept.name}"]
    return [f"{equal} of {len(lines)} values are those of {kept.name}", *_differences(lines), *_reasons(same, here)]


def _differences(lines: Sequence[Line]) -> Iterator[str]:
    for verdict in VERDICTS:
        of_kind = [line for line in lines if line.verdict == verdict]
        if of_kind and verdict in (NEW, GONE):
            yield f"{len(of_kind)} {MEANINGS[verdict]}"
        elif of_kind:
            yield f"{len(of_kind)} {MEANINGS.get(verdict, verdict)}:"
            yield from (f"  {_shown(line)}" for line in of_kind[:SHOWN])
            yield from [f"  and {len(of_kind) - SHOWN} more"] if len(of_kind) > SHOWN else []
    compared = [line.change for line in lines if line.change and line.change.interval]
    if any(not change.over_seeds for change in compared):
        yield LUCK


def _shown(line: Line) -> str:
    """One value: `deit3-vitn_reg4 imagenet_knn top1 58.4 → 59.1, +0.7 [-1.2, 2.6]`."""
    digits, name = line.column.decimals, f"{line.row.model} {line.column.task} {metric_name(line.column.metric)}"
    sides = [_mean(side, digits) for side in (line.old, line.new)]
    change = " ".join(filter(None, change_parts(line.change, digits))) if line.change else line.reason
    return in_line(f"{name} {' → '.join(sides)}{f', {change}' if change else ''}")


def _mean(side: BySeed, digits: int) -> str:
    return f"{fmean(number.value for number in side.values()):.{digits}f}" if side else "–"


def _reasons(kept: ScoredRecords, here: ScoredRecords) -> list[str]:
    return [f"changed, {in_line(fact)}" for fact in changed_facts(kept, here)]
