"""Arrange measured values into tables: rows, columns, scores over seeds, changes against the twin, best scores."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

from benchmarks.tables import headings, model_names, published
from benchmarks.tables.differences import Shortfall, best_row, difference, shortfall
from benchmarks.tables.model_names import twins
from benchmarks.tables.published import Published
from benchmarks.tables.scored_records import ScoredRecord
from regvit_lightning import statistics
from regvit_lightning.records import Record
from regvit_lightning.statistics import Comparison, Scores

Interval = tuple[float, float]


@dataclass(frozen=True)
class TableRow:
    """Row of a table: a model or, in some tables, a part of it: a token, a block, a number of registers.

    Attributes:
        model: model id, or name of a predictor without a backbone.
        part: token, block or number of registers, empty if rows are whole models.
        index: index of the part among the parts of the model.
        floor: whether the row is chance, a constant, or untrained weights.
    """

    model: str
    part: str = ""
    index: int = field(default=0, compare=False)
    floor: bool = False

    def order(self) -> tuple[bool, bool, str, bool, str, int, str, int, str, str]:
        """Sort key: floors first, those without a backbone before untrained models; then `model_names.order`."""
        untrained = model_names.is_untrained(self.model)
        return not self.floor, untrained, *model_names.order(self.model), self.index, self.model, self.part


@dataclass(frozen=True)
class Column:
    """One metric of one protocol; different protocols never share a column.

    Attributes:
        name: heading; empty for `<task> <metric>`.
        better: +1 if higher is better, -1 if lower is, 0 if neither.
        unit: unit of the metric.
        decimals: number of digits shown after the decimal point.
        rank: sort key of columns.
        facts: settings of the protocol, see `headings.protocol_facts`.
        compared: whether the change against the twin is shown.
        floored: whether a trained model should beat the floors; False for norms and outliers, of which an untrained
            model has the best: it has learnt nothing.
    """

    task: str
    protocol: str
    metric: str
    name: str = ""
    better: int = field(default=1, compare=False)
    unit: str = field(default="%", compare=False)
    decimals: int = field(default=1, compare=False)
    rank: tuple[Any, ...] = field(default=(), compare=False)
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    compared: bool = field(default=True, compare=False)
    floored: bool = field(default=True, compare=False)


LEAST_TRIALS = 50  # images or tokens below which a table shows a dash in place of a value


@dataclass(frozen=True)
class Measured:
    """One value of one record, with its row and its column.

    Attributes:
        floor: whether the value is of a predictor without a backbone, not of the record's model.
        trials: number of images or tokens behind the value; None for the test images of the record.
        share: whether the value is the percentage of these that are right: its interval is then exact.
        metric: the record's metric that the value is, where it is not that of the column.
        apart: whether the value was not measured with the record beside which it stands, whose marks it lacks.
    """

    row: TableRow
    column: Column
    value: float
    cell: ScoredRecord
    floor: bool = False
    trials: int | None = None
    share: bool = False
    apart: bool = False
    metric: str = ""

    @property
    def enough(self) -> bool:
        """Whether the value rests on enough images or tokens to be shown."""
        return self.trials is None or self.trials >= LEAST_TRIALS

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the metric over test images, if it is known.

        That of a share is exact. Patches of one image are not independent: more of them than there are images count
        as one for each image, which is as wide as the interval can be.
        """
        if self.share and self.trials:
            trials = min(self.trials, self.cell.record.images)
            low, high = statistics.binomial_interval(round(self.value / 100 * trials), trials)
            return 100 * low, 100 * high
        ends = None if self.floor else self.cell.record.intervals.get(self.metric or self.column.metric)
        return None if ends is None else (ends[0], ends[1])

    @property
    def scores(self) -> Scores | None:
        """Per-image scores, if they are stored with the record."""
        return None if self.floor else self.cell.scores.get(self.metric or self.column.metric)


BySeed = Mapping[int, Measured]


