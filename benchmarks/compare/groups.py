"""Where the new side is better: the classes and kinds of images on which a comparison finds a difference."""

from collections.abc import Mapping, Sequence

from benchmarks.compare.lines import Line
from benchmarks.tables import where, where_formats
from benchmarks.tables.by_task import BEST_ON_TEST
from benchmarks.tables.escapes import in_markdown
from benchmarks.tables.formats import row_name
from benchmarks.tables.where import Pair, Side
from regvit_lightning.data.annotated import Annotated


def pairs(lines: Sequence[Line], known: Mapping[str, Annotated], sides: tuple[str, str]) -> list[Pair]:
    """Every model whose main metrics changed, group by group: the new side against the old one.

    Args:
        lines: of the comparison.
        known: what is known of the images, by name of the data set.
        sides: names of the old and the new side.
    """
    models: dict[str, list[Side]] = {}
    for line in _mains(lines):
        cells = [[number.cell for number in side.values()] for side in (line.old, line.new)]
        models.setdefault(row_name(line.row), []).append(Side(line.column.task, line.column, *cells))
    made = [where.pair(name, sides, tasks, known) for name, tasks in models.items()]
    return [pair for pair in made if pair.parts]


def _mains(lines: Sequence[Line]) -> list[Line]:
    """The first line of each model and task that changed and can be compared: its main metric."""
    first: dict[tuple[str, str, str], Line] = {}
    for line in lines:
        column = line.column
        if (
            line.change is not None
            and column.better
            and not column.metric.endswith(BEST_ON_TEST)
            and not line.row.floor
        ):
            first.setdefault((row_name(line.row), column.task, column.protocol), line)
    return list(first.values())


def markdown(pairs: Sequence[Pair], data: str) -> list[str]:
    """Lines of Markdown: for each model the differences, or the two groups of each task nearest to one."""
    text = []
    for pair in pairs:
        rows = where_formats.found(pair) or [
            (part, line) for part in pair.parts for line in where_formats.nearest(part)
        ]
        text += ["", f"#### {in_markdown(where_formats.TITLE)} {in_markdown(pair.name)}", ""]
        text += [where_formats.headline(pair) + " Nearest to one:" * (not where_formats.found(pair) and bool(rows))]
        text += ["", where_formats.table(pair, rows, of_task=True)] * bool(rows)
    return [*text, "", *(f"- {in_markdown(note)}" for note in where_formats.notes(pairs, data))] if pairs else []
