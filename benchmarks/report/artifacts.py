"""Artifacts beyond norms on the page: the three questions for every model, and sinks and locality by block."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.report import drawing
from benchmarks.report.drawing import Chart, Key
from benchmarks.report.norms import UNUSABLE, ticks_of
from benchmarks.tables import questions, questions_formats
from benchmarks.tables.columns import key
from benchmarks.tables.formats import row_name
from benchmarks.tables.model_names import plain_family
from benchmarks.tables.paper_tables import report_of_each_model
from benchmarks.tables.scored_records import ScoredRecord

KINDS = {"events": "all", "NOP": "NOP", "broadcast": "broadcast"}  # of sinks, as the record names them
WHOSE = {"patch": "their own", "image": "the image's", "position": "the position's"}  # shares of the variance


@dataclass(frozen=True)
class Questions:
    """The table of the three questions.

    Attributes:
        heads: each question, and the headings of its effect sizes.
        rows: name, model, indices of its records; for each question its answer, its effect sizes and the answer in a
            sentence.
        notes: lines below the table.
    """

    heads: list[tuple[str, list[str]]]
    rows: list[tuple[str, str, str, list[tuple[str, list[str], str]]]]
    notes: list[str]


@dataclass(frozen=True)
class Panel:
    """Sinks and locality of one model by block.

    Attributes:
        model: its id.
        cell: index of the record in the page's list.
        words: the answers on sinks and locality.
        charts: title, unit, chart and legend of each.
    """

    model: str
    cell: int
    words: str
    charts: list[tuple[str, str, Chart, list[Key]]]


def asked(cells: Sequence[ScoredRecord], indices: Mapping[str, int]) -> Questions | None:
    """The table of the three questions; None without any artifact report that answers them.

    Args:
        cells: all records.
        indices: index of each record in the page's list, by `columns.key`.
    """
    made = questions.rows(cells)
    if not made:
        return None
    rows = []
    for row in made:
        records = " ".join(str(indices[key(cell.record)]) for cell in row.cells)
        parts = zip(questions_formats.cells_of(row), row.words, strict=True)
        answers = [(answer, effects, words) for (answer, *effects), words in parts]
        rows.append((row_name(row.row), row.row.model, records, answers))
    heads = [(question, [one.heading for one in effects]) for question, effects in questions_formats.by_question()]
    return Questions(heads, rows, questions_formats.notes_of(made))


def panels(cells: Sequence[ScoredRecord], indices: Mapping[str, int]) -> list[list[Panel]]:
    """One row of panels per model family, for the first seed of each model that measured sinks or locality."""
    families: dict[str, list[ScoredRecord]] = {}
    for cell in report_of_each_model(cells):
        try:
            if not charts(cell):
                continue
        except UNUSABLE:  # a malformed report, which the section of norms names
            continue
        families.setdefault(plain_family(cell.record.model), []).append(cell)
    return [list(_panels(twins, indices)) for twins in families.values()]


def _panels(twins: Sequence[ScoredRecord], indices: Mapping[str, int]) -> Iterator[Panel]:
    """Panels of the models of a family, on the same scales."""
    most = max(_most_sinks(cell) for cell in twins)
    for cell in twins:
        words = " ".join(one["words"] for one in cell.record.protocol.get("questions", [])[1:])
        yield Panel(cell.record.model, indices[key(cell.record)], words, charts(cell, most))


def _most_sinks(cell: ScoredRecord) -> float:
    """Sinks per image in the block with most; 0 where they are not measured."""
    by_block = cell.record.protocol.get("sinks", {}).get("by_block", {})
    return max((float(value) for values in by_block.values() for value in values), default=0.0)


def charts(cell: ScoredRecord, most: float = 0.0) -> list[tuple[str, str, Chart, list[Key]]]:
    """Title, unit, chart and legend of what a report measured: sinks, shares of variance, cosines, by block.

    Args:
        cell: an artifact report.
        most: upper end of the axis of the sinks, unless there are more.
    """
    model, protocol = cell.record.model, cell.record.protocol
    found = []
    if by_block := protocol.get("sinks", {}).get("by_block"):
        totals = {kind: sum(by_block[kind]) for kind in KINDS}
        named = {kind: f"{name} {f'{totals[kind]:.2f}' if totals[kind] else 0}" for kind, name in KINDS.items()}
        lines = {name: by_block[kind] for kind, name in named.items()}
        found.append(_chart("attention sinks", "per image", f"{model}: attention sinks in each block", lines, most))
    if locality := protocol.get("locality_by_block"):
        variance = {name: locality["variance"][kind] for kind, name in WHOSE.items()}
        shown = {f"{name} {100 * (values[-1] or 0):.0f} %": _percent(values) for name, values in variance.items()}
        found.append(
            _chart(
                "variance of patches",
                "%",
                f"{model}: whose the variance of patches is, after each block",
                shown,
                100.0,
                True,
            )
        )
        found.append(_cosines(model, locality, protocol.get("singular_defects", {})))
    return found


def _cosines(model: str, locality: Mapping[str, Any], defects: Mapping[str, Any]) -> tuple[str, str, Chart, list[Key]]:
    lines = {"image mean": locality["mean_cosine"]}
    if locality.get("cls_cosine"):
        lines["CLS"] = locality["cls_cosine"]
    if defects.get("cosine_of_others"):
        lines["singular direction"] = defects["cosine_of_others"]
        if any(value is not None for value in defects["cosine_of_high_norms"]):
            lines["the same, of high norms"] = defects["cosine_of_high_norms"]
    return _chart("cosine of patches", "mean", f"{model}: cosines of patches in each block", lines, 1.0, True)


def _percent(shares: Sequence[float | None]) -> list[float | None]:
    return [None if share is None else 100 * share for share in shares]


def _chart(
    title: str, unit: str, label: str, lines: Mapping[str, Sequence[float | None]], top: float, final: bool = False
) -> tuple[str, str, Chart, list[Key]]:
    """A line for each of `lines`, values after each block, on an axis to `top` or to the largest value.

    With `final`, the last of the longest is after the final norm.
    """
    count = max(len(values) for values in lines.values())
    ticks = ticks_of(count - final)
    values = [float(value) for line in lines.values() for value in line if value is not None]
    low, high = min(0.0, *values), max(*values, top, 0.01)
    legend = []
    with drawing.axes("block" + (" (F: after the final norm)" if final else "")) as axes:
        names = [str(tick) for tick in ticks]
        drawing.linear_x(axes, [*ticks, count] if final else ticks, [*names, "F"] if final else names)
        drawing.linear_y(axes, low, high + 0.05 * (high - low))
        for index, (name, line) in enumerate(lines.items()):
            points = [(block, float(value)) for block, value in enumerate(line, 1) if value is not None]
            axes.plot([x for x, _ in points], [y for _, y in points], gid=f"line c{index}")
            legend.append(Key(f"line c{index}", name))
        return title, unit, Chart(label, drawing.shapes(axes)), legend
