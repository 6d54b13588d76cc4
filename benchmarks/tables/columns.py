"""Arranging measured numbers into a table: rows, columns, scores over seeds, changes against the twin, the best."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from benchmarks.tables.published import Published
from benchmarks.tables.scored_records import ScoredRecord
from regvit_lightning import records, statistics
from regvit_lightning.models.names import without_tag
from regvit_lightning.records import Record
from regvit_lightning.statistics import Scores

Interval = tuple[float, float]


@dataclass(frozen=True)
class TableRow:
    """A row of a table: a model, and where a table has them, what of it: a token, a block, a number of registers.

    Attributes:
        model: id, or name of a predictor that has no backbone.
        part: of the model, empty where rows are whole models.
        place: of the part among those of the model.
        floor: of chance, of a constant, or of untrained weights.
    """

    model: str
    part: str = ""
    place: int = field(default=0, compare=False)
    floor: bool = False

    def order(self) -> tuple[bool, bool, str, str, int, int, str, str]:
        """Floors first, those without a backbone before untrained models; then by name and number of registers.

        Runs with a tag follow the run without one.
        """
        registers = re.search(r"_reg(\d+)", self.model)
        untrained, bare = self.model.startswith("random-"), re.sub(r"_reg\d+", "", self.model)
        count = int(registers[1]) if registers else 0
        return not self.floor, untrained, without_tag(bare), bare, count, self.place, self.model, self.part


@dataclass(frozen=True)
class Column:
    """One metric of one protocol; different protocols never share a column.

    Attributes:
        name: heading, `<task> <metric>` where it is empty.
        better: +1 where higher is better, -1 where lower is, 0 where neither.
        unit: of the metric.
        decimals: shown.
        place: columns are sorted by it.
    """

    task: str
    protocol: str
    metric: str
    name: str = ""
    better: int = field(default=1, compare=False)
    unit: str = field(default="%", compare=False)
    decimals: int = field(default=1, compare=False)
    place: tuple[Any, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Measured:
    """One number of one record, and where it stands.

    Attributes:
        floor: it is of a predictor without a backbone, not of the record's model.
    """

    row: TableRow
    column: Column
    value: float
    cell: ScoredRecord
    floor: bool = False

    @property
    def interval(self) -> Interval | None:
        """95 %, of the metric itself."""
        kept = None if self.floor else self.cell.record.intervals.get(self.column.metric)
        return None if kept is None else (kept[0], kept[1])

    @property
    def scores(self) -> Scores | None:
        """Of single images."""
        return None if self.floor else self.cell.scores.get(self.column.metric)


BySeed = Mapping[int, Measured]


@dataclass(frozen=True)
class Difference:
    """Of two means over seeds.

    Attributes:
        value: second minus first.
        interval: 95 % of it, None where neither scores of images nor intervals are kept.
        paired: over the same images; else as of independent ones.
    """

    value: float
    interval: Interval | None
    paired: bool

    @property
    def beyond_noise(self) -> bool:
        """Whether the difference exceeds its interval."""
        return statistics.excludes_zero(self.interval)


@dataclass(frozen=True)
class OverSeeds:
    """Values of one number, by seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over seeds."""
        return fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds."""
        return stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Score(OverSeeds):
    """A number of a table.

    Attributes:
        change: against the twin without registers.
        best: beats all others of its column by more than the interval of the difference.
        marks: keys of `MARKS`.
        published: what others report of this model under this protocol.
    """

    change: Difference | None = None
    best: bool = False
    marks: str = ""
    published: Published | None = None


MARKS = {
    "d": "measured with uncommitted changes of the code",
    "s": "stale: a newer record of this model and seed has other weights",
    "v": "measured under another version of the protocol than the present one",
    "u": "interval as of independent images and without the spread over seeds: scores of single images are not kept",
}


