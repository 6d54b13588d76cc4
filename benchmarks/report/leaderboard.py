"""The leaderboard for the page: a compact table of ranks that sorts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.tables import leaderboard, leaderboard_formats
from benchmarks.tables.columns import Column, Table, key
from benchmarks.tables.leaderboard import Board, Place, Standing
from benchmarks.tables.scored_records import ScoredRecord

FACTS = (("mean rank", "rank"), ("may be", "span"), ("columns", "n"), ("GFLOPs", "gflops"), ("front", "front"))
FRONTS = {leaderboard.FRONT: "0", leaderboard.NEAR: "1", leaderboard.BEHIND: "2", "": ""}  # to sort by


@dataclass(frozen=True)
class Ranked:
    """One place as shown.

    Attributes:
        rank: its rank, `2` or `1.5`.
        span: ranks that noise allows, `1–4`; empty where there is only one.
        value: value behind it, for the pointer.
        cells: indices of its records in the page's list, separated by spaces.
    """

    rank: str
    span: str
    value: str
    cells: str


@dataclass(frozen=True)
class RankedRow:
    """Row of a model.

    Attributes:
        model: its id.
        facts: text, and the number to sort by, under each of `FACTS`.
        places: task and place in each column, None if missing.
    """

    model: str
    facts: list[tuple[str, str]]
    places: list[tuple[str, Ranked | None]]


@dataclass(frozen=True)
class Section:
    """What the section shows.

    Attributes:
        headline: how many models are ranked over how many columns.
        heads: text, kind and key of the first headings.
        columns: title, task and key of each column.
        rows: the best mean rank first.
        notes: lines below the table.
    """

    headline: str
    heads: list[tuple[str, str, str]]
    columns: list[tuple[str, str, str]]
    rows: list[RankedRow]
    notes: list[str]


def section(cells: Sequence[ScoredRecord], overview: Table, indices: Mapping[str, int]) -> Section | None:
    """The section of the leaderboard; None where fewer than two models can be compared.

    Args:
        cells: all records of one data set.
        overview: their overview.
        indices: index of each record in the page's list, by `columns.key`.
    """
    board = leaderboard.build(cells, overview)
    if board is None:
        return None
    return Section(
        headline=leaderboard_formats.headline(board),
        heads=[("model", "text", "model"), *((text, "number", name) for text, name in FACTS)],
        columns=[(title, column.task, f"{title} {column.metric}") for title, column in board.columns],
        rows=[_row(board, row, indices) for row in board.rows],
        notes=leaderboard_formats.notes(board),
    )


def _row(board: Board, row: Standing, indices: Mapping[str, int]) -> RankedRow:
    texts = leaderboard_formats.texts(board, row)[2:]
    numbers = [row.mean, row.best, len(board.common), row.gflops]
    values = [*("" if number is None else repr(number) for number in numbers), FRONTS[row.front]]
    places = [(column.task, _ranked(column, row.places.get(column), indices)) for _, column in board.columns]
    return RankedRow(row.model, list(zip(texts, values, strict=True)), places)


def _ranked(column: Column, place: Place | None, indices: Mapping[str, int]) -> Ranked | None:
    if place is None:
        return None
    span = f"{place.best}–{place.worst}" if place.best < place.worst else ""
    value = f"{place.value:.{column.decimals}f} {column.unit}"
    return Ranked(f"{place.rank:g}", span, value, " ".join(str(indices[key(cell.record)]) for cell in place.cells))
