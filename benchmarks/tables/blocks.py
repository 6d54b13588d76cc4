"""Format a table for a terminal: a narrow block for each task, with models as rows and floors as lines below them."""

from collections.abc import Iterator, Sequence

from benchmarks.tables import by_task, floors
from benchmarks.tables.by_task import BEST_ON_TEST
from benchmarks.tables.columns import MARKS, Column, Score, Table, TableRow
from benchmarks.tables.escapes import in_line
from benchmarks.tables.formats import RAISED, Origin
from benchmarks.tables.shown import marks_of, shown
from benchmarks.tables.verdicts import meanings
from benchmarks.terminal import fitted

WIDEST = 100  # characters, also where there is more room: lines that are easy to follow, and fit in a message
GAP = 2  # blanks between two columns
ARROWS = {1: " ↑", 0: "", -1: " ↓"}


def text(table: Table, width: int, origin: Origin) -> str:
    """Format the overview as blocks of lines of at most `width` characters, as far as its words allow, with its notes.

    Args:
        table: the overview.
        width: of the terminal; `WIDEST` is used where it is wider.
        origin: header, and the files that were skipped.
    """
    width = min(width, WIDEST)
    parts = [[origin.line()], *(list(_lines(part, width)) for part in by_task.split(table))]
    parts += [[*_notes(table), *(f"skipped: {in_line(line)}" for line in origin.records.skipped)]]
    return "\n\n".join(fitted("\n".join(part), width) for part in parts)


def _lines(part: Table, width: int) -> Iterator[str]:
    """Lines of a block: heading, the metrics side by side as far as they fit, floors, and models not above a floor."""
    yield in_line(part.title)
    models = [row for row in part.rows if not row.floor]
    labels = [in_line(row.model) for row in models]
    for columns in _fitting([_metric(part, models, column) for column in part.columns], labels, width):
        yield from _aligned(labels, columns, width) if models else ()
    for column in part.columns:
        yield from _floors(part, column)
    for column in part.columns:
        if not column.metric.endswith(BEST_ON_TEST):
            metric = f"{_name(column)} " if len(part.columns) > 1 else ""
            yield from (f"  ! {metric}{in_line(line)}" for line in floors.lines(part, column))


def _name(column: Column) -> str:
    return "best on test" if column.metric.endswith(BEST_ON_TEST) else by_task.metric_name(column.metric)


AGAINST = "against no registers"  # heading of the differences
Texts = list[list[str]]  # the columns of text of one metric: each the heading, then a cell for each model


def _metric(part: Table, models: Sequence[TableRow], column: Column) -> Texts:
    """Columns of text of a metric: its values; but for the best on test the number of seeds, if any row has several,
    and the difference to the twin without registers, if any row has one."""
    scores = [part.scores.get((row, column)) for row in models]
    if column.metric.endswith(BEST_ON_TEST):
        return [[_name(column), *_values(scores, column)]]
    made = [[f"{_name(column)} {column.unit}{ARROWS[column.better]}", *_values(scores, column)]]
    if any(score and len(score.values) > 1 for score in scores):
        made.append(["seeds", *(str(len(score.values)) if score else "" for score in scores)])
    differences = [shown(score, column).difference if score and score.change else "" for score in scores]
    if any(differences):
        made.append([AGAINST, *differences])
    return made


def _values(scores: Sequence[Score | None], column: Column) -> list[str]:
    """Values with their decimal points below each other; a dash where there is none."""
    means = [shown(score, column).mean if score else "–" for score in scores]
    widest = max(map(len, means), default=0)
    rests = [_rest(score, column) if score else "" for score in scores]
    return [f"{mean.rjust(widest)}{rest}" for mean, rest in zip(means, rests, strict=True)]


def _rest(score: Score, column: Column) -> str:
    """Spread, marks and the sign of the best: ` [55.2, 61.4]ᵈ *`."""
    one = shown(score, column)
    spread = f" {one.spread}" if one.spread else ""
    return spread + "".join(RAISED[mark] for mark in one.marks) + (" *" if score.best else "")


def _fitting(metrics: Sequence[Texts], labels: Sequence[str], width: int) -> list[Texts]:
    """Join metrics side by side as far as they fit beside the labels; the rest comes below, each at least by itself."""
    parts: list[Texts] = []
    for metric in metrics:
        if parts and _width(labels, [*parts[-1], *metric]) <= width:
            parts[-1] = [*parts[-1], *metric]
        else:
            parts.append(list(metric))
    return parts


def _width(labels: Sequence[str], columns: Texts) -> int:
    return 2 + max(map(len, labels), default=0) + sum(GAP + max(map(len, column)) for column in columns)


def _aligned(labels: Sequence[str], columns: Texts, width: int) -> Iterator[str]:
    """Lines of labels and columns; where they are wider than `width`, each label has a line of its own."""
    apart = _width(labels, columns) > width
    widths = [max(map(len, column)) for column in columns]
    first = 2 if apart else max(map(len, labels))
    for index, label in enumerate(["model", *labels]):
        cells = (column[index].ljust(size) for column, size in zip(columns, widths, strict=True))
        if apart and index:
            yield f"  {label}"
        yield ("  " + ("" if apart else label).ljust(first) + "".join(" " * GAP + cell for cell in cells)).rstrip()


def _floors(part: Table, column: Column) -> Iterator[str]:
    """Line of a metric's floors, the best first: `floors: random-vitn_reg4 8.3 [6.8, 10.1], chance 6.2`."""
    scores = {row: part.scores[row, column] for row in part.rows if row.floor and (row, column) in part.scores}
    rows = sorted(scores, key=lambda row: -column.better * scores[row].mean)
    values = (f"{in_line(row.model)} {' '.join(_values([scores[row]], column))}" for row in rows)
    if rows:
        of = f" of {_name(column)}" if len(part.columns) > 1 else ""
        yield f"  floors{of}: {', '.join(values)}"


def _notes(table: Table) -> Iterator[str]:
    """Meaning of brackets, signs and marks that occur, one line for each."""
    scores = list(table.scores.items())
    if any(score.interval for _, score in scores):
        yield "value of one seed [its 95 % interval over test images]"
    if any(score.deviation is not None for _, score in scores):
        yield "mean ± standard deviation over seeds"
    if any(score.change for _, score in scores):
        yield f"{AGAINST}: difference to {table.against} [its 95 % interval by itself]"
    yield from meanings("".join(shown(score, column).sign for (_, column), score in scores))
    if any(score.best for _, score in scores):
        yield "*: better than every other model by more than the noise of images and seeds"
    if any(floors.lines(table, column) for column in table.columns if not column.metric.endswith(BEST_ON_TEST)):
        yield "!: values with †, and their difference to the best floor that they do not beat"
    marks = {mark for _, score in scores for mark in marks_of(score)}
    yield from (f"{RAISED[mark]}: {words}" for mark, words in MARKS.items() if mark in marks)
