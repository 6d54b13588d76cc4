"""The tables of a page: models × metrics, and one row per record. Sorting and filtering are the page's own script."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.report.cells import Cell
from benchmarks.report.commands import command
from benchmarks.report.markup import Html, tag
from benchmarks.tables.columns import OverSeeds, protocol_key, twins

COPY_SIGN = tag(
    "svg",
    tag("rect", x=5, y=1, width=9, height=10, rx=1.5),
    tag("path", d="M3 5H2.5A1.5 1.5 0 0 0 1 6.5v7A1.5 1.5 0 0 0 2.5 15h6a1.5 1.5 0 0 0 1.5-1.5"),
    viewBox="0 0 15 16",
    class_="sign",
    aria_hidden="true",
)


@dataclass(frozen=True, order=True)
class Column:
    """One metric of one protocol; different protocols never share a column.

    Attributes:
        better: +1 where higher is better, -1 where lower is.
    """

    task: str
    protocol: str
    place: int
    metric: str
    better: int = field(compare=False)
    unit: str = field(compare=False)
    decimals: int = field(compare=False)


@dataclass(frozen=True)
class Score(OverSeeds):
    """A metric of one row.

    Attributes:
        cells: where they come from, places in the page's list.
        interval: of a single seed's value, 95 % bootstrap, where there is one.
        twin: mean of the same model without registers.
    """

    cells: tuple[int, ...]
    interval: tuple[float, float] | None = None
    twin: float | None = None


@dataclass(frozen=True)
class Results:
    """Scores by row and column; rows are models, and what is reached without one (`floors`)."""

    models: list[str]
    floors: list[str]
    columns: list[Column]
    scores: dict[tuple[str, Column], Score]


def arrange(cells: Sequence[Cell]) -> Results:
    """Scores of all cells, with means over seeds."""
    found: dict[tuple[str, Column], dict[int, tuple[float, int]]] = {}
    intervals: dict[tuple[str, Column], tuple[float, float]] = {}
    for place, cell in enumerate(cells):
        record = cell.record
        for column in columns_of(cell):
            reached = {record.model: record.metrics, **{_floor(name): kept for name, kept in record.floors.items()}}
            for row, metrics in reached.items():
                if column.metric in metrics:
                    found.setdefault((row, column), {})[record.seed] = (metrics[column.metric], place)
            if interval := _interval(record.intervals.get(column.metric)):
                intervals[record.model, column] = interval
    models = list(dict.fromkeys(cell.record.model for cell in cells))
    scores = {}
    for (row, column), by_seed in found.items():
        values, places = zip(*(by_seed[seed] for seed in sorted(by_seed)), strict=True)
        twin = next((found[t, column] for t in twins(row) if t != row and (t, column) in found), None)
        mean = statistics.fmean(value for value, _ in twin.values()) if twin else None
        scores[row, column] = Score(values, places, intervals.get((row, column)) if len(values) == 1 else None, mean)
    floors = sorted({row for row, _ in found} - set(models))
    return Results(models, floors, sorted({column for _, column in found}), scores)


def columns_of(cell: Cell) -> list[Column]:
    """What of a record goes into tables."""
    record = cell.record
    key = protocol_key(record)
    return [
        Column(record.task, key, place, metric, **{name: facts[name] for name in ("better", "unit", "decimals")})
        for place, (metric, facts) in enumerate(record.columns.items())
    ]


def _floor(name: str) -> str:
    return f"{name} (floor)"


def _interval(ends: Any) -> tuple[float, float] | None:
    if isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, int | float) for end in ends):
        return float(ends[0]), float(ends[1])
    return None


def footnotes(cells: Sequence[Cell]) -> Html:
    """For each task and protocol: how many test images, and the facts that people argue about."""
    lines: dict[tuple[str, str], Html] = {}
    for cell in cells:
        record = cell.record
        facts = [f"{key.replace('_', ' ')}: {record.protocol.get(key)}" for key in record.footnote]
        text = f" {record.images} test images; {'; '.join(facts)}"
        lines[record.task, protocol_key(record)] = tag("li", tag("b", record.task), text)
    return tag("ul", [lines[key] for key in sorted(lines)], class_="footnotes")


def overview(results: Results, cells: Sequence[Cell]) -> Html:
    """Models × metrics. A number opens its record; the button of a row copies the commands that make it again."""
    groups: dict[tuple[str, str], list[Column]] = {}
    for column in results.columns:
        groups.setdefault((column.task, column.protocol), []).append(column)
    tasks = [task for task, _ in groups]
    heads = [
        tag(
            "th",
            task if tasks.count(task) == 1 else f"{task} @{protocol}",
            colspan=len(own),
            data_task=task,
            scope="colgroup",
        )
        for (task, protocol), own in groups.items()
    ]
    top = tag("tr", tag("th", class_="name"), heads)
    names = [_heading("model", kind="text", class_="name"), *(_metric_heading(column) for column in results.columns)]
    rows = [_row(name, results, cells) for name in (*results.floors, *results.models)]
    body = tag("tbody", rows)
    return tag("table", tag("thead", top, tag("tr", names)), body, class_="sortable overview", id="overview")


def _heading(text: str, kind: str = "number", **attributes: Any) -> Html:
    button = tag("button", text, type="button", data_sort=kind)
    return tag("th", button, aria_sort="none", scope="col", **attributes)


def _metric_heading(column: Column) -> Html:
    arrow, meaning = ("↓", "lower is better") if column.better < 0 else ("↑", "higher is better")
    unit = f" {column.unit}" if column.unit else ""
    title = f"{column.metric.replace('_', ' ')}{unit} {arrow}"
    return _heading(title, data_task=column.task, title=meaning, class_="number")


def _row(name: str, results: Results, cells: Sequence[Cell]) -> Html:
    places = sorted(
        {
            place
            for column in results.columns
            if (name, column) in results.scores
            for place in results.scores[name, column].cells
        }
    )
    floor = name in results.floors
    copy = None if floor else _copy("\n".join(command(cells[place].record) for place in places), f"commands of {name}")
    title = tag("th", tag("span", name), copy, class_="name", scope="row", data_value=name)
    numbers = [_number(column, results.scores.get((name, column)), cells) for column in results.columns]
    untrained = floor or name.startswith("random-")
    return tag("tr", title, numbers, data_filter=name, class_="floor" if untrained else None)


def _number(column: Column, score: Score | None, cells: Sequence[Cell]) -> Html:
    if score is None:
        return tag("td", "–", class_="number none", data_task=column.task)
    places = " ".join(map(str, score.cells))
    shown = f"{score.mean:.{column.decimals}f}"
    dirty = any(cells[place].record.provenance.get("dirty") for place in score.cells)
    mark = "dirty" if dirty else None
    button = tag("button", shown, type="button", data_cells=places, title="show its record", class_=mark)
    under = [_spread(column, score), _change(column, score)]
    return tag("td", button, under, class_="number", data_value=repr(score.mean), data_task=column.task)


def _spread(column: Column, score: Score) -> Html | None:
    digits = column.decimals
    if score.interval:
        low, high = score.interval
        meaning = "95 % bootstrap interval over test images"
        return tag("small", f"{low:.{digits}f}–{high:.{digits}f}", class_="spread", title=meaning)
    if score.deviation:  # a constant predictor has none
        meaning = f"standard deviation of {len(score.values)} seeds"
        return tag("small", f"± {score.deviation:.{digits}f}", class_="spread", title=meaning)
    return None


def _change(column: Column, score: Score) -> Html | None:
    if score.twin is None:
        return None
    change = round(score.mean - score.twin, column.decimals) + 0.0  # no minus before a zero
    meaning = "against the same model without registers"
    return tag("small", f"{change:+.{column.decimals}f}", class_="change", title=meaning)


def _copy(text: str, what: str) -> Html:
    return tag(
        "button",
        COPY_SIGN,
        type="button",
        class_="copy",
        data_copy=text,
        title=f"copy the {what}",
        aria_label=f"copy the {what}",
    )


RECORD_COLUMNS = {
    "model": "text",
    "task": "text",
    "seed": "number",
    "result": "text",
    "images": "number",
    "date": "text",
    "commit": "text",
    "device": "text",
    "seconds": "number",
}


def record_list(cells: Sequence[Cell]) -> Html:
    """One row per record, with its provenance."""
    titles = [_heading(title, kind) for title, kind in RECORD_COLUMNS.items()]
    head = tag("tr", titles, tag("th", "again", scope="col"))
    rows = [_record_row(place, cell) for place, cell in enumerate(cells)]
    return tag("table", tag("thead", head), tag("tbody", rows), class_="sortable records", id="record-list")


def _record_row(place: int, cell: Cell) -> Html:
    record, origin = cell.record, cell.record.provenance
    commit = str(origin.get("commit", ""))[:10] or "unknown"
    values = {
        "task": record.task,
        "seed": record.seed,
        "result": ", ".join(_result(record.metrics, column) for column in columns_of(cell)),
        "images": record.images,
        "date": str(origin.get("date", ""))[:16].replace("T", " "),
        "commit": f"{commit} + changes" if origin.get("dirty") else commit,
        "device": origin.get("device", ""),
        "seconds": origin.get("seconds", ""),
    }
    opener = tag("button", record.model, type="button", data_cells=place, class_="open")
    name = tag("th", opener, scope="row", data_value=record.model, class_="name")
    line = command(record)
    again = tag("td", _copy(line, "command"), title=line)
    filtered = " ".join([record.model, *map(str, values.values())])
    columns = [_plain(RECORD_COLUMNS[key], value) for key, value in values.items()]
    return tag("tr", name, columns, again, data_filter=filtered, data_task=record.task)


def _result(metrics: dict[str, float], column: Column) -> str:
    return f"{column.metric} {metrics[column.metric]:.{column.decimals}f}" if column.metric in metrics else ""


def _plain(kind: str, value: Any) -> Html:
    return tag("td", str(value), data_value=value, class_="number" if kind == "number" else None)
