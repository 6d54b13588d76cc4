"""Charts of metrics against the number of registers, a line per model family (Darcet et al. 2023, fig. 8)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.report import drawing
from benchmarks.report.drawing import Chart, Dot
from benchmarks.report.overview import joined
from benchmarks.tables.columns import Column, Score, Table, TableRow, register_count, row_of
from benchmarks.tables.model_names import family

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = 6  # colours in the page's style sheet

Line = list[tuple[int, Score]]  # numbers of registers, ascending, with their scores


@dataclass(frozen=True)
class RegisterCurve:
    """A chart of one metric.

    Attributes:
        title: task and metric.
        axis: unit and direction of the metric.
        task: task of the metric.
        chart: chart with lines, whiskers and points.
        legend: colour and name of each model family.
    """

    title: str
    axis: str
    task: str
    chart: Chart
    legend: list[tuple[str, str]]


def curves(table: Table, indices: Mapping[str, int]) -> list[RegisterCurve]:
    """Draw a chart for each column in which some model family has two or more numbers of registers.

    Args:
        table: the overview.
        indices: index of each record in the page's list, by `columns.key`.
    """
    measured = {(row, column): score for (row, column), score in table.scores.items() if _is_of_model(row, score)}
    families = sorted({family(row.model) for row, _ in measured})
    colours = {name: f"c{index % COLOURS}" for index, name in enumerate(families)}
    charts = []
    for column, title in zip(table.columns, table.titles(), strict=True):
        lines: dict[str, Line] = {}
        for row in table.rows:
            if score := measured.get((row, column)):
                lines.setdefault(family(row.model), []).append((register_count(score.cells[0].record), score))
        lines = {name: sorted(line, key=lambda point: point[0]) for name, line in lines.items() if len(line) > 1}
        if lines:
            charts.append(_curve(column, title, lines, colours, indices))
    return charts


def _is_of_model(row: TableRow, score: Score) -> bool:
    """True if a row is a model, not a floor without a backbone."""
    return row == row_of(score.cells[0].record)


def _curve(
    column: Column, title: str, lines: Mapping[str, Line], colours: Mapping[str, str], indices: Mapping[str, int]
) -> RegisterCurve:
    direction = {1: "higher is better", 0: "", -1: "lower is better"}[column.better]
    axis = ", ".join(filter(None, [column.unit, direction]))
    with drawing.axes("registers") as axes:
        _draw(axes, lines, colours)
        dots = []
        for name, line in lines.items():
            for count, score in line:
                x, y = drawing.position(axes, _across(count), score.mean)
                text = f"{name}, {count} registers: {score.mean:.{column.decimals}f}"
                dots.append(Dot(x, y, colours[name], text, joined(score, indices)))
        chart = Chart(f"{title}: {axis} against the number of registers", drawing.shapes(axes), tuple(dots))
    return RegisterCurve(title, axis, column.task, chart, [(colours[name], name) for name in lines])


def _draw(axes: "Axes", lines: Mapping[str, Line], colours: Mapping[str, str]) -> None:
    counts = sorted({count for line in lines.values() for count, _ in line})
    drawing.linear_x(axes, [_across(count) for count in counts], [str(count) for count in counts])
    ends = [end for line in lines.values() for _, score in line for end in _ends(score)]
    margin = (max(ends) - min(ends)) * 0.08
    drawing.linear_y(axes, min(ends) - margin, max(ends) + margin)
    for name, line in lines.items():
        axes.plot([_across(count) for count, _ in line], [score.mean for _, score in line], gid=f"line {colours[name]}")
        for count, score in line:
            low, high = _ends(score)
            if high > low:
                axes.plot([_across(count)] * 2, [low, high], gid=f"whisker {colours[name]}")


def _across(count: int) -> float:
    """Position on the horizontal axis: 0, 1, 2, 4, 8 and 16 registers are about equally spaced."""
    return math.log2(count + 1)


def _ends(score: Score) -> tuple[float, float]:
    """Ends of a whisker: one standard deviation over seeds, or the 95 % interval over images of a single seed."""
    if score.deviation is not None:
        return score.mean - score.deviation, score.mean + score.deviation
    return score.interval or (score.mean, score.mean)
