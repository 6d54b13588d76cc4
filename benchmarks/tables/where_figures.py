"""Figures of where a model is better: a forest plot for each task, with a panel for each pair of models."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from benchmarks.tables.where import BETTER_THERE, Line, Pair, Part
from benchmarks.tables.where_formats import NAME, TITLE, chosen

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from regvit_lightning.figures.forest import Panel, Whisker

SIDE_BY_SIDE = 4  # panels in a figure


def figures(pairs: Sequence[Pair]) -> Iterator[tuple[str, "Figure"]]:
    """A figure for each task that any pair has groups of, named `where_<task>`."""
    tasks = dict.fromkeys((part.task, part.column) for pair in pairs for part in pair.parts if part.lines)
    for task, column in tasks:
        of_task = [(pair, part) for pair in pairs for part in pair.parts if (part.task, part.column) == (task, column)]
        number = [other.task for _, other in tasks].count(column.task)
        name = f"{NAME}_{column.task}" if number == 1 else f"{NAME}_{column.task}_{column.protocol}"
        yield name, _figure(of_task[:SIDE_BY_SIDE])


def _figure(pairs: Sequence[tuple[Pair, Part]]) -> "Figure":
    from regvit_lightning.figures import forest

    rows = list(dict.fromkeys((line.kind, line.name) for _, part in pairs for line in chosen(part)))
    kinds = list(dict.fromkeys(kind for kind, _ in rows))
    rows = sorted(rows, key=lambda row: kinds.index(row[0]))
    first = pairs[0][1]
    better = {1: "right is better", -1: "left is better"}[first.column.better]
    axis = f"difference in {first.column.unit} and its 95 % interval; {better}"
    title = f"{TITLE} {first.title}, {first.whole.images:,} images"
    return forest.forest(title, axis, rows, [_panel(pair, part, rows) for pair, part in pairs])


def _panel(pair: Pair, part: Part, rows: Sequence[tuple[str, str]]) -> "Panel":
    from regvit_lightning.figures.forest import Panel

    lines = {(line.kind, line.name): line for line in part.lines}
    whiskers = [_whisker(lines[row]) if row in lines else None for row in rows]
    return Panel(pair.name.replace(": ", "\n"), whiskers, part.whole.change.value)


def _whisker(line: Line) -> "Whisker":
    from regvit_lightning.figures.forest import Whisker

    value = line.change.value
    low, high = line.change.interval or (value, value)
    sign = 0 if not line.found else 1 if line.verdict in BETTER_THERE else -1
    return Whisker(value, low, high, sign)
