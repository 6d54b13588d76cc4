"""Overview of all results, as in the tables, with texts and numbers formatted for the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from benchmarks.tables.columns import Column, Score, Table, key
from benchmarks.tables.formats import RAISED, change_parts, marks_of, row_name, source_of, sources_of

ARROWS = {1: ("↑", "higher is better"), 0: ("", "neither direction is better"), -1: ("↓", "lower is better")}


@dataclass(frozen=True)
class Group:
    """Neighbouring columns of one task and protocol.

    Attributes:
        title: the task, with a mark of the protocol if it has several.
        task: name of the task.
        columns: its columns, at least one.
    """

    title: str
    task: str
    columns: list[Column]


@dataclass(frozen=True)
class Number:
    """One score as shown on the page.

    Attributes:
        value: full-precision value, to sort by.
        mean: mean as shown.
        cells: indices of its records in the page's list, separated by spaces.
        best: whether it beats all others of its column beyond the interval of the difference.
        dirty: whether it was measured with uncommitted changes.
        marks: superscript letters, see the notes below the table.
        spread: spread over seeds, or over images for a single seed; empty if unknown.
        spread_meaning: description of `spread`.
        change: difference to the same model without registers, empty if there is no such model.
        interval: 95 % interval of the change, empty if unknown.
        published: published value and number of its source, empty if there is none.
    """

    value: str
    mean: str
    cells: str
    best: bool
    dirty: bool
    marks: str
    spread: str
    spread_meaning: str
    change: str
    interval: str
    published: str


@dataclass(frozen=True)
class Row:
    """Row of a model or a floor.

    Attributes:
        name: name as shown.
        model: its id, or the name of the floor.
        floor: whether it is chance, a constant, or untrained weights.
        commands: commands that reproduce its numbers, empty for floors without a model.
        numbers: one for each column, None if missing.
    """

    name: str
    model: str
    floor: bool
    commands: str
    numbers: list[tuple[Column, Number | None]]


def groups(table: Table) -> list[Group]:
    """Group the columns of a table by task and protocol."""
    ordered = sorted(table.columns, key=lambda column: (column.task, column.protocol, column.rank))
    grouped = [(task, protocol, list(columns)) for (task, protocol), columns in groupby(ordered, _task_and_protocol)]
    tasks = [task for task, *_ in grouped]
    return [
        Group(task if tasks.count(task) == 1 else f"{task} @{protocol}", task, columns)
        for task, protocol, columns in grouped
    ]


def _task_and_protocol(column: Column) -> tuple[str, str]:
    return column.task, column.protocol


def rows(table: Table, indices: Mapping[str, int], commands: Sequence[str]) -> list[Row]:
    """Format all rows of a table, their numbers in the order of `groups`.

    Args:
        table: the overview.
        indices: index of each record in the page's list, by `columns.key`.
        commands: command of each record in the page's list.
    """
    columns = [column for group in groups(table) for column in group.columns]
    sources = sources_of(table)
    shown = []
    for row in table.rows:
        scores = [table.scores.get((row, column)) for column in columns]
        cells = {key(cell.record): cell for score in scores if score for cell in score.cells}
        makers = sorted(indices[name] for name, cell in cells.items() if cell.record.model == row.model)
        numbers = []
        for column, score in zip(columns, scores, strict=True):
            numbers.append((column, _number(column, score, indices, sources) if score else None))
        again = "\n".join(commands[index] for index in makers)
        shown.append(Row(row_name(row), row.model, row.floor, again, numbers))
    return shown


def _number(column: Column, score: Score, indices: Mapping[str, int], sources: Sequence[str]) -> Number:
    marks, (spread, meaning) = marks_of(score), _spread(column, score)
    change, interval = change_parts(score.change, column.decimals) if score.change else ("", "")
    return Number(
        value=repr(score.mean),
        mean=f"{score.mean:.{column.decimals}f}",
        cells=joined(score, indices),
        best=score.best,
        dirty="d" in marks,
        marks="".join(RAISED[mark] for mark in marks),
        spread=spread,
        spread_meaning=meaning,
        change=change,
        interval=interval,
        published=f"{score.published.value:g} [{sources.index(source_of(score)) + 1}]" if score.published else "",
    )


def _spread(column: Column, score: Score) -> tuple[str, str]:
    """Format the spread, `± 0.4` over seeds or `53.5–60.2` over images of a single seed, and its description."""
    if score.interval:
        ends = "–".join(f"{end:.{column.decimals}f}" for end in score.interval)
        return ends, "95 % interval over test images"
    if score.deviation:  # zero for a constant predictor
        return f"± {score.deviation:.{column.decimals}f}", f"standard deviation over {len(score.values)} seeds"
    return "", ""


def joined(score: Score, indices: Mapping[str, int]) -> str:
    """Join the indices of a score's records in the page's list, as the page's script reads them."""
    return " ".join(str(indices[key(cell.record)]) for cell in score.cells)


def heading(column: Column) -> tuple[str, str]:
    """Metric, unit and arrow of a column; and the meaning of the arrow."""
    arrow, meaning = ARROWS[column.better]
    unit = "\N{NO-BREAK SPACE}".join(filter(None, [column.unit, arrow]))
    return f"{column.metric.replace('_', ' ')} {unit}", meaning
