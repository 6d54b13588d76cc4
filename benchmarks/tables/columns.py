"""Arranging measured numbers into a table: rows, columns, scores over seeds, changes against the twin, the best."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from benchmarks.tables import model_names, published
from benchmarks.tables.model_names import twins
from benchmarks.tables.published import Published
from benchmarks.tables.scored_records import ScoredRecord
from regvit_lightning import records, statistics
from regvit_lightning.models.names import without_tag_first
from regvit_lightning.records import Record
from regvit_lightning.statistics import Scores

Interval = tuple[float, float]


@dataclass(frozen=True)
class TableRow:
    """A row of a table: a model, and where a table has them, what of it: a token, a block, a number of registers.

    Attributes:
        model: id, or name of a predictor that has no backbone.
        part: token, block or number of registers, empty where rows are whole models.
        index: of the part among the parts of the model.
        floor: whether the row is chance, a constant, or untrained weights.
    """

    model: str
    part: str = ""
    index: int = field(default=0, compare=False)
    floor: bool = False

    def order(self) -> tuple[bool, bool, str, bool, str, int, int, str, str]:
        """Sort key: floors first, those without a backbone before untrained models; then name, number of registers.

        Runs with a tag follow the run without one.
        """
        family, count = model_names.family(self.model), model_names.registers(self.model)
        untrained = model_names.is_untrained(self.model)
        return not self.floor, untrained, *without_tag_first(family), count, self.index, self.model, self.part


@dataclass(frozen=True)
class Column:
    """One metric of one protocol; different protocols never share a column.

    Attributes:
        name: heading, `<task> <metric>` where it is empty.
        better: +1 where higher is better, -1 where lower is, 0 where neither.
        unit: of the metric.
        decimals: number of digits that are shown after the point.
        rank: columns are sorted by it.
    """

    task: str
    protocol: str
    metric: str
    name: str = ""
    better: int = field(default=1, compare=False)
    unit: str = field(default="%", compare=False)
    decimals: int = field(default=1, compare=False)
    rank: tuple[Any, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Measured:
    """One number of one record, with its row and its column.

    Attributes:
        floor: whether the number is of a predictor without a backbone, not of the record's model.
    """

    row: TableRow
    column: Column
    value: float
    cell: ScoredRecord
    floor: bool = False

    @property
    def interval(self) -> Interval | None:
        """95 % bootstrap interval of the metric over test images, where the record has one."""
        ends = None if self.floor else self.cell.record.intervals.get(self.column.metric)
        return None if ends is None else (ends[0], ends[1])

    @property
    def scores(self) -> Scores | None:
        """Scores of single images, where they lie beside the record."""
        return None if self.floor else self.cell.scores.get(self.column.metric)


BySeed = Mapping[int, Measured]


@dataclass(frozen=True)
class Difference:
    """Difference of two means over seeds.

    Attributes:
        value: second minus first.
        interval: 95 % interval of it, None where neither scores of images nor intervals are kept.
        paired: whether the interval is over the same images; else it is as of independent ones.
    """

    value: float
    interval: Interval | None
    paired: bool

    @property
    def beyond_noise(self) -> bool:
        """Whether the difference exceeds its interval."""
        return statistics.excludes_zero(self.interval)


@dataclass(frozen=True)
class Score:
    """A number of a table.

    Attributes:
        values: one for each seed, seeds rising.
        cells: the records that the values come from, in the same order.
        interval: 95 % interval of a single seed's value over test images, where the record has one.
        change: against the twin without registers.
        best: beats all others of its column by more than the interval of the difference.
        marks: keys of `MARKS`.
        published: what others report of this model under this protocol.
    """

    values: tuple[float, ...]
    cells: tuple[ScoredRecord, ...] = ()
    interval: Interval | None = None
    change: Difference | None = None
    best: bool = False
    marks: str = ""
    published: Published | None = None

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds, None for a single one."""
        return stdev(self.values) if len(self.values) > 1 else None


MARKS = {
    "d": "measured with uncommitted changes of the code",
    "s": "stale: a newer record of this model and seed has other weights",
    "v": "measured under another version of the protocol than the present one",
    "u": "interval as of independent images and without the spread over seeds: scores of single images are not kept",
}