@dataclass(frozen=True)
class Table:
    """Scores by row and column, in the order they are shown.

    Attributes:
        name: of its files.
        title: what it is.
        labels: headings of a row's own columns, one or two.
        seeds: by row.
        footnotes: a line for each task and protocol.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    rows: list[TableRow]
    columns: list[Column]
    scores: dict[tuple[TableRow, Column], Score]
    seeds: dict[TableRow, int]
    footnotes: list[str]

    def titles(self) -> list[str]:
        """Heading of each column, with a mark of the protocol where a metric has several."""
        plain = [column.name or f"{column.task} {column.metric}" for column in self.columns]
        several = {name for name in plain if plain.count(name) > 1}
        named = zip(plain, self.columns, strict=True)
        return [f"{name} @{column.protocol}" if name in several else name for name, column in named]

    def has_published(self, column: Column) -> bool:
        """Whether any row of the column has a published number."""
        return any(score.published for (_, own), score in self.scores.items() if own == column)


def twins(model: str) -> list[str]:
    """Ids that the same model without registers may have: ours say `_reg0`, timm's say nothing."""
    return [re.sub(r"_reg\d+", "_reg0", model), re.sub(r"_reg\d+", "", model)]


def same_part_of_twin(row: TableRow) -> list[TableRow]:
    """The same part of the models that may be the same without registers."""
    return [TableRow(name, row.part, row.place, row.floor) for name in twins(row.model)]


Lookup = Callable[[TableRow, Column, Record], Published | None]


def build(
    measured: Sequence[Measured],
    marks: Mapping[str, str],
    published: Lookup,
    name: str = "overview",
    title: str = "",
    labels: tuple[str, ...] = ("model",),
    twin_rows: Callable[[TableRow], list[TableRow]] = same_part_of_twin,
) -> Table:
    """Arrange numbers into a table, in an order that does not depend on theirs.

    Args:
        marks: of each record, by `key`.
        published: what others report.
        name, title, labels: of the table.
        twin_rows: those that may be a row without registers.
    """
    groups: dict[tuple[TableRow, Column], dict[int, Measured]] = {}
    for number in measured:
        groups.setdefault((number.row, number.column), {})[number.cell.record.seed] = number
    groups = {key: dict(sorted(group.items())) for key, group in groups.items()}
    rows = sorted({row for row, _ in groups}, key=TableRow.order)
    columns = sorted({column for _, column in groups}, key=lambda c: (c.place, c.protocol, c.metric))
    best = {best_row(column, {r: groups[r, column] for r in rows if (r, column) in groups}) for column in columns}
    found = {}
    for (row, column), group in groups.items():
        others = (groups.get((other, column)) for other in twin_rows(row) if other != row)
        twin = next((other for other in others if other), None)
        found[row, column] = Score(
            tuple(number.value for number in group.values()),
            difference(column, twin, group) if twin else None,
            (row, column) in best,
            "".join(sorted({mark for number in group.values() for mark in marks.get(key(number.cell.record), "")})),
            published(row, column, next(iter(group.values())).cell.record),
        )
    seeds = {row: len({seed for (own, _), group in groups.items() if own == row for seed in group}) for row in rows}
    notes = sorted({footnote(number.cell.record) for number in measured})
    return Table(name, title, labels, rows, columns, found, seeds, notes)


def difference(column: Column, old: BySeed, new: BySeed) -> Difference:
    """Of the means over seeds, paired over images where both sides have scores of the same seeds and images."""
    value = fmean(n.value for n in new.values()) - fmean(o.value for o in old.values())
    pairs = _pairs(old, new)
    if pairs:
        return Difference(value, statistics.paired_interval(column.metric, pairs), True)
    sides = [_interval(side) for side in (old, new)]
    if sides[0] is None or sides[1] is None:
        return Difference(value, None, False)
    return Difference(value, statistics.unpaired_interval(*sides[0], *sides[1]), False)


def _pairs(old: BySeed, new: BySeed) -> list[tuple[Scores, Scores]]:
    """Scores of both sides by seed; nothing unless all are there."""
    if set(old) != set(new):
        return []
    pairs = []
    for seed in sorted(new):
        first, second = old[seed].scores, new[seed].scores
        if first is None or second is None or first.shape != second.shape:
            return []
        pairs.append((first, second))
    return pairs


