"""Columns of a table grouped by task and protocol, and a wide table split into one table for each of these groups."""

from dataclasses import dataclass, replace
from itertools import groupby

from benchmarks.tables.columns import Column, Table, TableRow
from benchmarks.tables.headings import counted, distinct

BEST_ON_TEST = "_best_on_test"  # end of the name of a metric whose setting is chosen on the test images

NAMES = {"max_over_median": "largest norm / median", "alpha_req": "alpha-ReQ"}
WORDS = {  # of the keys of metrics
    "top1": "top-1",
    "top5": "top-5",
    "miou": "mIoU",
    "iou": "IoU",
    "rmse": "RMSE",
    "corloc": "CorLoc",
    "cls": "CLS",
    "nop": "NOP",
    "capi": "CAPI",
    "ep": "EP",
    "map": "mAP",
    "jf": "J&F",
    "j": "J",
    "f": "F",
    "pck": "PCK",
    "rankme": "RankMe",
    "r2": "R²",
    "lidar": "LiDAR",
    "dse": "DSE",
}


@dataclass(frozen=True)
class Group:
    """Neighbouring columns of one task and protocol.

    Attributes:
        title: the task, with the settings that differ if it has several protocols.
        task: name of the task.
        columns: its columns, at least one; those chosen on the test images come last.
    """

    title: str
    task: str
    columns: list[Column]


def groups(table: Table) -> list[Group]:
    """Group the columns of a table by task and protocol, sorted by both."""
    ordered = sorted(table.columns, key=lambda c: (c.task, c.protocol, c.metric.endswith(BEST_ON_TEST), c.rank))
    grouped = [(task, protocol, list(columns)) for (task, protocol), columns in groupby(ordered, _task_and_protocol)]
    tasks = [task for task, *_ in grouped]
    titles = distinct(tasks, [(protocol, columns[0].facts) for _, protocol, columns in grouped])
    return [Group(title, task, columns) for title, (task, _, columns) in zip(titles, grouped, strict=True)]


def _task_and_protocol(column: Column) -> tuple[str, str]:
    return column.task, column.protocol


def split(table: Table) -> list[Table]:
    """Split a table into one for each of its groups, with the rows that have a value there.

    The title names task and number of test images, the columns their metric and its unit.
    """
    return [_part(table, group) for group in groups(table)]


def _part(table: Table, group: Group) -> Table:
    named = {
        column: replace(column, name=column.name or f"{metric_name(column.metric)} {column.unit}")
        for column in group.columns
    }
    scores = {(row, named[column]): score for (row, column), score in table.scores.items() if column in named}
    part = with_columns(replace(table, scores=scores), list(named.values()))
    images = sorted({cell.record.images for score in scores.values() for cell in score.cells})
    several = f"{images[0]:,} to {images[-1]:,}" if len(images) > 1 else f"{images[0]:,}"
    units = sorted({counted(cell.record) for score in scores.values() for cell in score.cells})
    title = f"{group.title}: {several} {' or '.join(units)}"
    return replace(part, name=f"{table.name}-{group.title}", title=title)


def with_columns(table: Table, columns: list[Column]) -> Table:
    """Reduce a table to some of its columns and the rows that have a value there, with their seeds and footnotes."""
    scores = {(row, column): score for (row, column), score in table.scores.items() if column in columns}
    seeds: dict[TableRow, set[int]] = {}
    for (row, _), score in scores.items():
        seeds.setdefault(row, set()).update(cell.record.seed for cell in score.cells)
    rows = [row for row in table.rows if row in seeds]
    counts = {row: len(seeds[row]) for row in rows}
    tasks = {column.task for column in columns}
    footnotes = [note for note in table.footnotes if note.partition(":")[0].partition(" ")[0] in tasks]
    return replace(table, rows=rows, columns=columns, scores=scores, seeds=counts, footnotes=footnotes)


def metric_heading(column: Column) -> str:
    """Metric, unit and direction of a column where higher or lower is better: `RMSE m ↓`."""
    arrow = {1: "↑", -1: "↓"}[column.better]
    return f"{metric_name(column.metric)} {column.unit} {arrow}"


def metric_name(metric: str) -> str:
    """Words for a metric's key: `top-1, best on test` for `top1_best_on_test`."""
    honest = metric.removesuffix(BEST_ON_TEST)
    words = NAMES.get(honest) or " ".join(WORDS.get(word, word) for word in honest.split("_"))
    return words + (", best on test" if honest != metric else "")
