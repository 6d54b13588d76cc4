"""Format a table for a terminal: a narrow block for each task, with models as rows and floors as lines below them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from benchmarks.tables import floors, headings
from benchmarks.tables.columns import MARKS, Column, Score, Table, TableRow
from benchmarks.tables.escapes import in_line
from benchmarks.tables.formats import RAISED, Origin
from benchmarks.tables.shown import marks_of, shown
from benchmarks.tables.verdicts import meanings
from benchmarks.terminal import fitted

WIDEST = 100  # characters, also where there is more room: lines that are easy to follow, and fit in a message
GAP = 2  # blanks between two columns
BEST_ON_TEST = "_best_on_test"
UNBROKEN = "\N{NO-BREAK SPACE}"  # keeps the ends of an interval on one line
BRACKETS = re.compile(r"-?[\d.]* ?\[[-\d., ]+\]")
ARROWS = {1: " ↑", 0: "", -1: " ↓"}


@dataclass(frozen=True)
class Block:
    """Columns of one task and protocol, with the models that have a value in any of them.

    Attributes:
        title: task, with the settings that differ if it has several protocols.
        columns: its metrics; the best on test comes after what is chosen without the test images.
        models, floors: its rows.
    """

    title: str
    columns: list[Column]
    models: list[TableRow]
    floors: list[TableRow]


def text(table: Table, width: int, origin: Origin) -> str:
    """Format a table as blocks of lines of at most `width` characters, as far as its words allow, with its notes."""
    width = min(width, WIDEST)
    parts = [[origin.line()], *(list(_lines(table, block, width)) for block in blocks(table))]
    parts += [[*_notes(table), *(f"skipped: {in_line(line)}" for line in origin.records.skipped)]]
    shown = ("\n".join(fitted(BRACKETS.sub(_unbroken, line), width) for line in part) for part in parts)
    return "\n\n".join(shown).replace(UNBROKEN, " ")


def _unbroken(brackets: re.Match[str]) -> str:
    return brackets[0].replace(" ", UNBROKEN)


def blocks(table: Table) -> list[Block]:
    """Split a table into blocks, in the order of its columns."""
    ordered = sorted(table.columns, key=lambda c: (c.task, c.protocol, c.metric.endswith(BEST_ON_TEST), c.rank))
    groups = [list(columns) for _, columns in groupby(ordered, lambda column: (column.task, column.protocol))]
    protocols = [(columns[0].protocol, columns[0].facts) for columns in groups]
    titles = headings.told_apart([columns[0].task for columns in groups], protocols)
    made = []
    for title, columns in zip(titles, groups, strict=True):
        rows = [row for row in table.rows if any((row, column) in table.scores for column in columns)]
        models, floors = [row for row in rows if not row.floor], [row for row in rows if row.floor]
        made.append(Block(title, columns, models, floors))
    return made


def _lines(table: Table, block: Block, width: int) -> Iterator[str]:
    """Lines of a block: heading, the metrics side by side as far as they fit, floors, and models not above a floor."""
    yield f"{in_line(block.title)}: {_images(table, block)}"
    labels = [_label(table, row) for row in block.models]
    several = any(len(score.values) > 1 for score in _scores(table, block))
    for part in _fitting([_metric(table, block, column, several) for column in block.columns], labels, width):
        yield from _aligned(labels, part, width) if labels else ()
    for column in block.columns:
        line = _floors_line(table, block, column)
        yield from [line] if line else []
    for column in block.columns:
        if not column.metric.endswith(BEST_ON_TEST):
            of = f"{_plain(column)}: " if len(block.columns) > 1 else ""
            yield from (f"  ! {of}{in_line(line)}" for line in floors.lines(table, column))


def _scores(table: Table, block: Block) -> list[Score]:
    keys = ((row, column) for row in (*block.models, *block.floors) for column in block.columns)
    return [table.scores[key] for key in keys if key in table.scores]


def _images(table: Table, block: Block) -> str:
    """Number of test images of a block's records: `960 test images`, `40 to 96 test images`."""
    counts = sorted({cell.record.images for score in _scores(table, block) for cell in score.cells})
    return f"{' to '.join(f'{count:,}' for count in dict.fromkeys([counts[0], counts[-1]]))} test images"


def _label(table: Table, row: TableRow) -> str:
    return in_line(" ".join([row.model, row.part][: len(table.labels)]).strip())


def _plain(column: Column) -> str:
    """Name of a metric without that of its task: `top1`, `best on test`, or the heading of a paper's table."""
    if column.metric.endswith(BEST_ON_TEST) and not column.name:
        return "best on test"
    return in_line(column.name or column.metric.replace("_", " "))


Texts = list[list[str]]  # the columns of text of one metric: each the heading, then a cell for each model


def _metric(table: Table, block: Block, column: Column, several: bool) -> Texts:
    """Columns of text of a metric: its values; but for the best on test the number of seeds, if any row has several,
    and the difference to the twin without registers, if any row has one."""
    scores = [table.scores.get((row, column)) for row in block.models]
    if column.metric.endswith(BEST_ON_TEST):
        return [[_plain(column), *_values(scores, column)]]
    made = [[f"{_plain(column)} {column.unit}{ARROWS[column.better]}", *_values(scores, column)]]
    if several:
        made.append(["seeds", *(str(len(score.values)) if score else "" for score in scores)])
    differences = [shown(score, column).difference if score and score.change else "" for score in scores]
    if any(differences):
        made.append(["against no registers", *differences])
    return made


def _values(scores: Sequence[Score | None], column: Column) -> list[str]:
    """Values with their decimal points below each other; a dash where there is none."""
    means = [shown(score, column).mean if score else "–" for score in scores]
    widest = max(map(len, means), default=0)
    rests = [_rest(score, column) if score else "" for score in scores]
    return [f"{mean.rjust(widest)} {rest}".rstrip() for mean, rest in zip(means, rests, strict=True)]


def _rest(score: Score, column: Column) -> str:
    one = shown(score, column)
    return one.spread + "".join(RAISED[mark] for mark in one.marks) + (" *" if score.best else "")


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


def _floors_line(table: Table, block: Block, column: Column) -> str:
    """Floors of a metric, the best first: `floors of top1: random-vitn_reg4 8.3 [6.8, 10.1], chance 6.2`; or ''."""
    scores = {row: table.scores[row, column] for row in block.floors if (row, column) in table.scores}
    rows = sorted(scores, key=lambda row: -column.better * scores[row].mean)
    texts = (f"{_label(table, row)} {' '.join(_values([scores[row]], column))}" for row in rows)
    of = f" of {_plain(column)}" if len(block.columns) > 1 else ""
    return f"  floors{of}: {', '.join(texts)}" if rows else ""


def _notes(table: Table) -> Iterator[str]:
    """Meaning of brackets, signs and marks that occur, one line for each."""
    scores = list(table.scores.items())
    if any(score.interval for _, score in scores):
        yield "value of one seed [its 95 % interval over test images]"
    if any(score.deviation is not None for _, score in scores):
        yield "mean ± standard deviation over seeds"
    if any(score.change for _, score in scores):
        yield "against no registers: difference to the same model without registers [its 95 % interval]"
    yield from meanings("".join(shown(score, column).sign for (_, column), score in scores))
    if any(score.best for _, score in scores):
        yield "*: better than every other model by more than the noise of images and seeds"
    if any(floors.lines(table, column) for column in table.columns):
        yield "!: trained models not better than a floor by more than noise (their difference to it)"
    marks = {mark for _, score in scores for mark in marks_of(score)}
    yield from (f"{RAISED[mark]}: {words}" for mark, words in MARKS.items() if mark in marks)
