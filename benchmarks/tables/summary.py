"""Summary of all tables: do registers help, for each family of models and each task, corrected for their number."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.tables.by_task import BEST_ON_TEST, groups, metric_heading
from benchmarks.tables.columns import Column, Score, Table, TableRow, register_count, same_part_of_twin
from benchmarks.tables.model_names import family
from benchmarks.tables.shown import marks_of
from benchmarks.tables.verdicts import sign
from regvit_lightning import statistics
from regvit_lightning.statistics import Comparison

HELP, HURT, UNCLEAR = "help", "hurt", "unclear"
ERROR_RATE = 0.05  # chance of any wrong "help" or "hurt" in the whole table
COMPARED = 4  # registers, the number that the paper uses; where a family has no such model, the nearest number


@dataclass(frozen=True)
class Answer:
    """One row of the summary: the main metric of a task, for a family of models with and without registers.

    Attributes:
        task: task, with the settings that differ if it has several protocols.
        column: main metric of the task, its first that is not chosen on the test images.
        family: id of the models without the number of registers.
        registers: number of registers of the model that is compared with the one without.
        without, with_registers: scores of the two models.
        change: difference of the two, with minus without.
        p: p-value of no difference, corrected for the number of tested rows; None with a single seed or no interval.
        verdict: `help`, `hurt` or `unclear`.
        sign: sign of the difference by itself, see `verdicts.SIGNS`.
        below_floor: whether neither model is better than every floor by more than noise.
    """

    task: str
    column: Column
    family: str
    registers: int
    without: Score
    with_registers: Score
    change: Comparison
    p: float | None = None
    verdict: str = UNCLEAR
    sign: str = ""
    below_floor: bool = False

    @property
    def metric(self) -> str:
        """Metric, unit and direction: `RMSE m ↓`."""
        return metric_heading(self.column)

    @property
    def images(self) -> int:
        """Number of test images."""
        return self.with_registers.cells[0].record.images

    @property
    def seeds(self) -> str:
        """Number of seeds on both sides, `3`; or without and with registers, `3, 2`."""
        counts = [str(len(score.values)) for score in (self.without, self.with_registers)]
        return ", ".join(dict.fromkeys(counts))

    @property
    def marks(self) -> str:
        """Keys of `columns.MARKS` that apply to either side; what lies below the floors is `below_floor`."""
        return "".join(sorted({*self.without.marks, *marks_of(self.with_registers)} - {"f"}))


def answers(overview: Table) -> list[Answer]:
    """Rows of the summary, by task and family, from the overview.

    A row helps or hurts only if its difference is beyond the noise of images and seeds at 5 % for the whole table
    (Holm's correction over all tested rows), and at least one of its two models is better than every floor.
    """
    rows = [answer for task, column in mains(overview) for answer in _of_task(overview, task, column)]
    tested = [index for index, row in enumerate(rows) if _is_tested(row.change)]
    corrected = statistics.holm([rows[index].change.p or 0.0 for index in tested])
    for index, p in zip(tested, corrected, strict=True):
        row = rows[index]
        better = row.change.value * row.column.better > 0
        clear = p < ERROR_RATE and row.change.beyond_noise and not row.below_floor
        rows[index] = replace(row, p=p, verdict=(HELP if better else HURT) if clear else UNCLEAR)
    return rows


def _is_tested(change: Comparison) -> bool:
    """Whether the noise of seeds and images is known; an interval of no width tells nothing about it."""
    return change.over_seeds and change.interval is not None and change.interval[0] < change.interval[1]


def mains(overview: Table) -> Iterator[tuple[str, Column]]:
    """Title and main metric of each task and protocol: the first that is not chosen on the test images."""
    for group in groups(overview):
        metrics = (column for column in group.columns if column.better and not column.metric.endswith(BEST_ON_TEST))
        if column := next(metrics, None):
            yield group.title, column


def _of_task(overview: Table, task: str, column: Column) -> Iterator[Answer]:
    families: dict[str, list[TableRow]] = {}
    for row in overview.rows:
        score = overview.scores.get((row, column))
        if score and score.change and not row.floor and _registers(overview, row, column):
            families.setdefault(family(row.model), []).append(row)
    for name, rows in families.items():
        row = min(rows, key=lambda row: (abs(_registers(overview, row, column) - COMPARED), row.order()))
        twin = next(other for other in same_part_of_twin(row) if other != row and (other, column) in overview.scores)
        score = overview.scores[row, column]
        without = overview.scores[twin, column]
        assert score.change is not None, "chosen because it has one"
        yield Answer(
            task=task,
            column=column,
            family=name,
            registers=_registers(overview, row, column),
            without=without,
            with_registers=score,
            change=score.change,
            sign=sign(score.change, column.better),
            below_floor=bool(without.shortfall and score.shortfall),
        )


def _registers(overview: Table, row: TableRow, column: Column) -> int:
    return register_count(overview.scores[row, column].cells[0].record)


def headline(rows: Sequence[Answer]) -> str:
    """Count of the verdicts: `Registers help in 2, hurt in 1 and are unclear in 16 of 19 comparisons.`

    Where every comparison rests on one seed, that comes first: nothing can be found in them.
    """
    counts, single = Counter(row.verdict for row in rows), sum(not row.change.over_seeds for row in rows)
    of = f"of {len(rows)} comparison{'s' * (len(rows) != 1)}"
    if rows and single == len(rows):
        return f"One seed cannot tell whether registers help: unclear in {single} {of}."
    why = f", {single} of them with one seed" if single else ""
    return f"Registers help in {counts[HELP]}, hurt in {counts[HURT]} and are unclear in {counts[UNCLEAR]} {of}{why}."
