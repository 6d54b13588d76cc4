"""Overview of all results, as in the tables, with texts and numbers formatted for the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.tables import model_names
from benchmarks.tables.by_task import groups, metric_name
from benchmarks.tables.columns import Column, Score, Table, TableRow, key
from benchmarks.tables.formats import RAISED, row_name, source_of, sources_of
from benchmarks.tables.shown import Shown, shown

ARROWS = {1: ("↑", "higher is better"), 0: ("", "neither direction is better"), -1: ("↓", "lower is better")}


@dataclass(frozen=True)
class Number:
    """One score as shown on the page.

    Attributes:
        value: full-precision value, to sort by.
        text: its texts.
        cells: indices of its records in the page's list, separated by spaces.
        best: whether it beats all others of its column by more than the noise of images and seeds.
        dirty: whether it was measured with uncommitted changes.
        marks: superscript letters, see the notes below the table.
        published: published value and number of its source, empty if there is none.
    """

    value: str
    text: Shown
    cells: str
    best: bool
    dirty: bool
    marks: str
    published: str


@dataclass(frozen=True)
class Row:
    """Row of a model or a floor.

    Attributes:
        name: name as shown.
        model: its id, or the name of the floor.
        floor: whether it is chance, a constant, or untrained weights.
        commands: commands that train the model and reproduce its numbers, empty for floors without a model.
        numbers: one for each column, None if missing.
        against: what its changes are against, where that is not the table's own.
    """

    name: str
    model: str
    floor: bool
    commands: str
    numbers: list[tuple[Column, Number | None]]
    against: str = ""


def rows(
    table: Table,
    indices: Mapping[str, int],
    commands: Sequence[str] = (),
    training: Sequence[str] = (),
    columns: Sequence[Column] = (),
) -> list[Row]:
    """Format all rows of a table.

    Args:
        table: the overview.
        indices: index of each record in the page's list, by `columns.key`.
        commands: command of each record in the page's list; rows have none without them.
        training: command that trains the model of each record, empty for a model that is not trained here.
        columns: columns in the order of the numbers; by default in that of `by_task.groups`.
    """
    columns = columns or [column for group in groups(table) for column in group.columns]
    sources = sources_of(table)
    lines = []
    for row in table.rows:
        scores = [table.scores.get((row, column)) for column in columns]
        cells = {key(cell.record): cell for score in scores if score for cell in score.cells}
        makers = sorted(indices[name] for name, cell in cells.items() if cell.record.model == row.model)
        numbers = []
        for column, score in zip(columns, scores, strict=True):
            number = _number(column, score, indices, sources) if score else None
            numbers.append((column, number))
        trained = dict.fromkeys(training[index] for index in makers if training)
        again = "\n".join([*filter(None, trained), *(commands[index] for index in makers if commands)])
        lines.append(Row(row_name(row), row.model, row.floor, again, numbers, _against(row)))
    return lines


def _against(row: TableRow) -> str:
    added = model_names.added(row.model)
    return f"the same weights without {added}" if added else ""


def _number(column: Column, score: Score, indices: Mapping[str, int], sources: Sequence[str]) -> Number:
    text = shown(score, column)
    return Number(
        value=repr(score.mean),
        text=text,
        cells=joined(score, indices),
        best=score.best,
        dirty="d" in text.marks,
        marks="".join(RAISED[mark] for mark in text.marks),
        published=f"{score.published.value:g} [{sources.index(source_of(score)) + 1}]" if score.published else "",
    )


def joined(score: Score, indices: Mapping[str, int]) -> str:
    """Join the indices of a score's records in the page's list, as the page's script reads them."""
    return " ".join(str(indices[key(cell.record)]) for cell in score.cells)


def heading(column: Column) -> tuple[str, str]:
    """Metric, unit and arrow of a column; and the meaning of the arrow."""
    arrow, meaning = ARROWS[column.better]
    unit = "\N{NO-BREAK SPACE}".join(filter(None, [column.unit, arrow]))
    return f"{metric_name(column.metric)} {unit}", meaning