@dataclass(frozen=True)
class Table:
    """Scores by row and column, in the order in which they are shown.

    Attributes:
        name: of the table's files.
        title: what the table shows.
        labels: headings of the columns that name a row, one or two.
        seeds: number of seeds by row.
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
        return any(score.published for (_, other), score in self.scores.items() if other == column)


def same_part_of_twin(row: TableRow) -> list[TableRow]:
    """The same part of the models that may be the same without registers."""
    return [TableRow(name, row.part, row.index, row.floor) for name in twins(row.model)]


def build(
    measured: Sequence[Measured],
    marks: Mapping[str, str],
    entries: Sequence[Published] = (),
    name: str = "overview",
    title: str = "",
    labels: tuple[str, ...] = ("model",),
    twin_rows: Callable[[TableRow], list[TableRow]] = same_part_of_twin,
) -> Table:
    """Arrange numbers into a table, in an order that does not depend on theirs.

    Args:
        marks: of each record, by `key`.
        entries: published numbers.
        name, title, labels: of the table.
        twin_rows: gives the rows that may be the same model without registers.
    """
    groups: dict[tuple[TableRow, Column], dict[int, Measured]] = {}
    for number in measured:
        groups.setdefault((number.row, number.column), {})[number.cell.record.seed] = number
    groups = {key: dict(sorted(group.items())) for key, group in groups.items()}
    rows = sorted({row for row, _ in groups}, key=TableRow.order)
    columns = sorted({column for _, column in groups}, key=lambda c: (c.rank, c.protocol, c.metric))
    best = {best_row(column, {r: groups[r, column] for r in rows if (r, column) in groups}) for column in columns}
    scores = {}
    for (row, column), group in groups.items():
        numbers = list(group.values())
        others = (groups.get((other, column)) for other in twin_rows(row) if other != row)
        twin = next((other for other in others if other), None)
        scores[row, column] = Score(
            values=tuple(number.value for number in numbers),
            cells=tuple(number.cell for number in numbers),
            interval=numbers[0].interval if len(numbers) == 1 else None,
            change=difference(column, twin, group) if twin else None,
            best=(row, column) in best,
            marks="".join(sorted({mark for number in numbers for mark in marks.get(key(number.cell.record), "")})),
            published=published.beside(entries, row.model, row.part, column.metric, numbers[0].cell.record),
        )
    seeds = {row: len({seed for (other, _), group in groups.items() if other == row for seed in group}) for row in rows}
    notes = sorted({footnote(number.cell.record) for number in measured})
    return Table(name, title, labels, rows, columns, scores, seeds, notes)


def difference(column: Column, old: BySeed, new: BySeed) -> Difference:
    """Difference of the means over seeds, new minus old.

    Its interval is paired over images where both sides have scores of the same seeds and images.
    """
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
    known = [number.interval for number in side.values() if number.interval is not None]
    if len(known) < len(side):
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


def register_count(record: Record) -> int:
    """Number of registers of the record's model, 0 where its backbone says nothing of them."""
    count = record.backbone.get("num_registers", 0)
    return count if isinstance(count, int) else 0


def row_of(record: Record, part: str = "", index: int = 0) -> TableRow:
    """The row of a record's model."""
    return TableRow(record.model, part, index, model_names.is_untrained(record.model))


def column_of(record: Record, metric: str, name: str = "", rank: tuple[Any, ...] = (), **facts: Any) -> Column:
    """The column of one metric of a record; direction, unit and decimals from `facts`, else from the record."""
    known = record.columns.get(metric, {}) | facts
    return Column(record.task, protocol_key(record), metric, name, rank=rank, **known)


def numbers_of(cell: ScoredRecord, column: Column) -> list[Measured]:
    """A record's numbers in a column: that of its model, and those of the floors."""
    record, metric = cell.record, column.metric
    numbers = [Measured(row_of(record), column, record.metrics[metric], cell)] if metric in record.metrics else []
    for name, metrics in record.floors.items():
        if metric in metrics:
            numbers.append(Measured(TableRow(name, floor=True), column, metrics[metric], cell, floor=True))
    return numbers


def overview(cells: Sequence[ScoredRecord], entries: Sequence[Published] = ()) -> Table:
    """Models × metrics, the floors first.

    Args:
        cells: all of one data set.
        entries: published numbers.
    """
    return build(overview_numbers(cells), marks(cells), entries)


def overview_numbers(cells: Sequence[ScoredRecord]) -> list[Measured]:
    """Every metric that records want in tables."""
    numbers = []
    for cell in cells:
        for index, metric in enumerate(cell.record.columns):
            numbers += numbers_of(cell, column_of(cell.record, metric, rank=(cell.record.task, index)))
    return numbers


def protocol_key(record: Record) -> str:
    """Six digits that tell one set of task settings, and of labels, from another."""
    facts = {key: value for key, value in record.settings.items() if key not in records.FREE_TO_CHANGE}
    facts["layout"] = record.layout
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:6]


def footnote(record: Record) -> str:
    """How many test images, and the facts that people argue about."""
    facts = [f"{key.replace('_', ' ')}: {record.protocol[key]}" for key in record.footnote]
    return f"{record.task}: {record.images:,} test images; {'; '.join(facts)}"


def key(record: Record) -> str:
    """Tells a record from all others of its data."""
    return f"{record.model}/{record.task}.seed{record.seed}"


def marks(cells: Sequence[ScoredRecord]) -> dict[str, str]:
    """What is doubtful about each record under the present protocols, by `key`, in keys of `MARKS`."""
    versions = published.versions(sorted({cell.record.task for cell in cells}))
    newest: dict[tuple[str, int], Record] = {}
    for cell in sorted(cells, key=lambda cell: cell.record.provenance.get("date", "")):
        newest[cell.record.model, cell.record.seed] = cell.record
    marks_by_record = {}
    for cell in cells:
        record = cell.record
        now = versions.get(record.task, record.settings.get("version"))
        doubts = {
            "d": bool(record.provenance.get("dirty")),
            "s": record.weights != newest[record.model, record.seed].weights,
            "v": record.settings.get("version", now) != now,
        }
        marks_by_record[key(record)] = "".join(mark for mark, applies in doubts.items() if applies)
    return marks_by_record