def _interval(side: BySeed) -> tuple[float, Interval] | None:
    """Mean over seeds, and its interval over images, which are the same for all seeds."""
    kept = [number.interval for number in side.values()]
    known = [interval for interval in kept if interval is not None]
    if len(known) < len(kept):
        return None
    low, high = (fmean(ends) for ends in zip(*known, strict=True))
    return fmean(number.value for number in side.values()), (low, high)


def best_row(column: Column, groups: Mapping[TableRow, BySeed]) -> tuple[TableRow, Column] | None:
    """The row that beats every other model by more than the interval of the difference; floors are none."""
    models = {row: group for row, group in groups.items() if not row.floor}
    if len(models) < 2 or not column.better:
        return None
    means = {row: fmean(number.value for number in group.values()) for row, group in models.items()}
    first = max(means, key=lambda row: column.better * means[row])
    rest = (difference(column, models[row], models[first]) for row in models if row != first)
    return (first, column) if all(d.beyond_noise and d.value * column.better > 0 for d in rest) else None


# ---------------------------------------------------------------------------------------------------- from records


def row_of(record: Record, part: str = "", place: int = 0) -> TableRow:
    """The row of a record's model."""
    return TableRow(record.model, part, place, record.model.startswith("random-"))


def column_of(record: Record, metric: str, name: str = "", place: tuple[Any, ...] = (), **facts: Any) -> Column:
    """The column of one metric of a record, with its facts from the record where `facts` does not say them."""
    known = record.columns.get(metric, {}) | facts
    return Column(record.task, protocol_key(record), metric, name, place=place, **known)


def numbers_of(cell: ScoredRecord, column: Column) -> list[Measured]:
    """What a record says in a column: its model's metric and the floors'."""
    record, metric = cell.record, column.metric
    found = [Measured(row_of(record), column, record.metrics[metric], cell)] if metric in record.metrics else []
    floors = {name: kept[metric] for name, kept in record.floors.items() if metric in kept}
    return found + [Measured(TableRow(name, floor=True), column, value, cell, True) for name, value in floors.items()]


def overview(cells: Sequence[ScoredRecord]) -> list[Measured]:
    """Every metric that records want in tables."""
    found = []
    for cell in cells:
        for number, metric in enumerate(cell.record.columns):
            found += numbers_of(cell, column_of(cell.record, metric, place=(cell.record.task, number)))
    return found


def protocol_key(record: Record) -> str:
    """Six digits that tell one set of task settings, and of labels, from another."""
    kept = {key: value for key, value in record.settings.items() if key not in records.FREE_TO_CHANGE}
    kept["layout"] = record.layout
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:6]


def footnote(record: Record) -> str:
    """How many test images, and the facts that people argue about."""
    facts = [f"{key.replace('_', ' ')}: {record.protocol[key]}" for key in record.footnote]
    return f"{record.task}: {record.images:,} test images; {'; '.join(facts)}"


def key(record: Record) -> str:
    """Tells a record from all others of its data."""
    return f"{record.model}/{record.task}.seed{record.seed}"


def marks(cells: Sequence[ScoredRecord], versions: Mapping[str, int]) -> dict[str, str]:
    """What is doubtful about each record, by `key`, in keys of `MARKS`.

    Args:
        versions: of the protocols as they are now, by task; a task that is not there is not judged.
    """
    newest: dict[tuple[str, int], Record] = {}
    for cell in sorted(cells, key=lambda cell: cell.record.provenance.get("date", "")):
        newest[cell.record.model, cell.record.seed] = cell.record
    found = {}
    for cell in cells:
        record = cell.record
        now = versions.get(record.task, record.settings.get("version"))
        doubts = {
            "d": bool(record.provenance.get("dirty")),
            "s": record.weights != newest[record.model, record.seed].weights,
            "v": record.settings.get("version", now) != now,
        }
        found[key(record)] = "".join(mark for mark, applies in doubts.items() if applies)
    return found
