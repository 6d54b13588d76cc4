"""Trained models that are not better than a floor of their column by more than noise, from the records."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.tables.columns import Column, Measured, Score, Table, TableRow, difference
from benchmarks.tables.model_names import is_untrained
from benchmarks.tables.shown import change_parts
from benchmarks.tables.verdicts import BETTER, BETTER_ONE_SEED, verdict
from regvit_lightning import statistics
from regvit_lightning.statistics import Comparison


@dataclass(frozen=True)
class Shortfall:
    """A trained model whose score is not better than that of a floor by more than noise.

    Attributes:
        row: the trained model.
        floor: the untrained model, or the predictor without a backbone.
        change: score of the model minus that of the floor.
    """

    row: TableRow
    floor: TableRow
    change: Comparison


def shortfalls(table: Table, column: Column) -> list[Shortfall]:
    """Trained models that do not beat every floor of a column by more than noise, each with the best of these floors.

    A column in which neither direction is better has none. Nor has an artifact report: its untrained model has no
    artifacts because it has learnt nothing.
    """
    scores = {row: table.scores[row, column] for row in table.rows if (row, column) in table.scores}
    if not column.better or any(_is_report(score) for score in scores.values()):
        return []
    floors = sorted((row for row in scores if row.floor), key=lambda row: -column.better * scores[row].mean)
    missed = []
    for row in (row for row in scores if not row.floor):
        pairs = ((floor, _difference(column, (floor, scores[floor]), (row, scores[row]))) for floor in floors)
        below = (pair for pair in pairs if verdict(pair[1], column.better) not in (BETTER, BETTER_ONE_SEED))
        missed += [Shortfall(row, *pair) for pair in list(below)[:1]]
    return missed


def lines(table: Table, column: Column) -> list[str]:
    """One line for each floor that models of a column miss: `not better than chance: a (-0.2 [-1.5, 1.1]), b (…)`."""
    of_floor: dict[str, list[str]] = {}
    for missed in shortfalls(table, column):
        numbers = " ".join(filter(None, change_parts(missed.change, column.decimals)))
        name = " ".join(filter(None, [missed.row.model, missed.row.part]))
        of_floor.setdefault(missed.floor.model, []).append(f"{name} ({numbers})")
    return [f"not better than {floor}: {', '.join(models)}" for floor, models in of_floor.items()]


def _is_report(score: Score) -> bool:
    return any("norms_of_last_block" in cell.record.protocol for cell in score.cells)


def _difference(column: Column, floor: tuple[TableRow, Score], model: tuple[TableRow, Score]) -> Comparison:
    """Difference of a model to a floor; a predictor without a backbone counts as exact, without noise of its own."""
    (row, lower), new = floor, _measured(column, *model)
    if is_untrained(row.model):
        return difference(column, dict(enumerate(_measured(column, *floor))), dict(enumerate(new)))
    intervals = [number.interval for number in new if number.interval]
    if len(intervals) < len(new):
        return Comparison(model[1].mean - lower.mean)
    low, high = (fmean(ends) for ends in zip(*intervals, strict=True))
    return statistics.compare_summaries([lower.mean], (lower.mean, lower.mean), model[1].values, (low, high))


def _measured(column: Column, row: TableRow, score: Score) -> Sequence[Measured]:
    return [Measured(row, column, value, cell) for value, cell in zip(score.values, score.cells, strict=True)]
