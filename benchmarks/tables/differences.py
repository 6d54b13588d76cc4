"""Differences between two models in a column, paired where they can be; who is best, and who is not above a floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from benchmarks.tables.verdicts import BETTER, BETTER_ONE_SEED, verdict
from regvit_lightning import statistics
from regvit_lightning.statistics import Comparison

if TYPE_CHECKING:
    from benchmarks.tables.columns import BySeed, Column, Interval, TableRow


@dataclass(frozen=True)
class Shortfall:
    """Why a trained model's score is not better than a floor by more than noise.

    Attributes:
        floor: the best such floor: an untrained model, or a predictor without a backbone.
        change: score of the model minus that of the floor.
    """

    floor: TableRow
    change: Comparison


def shortfall(
    row: TableRow, column: Column, groups: Mapping[tuple[TableRow, Column], BySeed], any_part: bool
) -> Shortfall | None:
    """The best floor of its column that a trained model is not better than by more than noise.

    None for floors themselves, where neither direction is better, and in columns that floors do not bound.

    Args:
        any_part: whether floors of other parts count; else those of the row's own part, and those without parts.
    """
    model = groups[row, column]
    if row.floor or not column.better or not column.floored:
        return None
    floors = {
        other: group
        for (other, of), group in groups.items()
        if of == column and other.floor and (any_part or other.part in ("", row.part))
    }
    best_first = sorted(floors, key=lambda floor: (-column.better * mean(floors[floor]), floor.order()))
    changes = (Shortfall(floor, _above(column, floors[floor], model)) for floor in best_first)
    return next((missed for missed in changes if not _is_better(missed.change, column)), None)


def mean(group: BySeed) -> float:
    """Mean over seeds."""
    return fmean(number.value for number in group.values())


def _is_better(change: Comparison, column: Column) -> bool:
    """Whether a difference to a floor is an improvement by more than noise; as a value, where the noise is unknown."""
    if change.interval is None:
        return change.value * column.better > 0
    return verdict(change, column.better) in (BETTER, BETTER_ONE_SEED)


def _above(column: Column, floor: BySeed, model: BySeed) -> Comparison:
    """Difference to a floor; a predictor without a backbone counts as exact, without noise of its own."""
    if not all(number.floor for number in floor.values()):
        return difference(column, floor, model)
    exact = mean(floor)
    values = [number.value for number in model.values()]
    intervals = [number.interval for number in model.values() if number.interval]
    if len(intervals) < len(values):
        return Comparison(fmean(values) - exact)
    return statistics.compare_summaries([exact], (exact, exact), values, _mean_interval(intervals))


def difference(column: Column, old: BySeed, new: BySeed) -> Comparison:
    """Difference of the means over seeds, new minus old.

    Its interval is paired over images if all values of both sides have scores of the same images, see
    `statistics.compare`; else it is that of independent images, if all values have an interval.
    """
    sides = [list(side.values()) for side in (old, new)]
    scores = [[number.scores for number in side if number.scores is not None] for side in sides]
    if len({one.shape for side in scores for one in side}) == 1 and list(map(len, scores)) == list(map(len, sides)):
        return statistics.compare(column.metric, *scores)
    values = [[number.value for number in side] for side in sides]
    intervals = [[number.interval for number in side if number.interval is not None] for side in sides]
    if list(map(len, intervals)) < list(map(len, sides)):
        return Comparison(fmean(values[1]) - fmean(values[0]))
    (first, of_first), (second, of_second) = zip(values, map(_mean_interval, intervals), strict=True)
    return statistics.compare_summaries(first, of_first, second, of_second)


def _mean_interval(intervals: Sequence[Interval]) -> Interval:
    low, high = (fmean(ends) for ends in zip(*intervals, strict=True))
    return low, high


def best_row(column: Column, groups: Mapping[TableRow, BySeed]) -> tuple[TableRow, Column] | None:
    """Row that beats every other model by more than the noise of images and seeds; floors do not count.

    None if any of these comparisons rests on one seed.
    """
    models = {row: group for row, group in groups.items() if not row.floor}
    if len(models) < 2 or not column.better:
        return None
    means = {row: mean(group) for row, group in models.items()}
    first = max(means, key=lambda row: column.better * means[row])
    rest = (difference(column, models[row], models[first]) for row in models if row != first)
    return (first, column) if all(verdict(change, column.better) == BETTER for change in rest) else None
