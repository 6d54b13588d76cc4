"""Charts of metrics against the number of registers, a line per model family (Darcet et al. 2023, fig. 8)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from markupsafe import Markup

from benchmarks.report import drawing
from benchmarks.report.drawing import Chart, Dot, Key
from benchmarks.report.overview import joined
from benchmarks.tables.columns import Column, Score, Table, TableRow, register_count, row_of
from benchmarks.tables.formats import row_name
from benchmarks.tables.model_names import family, is_untrained
from benchmarks.tables.shown import axis, error_bar, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CAP = 3  # half the length of the bar at an end of a whisker, in view box units
ASIDE = 7  # between the points of two families at one number of registers, in view box units

Point = tuple[TableRow, int, Score]  # row of a model, its number of registers, its score
Line = list[Point]  # by ascending number of registers


@dataclass(frozen=True)
class RegisterCurve:
    """A chart of one metric.

    Attributes:
        title: task and metric.
        axis: unit and direction of the metric.
        task: task of the metric.
        chart: chart with lines, whiskers, floors and points.
        legend: an entry for each model family, and one for each floor with its value.
    """

    title: str
    axis: str
    task: str
    chart: Chart
    legend: list[Key]


def curves(table: Table, indices: Mapping[str, int]) -> list[RegisterCurve]:
    """Draw a chart for each column in which some model family has two or more numbers of registers.

    Args:
        table: the overview.
        indices: index of each record in the page's list, by `columns.key`.
    """
    measured = {(row, column): score for (row, column), score in table.scores.items() if _is_of_model(row, score)}
    families = sorted({family(row.model) for row, _ in measured})
    styles = {name: _style(index, name) for index, name in enumerate(families)}
    charts = []
    for column, title in zip(table.columns, table.titles(), strict=True):
        lines: dict[str, Line] = {}
        for row in table.rows:
            if score := measured.get((row, column)):
                point = row, register_count(score.cells[0].record), score
                lines.setdefault(family(row.model), []).append(point)
        lines = {name: sorted(line, key=lambda point: point[1]) for name, line in lines.items() if len(line) > 1}
        if lines:
            floors = {
                row: table.scores[row, column] for row in table.rows if row.floor and (row, column) in table.scores
            }
            charts.append(_curve(column, title, lines, styles, floors, indices))
    return charts


def _is_of_model(row: TableRow, score: Score) -> bool:
    """True if a row is a model, not a floor without a backbone."""
    return row == row_of(score.cells[0].record)


def _style(index: int, name: str) -> Key:
    """Colour and marker of a family; a colour that comes again has another marker."""
    marker = drawing.MARKERS[(index + index // drawing.COLOURS) % len(drawing.MARKERS)]
    return Key(f"c{index % drawing.COLOURS}", name, marker)


def _curve(
    column: Column,
    title: str,
    lines: Mapping[str, Line],
    styles: Mapping[str, Key],
    floors: Mapping[TableRow, Score],
    indices: Mapping[str, int],
) -> RegisterCurve:
    unit = axis(column)
    with drawing.axes("registers") as axes:
        _scale(axes, lines, floors)
        parts, dots = [drawing.shapes(axes), *(_floor(axes, row, score) for row, score in floors.items())], []
        for index, (name, line) in enumerate(lines.items()):
            aside = (index - (len(lines) - 1) / 2) * ASIDE
            parts += _line(axes, line, styles[name].style, aside)
            dots += [_dot(axes, column, styles[name], point, aside, indices) for point in line]
        chart = Chart(f"{title}: {unit} against the number of registers", Markup("").join(parts), tuple(dots))
    legend = [styles[name] for name in lines] + [_floor_key(column, row, score) for row, score in floors.items()]
    return RegisterCurve(title, unit, column.task, chart, legend)


def _scale(axes: "Axes", lines: Mapping[str, Line], floors: Mapping[TableRow, Score]) -> None:
    """Set axes that hold all lines with their whiskers, and all floors."""
    counts = sorted({count for line in lines.values() for _, count, _ in line})
    drawing.linear_x(axes, [_across(count) for count in counts], [str(count) for count in counts])
    ends = [end for line in lines.values() for *_, score in line for end in error_bar(score)]
    ends += [score.mean for score in floors.values()]
    margin = (max(ends) - min(ends)) * 0.08
    drawing.linear_y(axes, min(ends) - margin, max(ends) + margin)


def _line(axes: "Axes", line: Line, style: str, aside: float) -> list[Markup]:
    """Whiskers of all points, and segments between neighbours."""
    parts, points = [], []
    for row, count, score in line:
        low, high = (drawing.position(axes, _across(count), end)[1] for end in error_bar(score))
        x, y = drawing.position(axes, _across(count), score.mean)
        points.append((x + aside, y, row.model))
        if low > high:  # y points down
            caps = "".join(f"M {x + aside - CAP} {end} h {2 * CAP}" for end in (low, high))
            parts.append(drawing.path(f"whisker {style}", f"M {x + aside} {low} L {x + aside} {high}", row.model))
            parts.append(drawing.path(f"cap {style}", caps, row.model))
    for (x0, y0, one), (x1, y1, other) in pairwise(points):
        parts.append(drawing.path(f"line {style}", f"M {x0} {y0} L {x1} {y1}", one, other))
    return parts


def _dot(axes: "Axes", column: Column, key: Key, point: Point, aside: float, indices: Mapping[str, int]) -> Dot:
    row, count, score = point
    x, y = drawing.position(axes, _across(count), score.mean)
    seeds = f" ({len(score.values)} seeds)" if len(score.values) > 1 else ""
    text = f"{key.name}, {count} registers: {shown(score, column).number}{seeds}"
    return Dot(x + aside, y, key.style, key.marker, row.model, text, joined(score, indices))


def _floor(axes: "Axes", row: TableRow, score: Score) -> Markup:
    """Horizontal line of a floor, which no filter hides."""
    _, y = drawing.position(axes, 0, score.mean)
    return drawing.path(_floor_style(row), f"M {drawing.LEFT} {y} L {drawing.WIDTH - drawing.RIGHT} {y}")


def _floor_key(column: Column, row: TableRow, score: Score) -> Key:
    return Key(_floor_style(row), f"{row_name(row)} {shown(score, column).mean}")


def _floor_style(row: TableRow) -> str:
    return "baseline untrained" if is_untrained(row.model) else "baseline fixed"


def _across(count: int) -> float:
    """Position on the horizontal axis: 0, 1, 2, 4, 8 and 16 registers are about equally spaced."""
    return math.log2(count + 1)