@dataclass(frozen=True)
class Score:
    """One cell of a table.

    Attributes:
        values: one for each seed, by ascending seed.
        cells: the records that the values come from, in the same order.
        interval: 95 % interval of a single seed's value over test images, if the record has one.
        change: difference to the twin without registers.
        best: whether it beats all others of its column by more than the noise of images and seeds.
        marks: its marks, keys of `MARKS`.
        published: published value of this model under this protocol.
        shortfall: the best floor that it is not better than by more than noise, None if it is better than all.
    """

    values: tuple[float, ...]
    cells: tuple[ScoredRecord, ...] = ()
    interval: Interval | None = None
    change: Comparison | None = None
    best: bool = False
    marks: str = ""
    published: Published | None = None
    shortfall: Shortfall | None = None

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds, None for a single seed."""
        return stdev(self.values) if len(self.values) > 1 else None


MARKS = {
    "d": "measured with uncommitted changes of the code",
    "s": "stale: a newer record of this model and seed has other weights",
    "v": "measured under another version of the protocol than the present one",
    "f": "does not beat every floor of its column by more than noise (as a value, where no interval is known); shares "
    "of outliers and norms have no floor",
    "u": "interval of the change as if both sides had other images: scores of single images are not kept",
}


WITHOUT_REGISTERS = "the same model without registers"


@dataclass(frozen=True)
class Table:
    """Scores by row and column, in display order.

    Attributes:
        name: name of the table's files.
        title: title of the table.
        labels: headings of the one or two columns that identify a row.
        seeds: number of seeds by row.
        footnotes: one line for each task and protocol.
        by_task: whether its tasks are shown as tables of their own.
        against: what the change in brackets is against, in words.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    rows: list[TableRow]
    columns: list[Column]
    scores: dict[tuple[TableRow, Column], Score]
    seeds: dict[TableRow, int]
    footnotes: list[str]
    by_task: bool = False
    against: str = WITHOUT_REGISTERS

    def titles(self) -> list[str]:
        """Heading of each column; where a metric has several protocols, with the settings that differ."""
        plain = [column.name or f"{column.task} {column.metric}" for column in self.columns]
        return headings.distinct(plain, [(column.protocol, column.facts) for column in self.columns])

    def has_published(self, column: Column) -> bool:
        """True if any row of the column has a published value."""
        return any(score.published for (_, other), score in self.scores.items() if other == column)


def same_part_of_twin(row: TableRow) -> list[TableRow]:
    """Candidate rows of the twin without registers, for the same part."""
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
    """Arrange values into a table, in an order independent of theirs.

    Args:
        marks: marks of each record, by `key`.
        entries: published numbers.
        name, title, labels: see `Table`.
        twin_rows: gives the candidate rows of the same model without registers.
    """
    groups: dict[tuple[TableRow, Column], dict[int, Measured]] = {}
    for number in measured:
        if number.enough:
            groups.setdefault((number.row, number.column), {})[number.cell.record.seed] = number
    groups = {key: dict(sorted(group.items())) for key, group in groups.items()}
    rows = sorted({number.row for number in measured}, key=TableRow.order)
    columns = sorted({number.column for number in measured}, key=lambda c: (c.rank, c.protocol, c.metric))
    best = {best_row(column, {r: groups[r, column] for r in rows if (r, column) in groups}) for column in columns}
    scores = {}
    for (row, column), group in groups.items():
        numbers = list(group.values())
        others = (groups.get((other, column)) for other in twin_rows(row) if other != row)
        twin = next((other for other in others if other), None)
        missed = shortfall(row, column, groups, any_part=labels[1:] == ("registers",))
        scores[row, column] = Score(
            values=tuple(number.value for number in numbers),
            cells=tuple(number.cell for number in numbers),
            interval=numbers[0].interval if len(numbers) == 1 else None,
            change=difference(column, twin, group) if twin and column.compared else None,
            best=(row, column) in best,
            marks=_marks_of(numbers, marks) + "f" * bool(missed),
            published=published.beside(entries, row.model, row.part, column.metric, numbers[0].cell.record),
            shortfall=missed,
        )
    seeds = {row: len({number.cell.record.seed for number in measured if number.row == row}) for row in rows}
    records = [number.cell.record for number in measured]
    against = _against({row for (row, _), score in scores.items() if score.change})
    return Table(name, title, labels, rows, columns, scores, seeds, footnotes(records), against=against)


