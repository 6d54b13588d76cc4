"""Metrics against the number of registers, a line per family (Darcet et al. 2023, fig. 8)."""

import math
from collections.abc import Sequence

from benchmarks.report import cells as kept
from benchmarks.report.cells import Cell
from benchmarks.report.chart import Chart
from benchmarks.report.markup import Html, tag
from benchmarks.report.results import Column, Results, Score

COLOURS = 6  # of the page's style

Line = list[tuple[int, Score]]


def curves(results: Results, cells: Sequence[Cell]) -> list[Html]:
    """A chart for each metric that some family has at two numbers of registers or more."""
    counts = {cell.record.model: kept.registers(cell.record) for cell in cells}
    families = sorted({kept.family(model) for model in counts})
    colours = {name: f"c{place % COLOURS}" for place, name in enumerate(families)}
    charts = []
    for column in results.columns:
        lines: dict[str, Line] = {}
        for model in results.models:
            if (model, column) in results.scores:
                lines.setdefault(kept.family(model), []).append((counts[model], results.scores[model, column]))
        lines = {name: sorted(line, key=lambda one: one[0]) for name, line in lines.items() if len(line) > 1}
        if lines:
            drawn = _chart(column, lines, colours)
            charts.append(tag("figure", drawn, tag("figcaption", _legend(lines, colours)), data_task=column.task))
    return charts


def _chart(column: Column, lines: dict[str, Line], colours: dict[str, str]) -> Html:
    numbers = sorted({count for line in lines.values() for count, _ in line})
    ends = [end for line in lines.values() for _, score in line for end in _ends(score)]
    margin = (max(ends) - min(ends)) * 0.08
    direction = "lower is better" if column.better < 0 else "higher is better"
    axis = f"{column.unit}, {direction}" if column.unit else direction
    title = f"{column.task} · {column.metric.replace('_', ' ')}"
    places = [(_place(number), str(number)) for number in numbers]
    chart = Chart(title, "registers", axis, places, (min(ends) - margin, max(ends) + margin))
    for name, line in lines.items():
        chart.line([(_place(count), score.mean) for count, score in line], colours[name])
        for count, score in line:
            low, high = _ends(score)
            if high > low:
                chart.whisker(_place(count), low, high, colours[name])
            text = f"{name}, {count} registers: {score.mean:.{column.decimals}f}"
            where = " ".join(map(str, score.cells))
            chart.dot(
                (_place(count), score.mean),
                colours[name],
                tag("title", text),
                data_cells=where,
                tabindex=0,
                role="button",
                aria_label=text,
            )
    return chart.svg()


def _place(count: int) -> float:
    """0, 1, 2, 4, 8 and 16 registers stand at about equal distances."""
    return math.log2(count + 1)


def _ends(score: Score) -> tuple[float, float]:
    """Of the whisker: one standard deviation over seeds, or the bootstrap interval of a single one."""
    if score.deviation is not None:
        return score.mean - score.deviation, score.mean + score.deviation
    return score.interval or (score.mean, score.mean)


def _legend(lines: dict[str, Line], colours: dict[str, str]) -> list[Html]:
    return [tag("span", tag("i", class_=f"key {colours[name]}"), name, class_="legend") for name in lines]
