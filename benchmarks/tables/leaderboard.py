"""Leaderboard: rank of each model in each column, mean rank over the columns that all have, accuracy against GFLOPs.

A rank is known no better than the scores behind it: beside each stand the best and the worst that the noise of images
and seeds allows. A mean over columns that some model lacks would compare different tasks: these do not count in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean

from benchmarks.tables import columns, differences, summary
from benchmarks.tables.columns import BySeed, Column, Table
from benchmarks.tables.scored_records import ScoredRecord
from benchmarks.tables.verdicts import BETTER, BETTER_ONE_SEED, verdict

LEAST_SHARE = 0.5  # of the columns, that a model must have to be compared
LEAST_MODELS = 2
ACCURACIES = ("imagenet_linear", "imagenet_knn", "imagenet_attentive")  # the first that all compared models have
FRONT, NEAR, BEHIND = "yes", "within noise", "no"


@dataclass(frozen=True)
class Place:
    """One model in one column.

    Attributes:
        value: mean over seeds.
        rank: 1 for the best; equal values share the mean of their ranks.
        best, worst: ranks that it may have: 1 + the models that are better beyond noise, and the number of models less
            those that are worse beyond noise.
        cells: records behind the value.
    """

    value: float
    rank: float
    best: int
    worst: int
    cells: tuple[ScoredRecord, ...]


@dataclass(frozen=True)
class Standing:
    """Row of the leaderboard.

    Attributes:
        model: id of the model.
        number: 1 + the models of a smaller mean rank: those of the same mean share it; None without a mean rank.
        places: its places, by column; those that it has.
        mean: mean rank over the common columns; None where there is none.
        best, worst: means of its best and of its worst ranks.
        gflops: of the blocks for one image, 10⁹; None without an artifact report.
        front: whether no model has a higher accuracy without more GFLOPs: `yes`; `within noise` where those that have
            are not better beyond noise; `no`; empty where either is unknown.
    """

    model: str
    number: int | None
    places: Mapping[Column, Place]
    mean: float | None
    best: float | None
    worst: float | None
    gflops: float | None
    front: str = ""


@dataclass(frozen=True)
class Board:
    """The leaderboard.

    Attributes:
        columns: title and column of the main metric of every task and protocol.
        common: the columns that all compared models have.
        accuracy: title of the column that stands against GFLOPs; empty where there is none.
        rows: the compared models, the best mean rank first.
        left_out: number of columns of each model that has too few to be compared.
    """

    columns: list[tuple[str, Column]]
    common: list[Column]
    accuracy: str
    rows: list[Standing]
    left_out: dict[str, int]


Group = Mapping[str, BySeed]


def build(cells: Sequence[ScoredRecord], overview: Table) -> Board | None:
    """Rank the trained models; None where fewer than two have half of the columns.

    Floors do not take part. Norms and outliers have no rank, as an untrained model has the fewest.

    Args:
        cells: all records of one data set.
        overview: their overview, whose main metrics are the columns.
    """
    ranked = [(title, column) for title, column in summary.mains(overview) if column.floored]
    numbers = _by_column(cells, [column for _, column in ranked])
    counts = {row.model: 0 for row in overview.rows if not row.floor}
    for group in numbers.values():
        counts |= {model: counts[model] + 1 for model in group}
    compared = [model for model, count in counts.items() if count and count >= LEAST_SHARE * len(ranked)]
    if len(compared) < LEAST_MODELS:
        return None
    left_out = {model: count for model, count in counts.items() if model not in compared and count}
    chosen = {column: {m: group[m] for m in compared if m in group} for column, group in numbers.items()}
    ranked = [(title, column) for title, column in ranked if chosen[column]]
    places = {column: _places(column, chosen[column]) for _, column in ranked}
    common = [column for _, column in ranked if len(places[column]) == len(compared)]
    work = _gflops(cells)
    title, accuracy = next(
        ((t, c) for name in ACCURACIES for t, c in ranked if c.task == name and c in common), ("", None)
    )
    fronts = _fronts(accuracy, chosen[accuracy], work) if accuracy else {}
    rows = [_standing(model, places, common, work.get(model), fronts.get(model, "")) for model in compared]
    rows.sort(key=lambda row: (row.mean is None, row.mean or 0.0, row.model))
    means = [row.mean for row in rows]
    rows = [replace(row, number=None if row.mean is None else 1 + means.index(row.mean)) for row in rows]
    return Board(ranked, common, title, rows, left_out)


def _by_column(cells: Sequence[ScoredRecord], wanted: Sequence[Column]) -> dict[Column, dict[str, BySeed]]:
    """Values of trained models, by column, model and seed."""
    numbers: dict[Column, dict[str, dict[int, columns.Measured]]] = {column: {} for column in wanted}
    for number in columns.overview_numbers(cells):
        if number.column in numbers and not number.row.floor and number.enough:
            by_seed = numbers[number.column].setdefault(number.row.model, {})
            by_seed[number.cell.record.seed] = number
    return {
        column: {model: dict(sorted(of.items())) for model, of in group.items()} for column, group in numbers.items()
    }


def _places(column: Column, group: Group) -> dict[str, Place]:
    """Places of all models of a column."""
    values = {model: fmean(number.value for number in of.values()) for model, of in group.items()}
    above, below = dict.fromkeys(group, 0), dict.fromkeys(group, 0)  # models beyond noise, for each model
    for first, second in combinations(group, 2):
        for winner, loser in ((first, second), (second, first)):
            if column.better * (values[winner] - values[loser]) > 0 and _beats(column, group, winner, loser):
                above[loser] += 1
                below[winner] += 1
    return {
        model: Place(
            value=value,
            rank=1 + _count(column, values, value) + (list(values.values()).count(value) - 1) / 2,
            best=1 + above[model],
            worst=len(group) - below[model],
            cells=tuple(number.cell for number in group[model].values()),
        )
        for model, value in values.items()
    }


def _count(column: Column, values: Mapping[str, float], value: float) -> int:
    """Number of values that are better."""
    return sum(column.better * (other - value) > 0 for other in values.values())


def _beats(column: Column, group: Group, first: str, second: str) -> bool:
    """Whether the first model is better than the second beyond noise."""
    change = differences.difference(column, group[second], group[first])
    return verdict(change, column.better) in (BETTER, BETTER_ONE_SEED)


def _gflops(cells: Sequence[ScoredRecord]) -> dict[str, float]:
    """Twice the multiply-adds of the blocks for one image, 10⁹, from the artifact report of each model."""
    work = {}
    for cell in cells:
        registers = columns.register_count(cell.record)
        is_report = "norms_of_last_block" in cell.record.protocol
        for row in cell.record.protocol["cost"] if is_report else ():
            if row["registers"] == registers:
                work[cell.record.model] = 2e-9 * row["macs"]
    return work


def _fronts(column: Column, group: Group, work: Mapping[str, float]) -> dict[str, str]:
    """Whether each model, whose work is known, is on the front of accuracy against work."""
    values = {model: fmean(number.value for number in of.values()) for model, of in group.items() if model in work}
    fronts = {}
    for model, value in values.items():
        ahead = [
            other
            for other, its in values.items()
            if (work[other] <= work[model] and column.better * (its - value) > 0)
            or (work[other] < work[model] and its == value)
        ]
        beyond = any(_beats(column, group, other, model) for other in ahead)
        fronts[model] = BEHIND if beyond else NEAR if ahead else FRONT
    return fronts


def _standing(
    model: str, places: Mapping[Column, Mapping[str, Place]], common: Sequence[Column], work: float | None, front: str
) -> Standing:
    own = {column: of[model] for column, of in places.items() if model in of}
    ranks = list(zip(*((own[c].rank, own[c].best, own[c].worst) for c in common), strict=True))
    mean, best, worst = (fmean(part) for part in ranks) if ranks else (None, None, None)
    return Standing(model, None, own, mean, best, worst, work, front)