def _against(rows: Collection[TableRow]) -> str:
    """What the changes of these rows are against, in words."""
    added = sorted({model_names.added(row.model) for row in rows} - {""})
    return "; ".join([WITHOUT_REGISTERS, *(f"of {one}, the same weights without it" for one in added)])


def _marks_of(numbers: Sequence[Measured], marks: Mapping[str, str]) -> str:
    records = (number.cell.record for number in numbers if not number.apart)
    return "".join(sorted({mark for record in records for mark in marks.get(key(record), "")}))


# ---------------------------------------------------------------------------------------------------- from records


def register_count(record: Record) -> int:
    """Number of registers of the record's model, 0 if its backbone does not specify them."""
    count = record.backbone.get("num_registers", 0)
    return count if isinstance(count, int) else 0


def row_of(record: Record, part: str = "", index: int = 0) -> TableRow:
    """Row of a record's model."""
    return TableRow(record.model, part, index, model_names.is_untrained(record.model))


def column_of(record: Record, metric: str, name: str = "", rank: tuple[Any, ...] = (), **facts: Any) -> Column:
    """Column of one metric of a record; direction, unit and decimals from `facts`, else from the record."""
    report = "norms_of_last_block" in record.protocol or "artifact_stages" in record.protocol
    unfloored = (report and metric in record.columns) or metric.startswith("outlier_")
    known = {"floored": not unfloored} | record.columns.get(metric, {}) | facts
    protocol = headings.protocol_facts(record)
    return Column(record.task, protocol_key(record), metric, name, rank=rank, facts=protocol, **known)


def numbers_of(cell: ScoredRecord, column: Column) -> list[Measured]:
    """Values of a record in a column: that of its model, and those of the floors."""
    record, metric = cell.record, column.metric
    numbers = [Measured(row_of(record), column, record.metrics[metric], cell)] if metric in record.metrics else []
    for name, metrics in record.floors.items():
        if metric in metrics:
            numbers.append(Measured(TableRow(name, floor=True), column, metrics[metric], cell, floor=True))
    return numbers


def overview(cells: Sequence[ScoredRecord], entries: Sequence[Published] = ()) -> Table:
    """Build the overview table of models × metrics, floors first.

    Args:
        cells: all records of one data set.
        entries: published numbers.
    """
    return replace(build(overview_numbers(cells), marks(cells), entries), by_task=True)


def overview_numbers(cells: Sequence[ScoredRecord]) -> list[Measured]:
    """Values of every metric that records mark for tables."""
    numbers = []
    for cell in cells:
        for index, metric in enumerate(cell.record.columns):
            numbers += numbers_of(cell, column_of(cell.record, metric, rank=(cell.record.task, index)))
    return numbers


def protocol_key(record: Record) -> str:
    """Hash of the task settings and labels, in six hexadecimal digits."""
    text = json.dumps(headings.protocol(record), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def footnote(record: Record) -> str:
    """Footnote with the number of test images and the protocol details that matter for comparisons."""
    facts = [f"{key.replace('_', ' ')}: {record.protocol[key]}" for key in record.footnote]
    return f"{record.task}: {record.images:,} {headings.counted(record)}; {'; '.join(facts)}"


def footnotes(records: Sequence[Record]) -> list[str]:
    """Footnotes of records, sorted; where those of one task differ, each names the models that it is of."""
    models: dict[tuple[str, str], set[str]] = {}
    for record in records:
        models.setdefault((record.task, footnote(record)), set()).add(record.model)
    tasks = [task for task, _ in models]
    notes = []
    for (task, note), names in models.items():
        several = f"{task} ({', '.join(sorted(names))})" if tasks.count(task) > 1 else task
        notes.append(f"{several}{note.removeprefix(task)}")
    return sorted(notes)


def key(record: Record) -> str:
    """Unique key of a record among those of its data."""
    return f"{record.model}/{record.task}.seed{record.seed}"


def marks(cells: Sequence[ScoredRecord]) -> dict[str, str]:
    """Marks (keys of `MARKS`) for doubts about each record under the current protocols, by `key`."""
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
