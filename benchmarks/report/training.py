"""Norms, sinks and locality during training on the page, from the runs of the models where these are at hand."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from benchmarks.report import drawing
from benchmarks.report.drawing import Chart, Key
from benchmarks.tables.model_names import family
from benchmarks.tables.scored_records import ScoredRecord
from regvit_lightning.errors import UserError

FILE = "norms.csv"
Step = Mapping[str, float]
TITLES = {  # title and unit of each chart, by what it shows
    "largest": ("largest norm", "× median, in any block"),
    "nop_sinks": ("NOP sinks", "per image, all blocks"),
    "broadcast_sinks": ("broadcast sinks", "per image, all blocks"),
    "mean_cosine": ("cosine to the image mean", "last block"),
    "cls_cosine": ("cosine to CLS", "last block"),
}


@dataclass(frozen=True)
class Training:
    """The training of the models of one family.

    Attributes:
        family: its name.
        models: ids of the models, separated by spaces, as the page's filter reads them.
        charts: title, unit and chart of each.
        legend: a line for each model.
    """

    family: str
    models: str
    charts: list[tuple[str, str, Chart]]
    legend: list[Key]


def trainings(cells: Sequence[ScoredRecord], runs: Path) -> tuple[list[Training], list[str]]:
    """Charts of each family of models whose first seed has a `norms.csv` in its run.

    Args:
        cells: all records.
        runs: folder of the runs.

    Returns:
        The charts, and one warning for each table that cannot be read.
    """
    families: dict[str, dict[str, list[Step]]] = {}
    skipped, seen = [], set()
    for cell in sorted(cells, key=lambda cell: (cell.record.model, cell.record.seed)):
        record = cell.record
        file = runs / record.data / record.model / f"seed{record.seed}" / FILE
        if record.model in seen or not os.path.isfile(file):
            continue
        seen.add(record.model)
        try:
            families.setdefault(family(record.model), {})[record.model] = steps(file)
        except UserError as error:
            skipped.append(str(error))
    made = [_training(name, models) for name, models in families.items() if models]
    return [one for one in made if one.charts], skipped  # a table of an older version has norms alone


def steps(file: Path) -> list[Step]:
    """What happened at each measured step of a run, by the keys of `TITLES` and `step`; NaN where not measured.

    Raises:
        UserError: the file is not a table of norms.
    """
    from regvit_lightning.pretrain import norms_callback

    found: list[Step] = []
    for step, group in groupby(norms_callback.read(file), key=lambda row: row["step"]):
        blocks = list(group)
        largest = [row["made_max_over_median"] for row in blocks]
        one: dict[str, float] = {"step": step, "largest": math.nan if any(map(math.isnan, largest)) else max(largest)}
        one |= {name: sum(row[name] for row in blocks) for name in ("nop_sinks", "broadcast_sinks")}
        found.append(one | {name: blocks[-1][name] for name in ("mean_cosine", "cls_cosine")})
    return found


def _training(name: str, models: Mapping[str, Sequence[Step]]) -> Training:
    ordered = sorted(models)
    charts = [(*titles, chart) for what, titles in TITLES.items() if (chart := _chart(what, models, ordered))]
    legend = [Key(f"line c{index % drawing.COLOURS}", model) for index, model in enumerate(ordered)]
    return Training(name, " ".join(ordered), charts, legend)


def _chart(what: str, models: Mapping[str, Sequence[Step]], ordered: Sequence[str]) -> Chart | None:
    """A line for each model; None where none has a value."""
    lines = {
        model: [(one["step"], one[what]) for one in models[model] if math.isfinite(one[what])] for model in ordered
    }
    points = [point for line in lines.values() for point in line]
    if not points:
        return None
    last, values = max(step for step, _ in points), [value for _, value in points]
    low, high = min(0.0, *values), max(*values, 0.01)
    with drawing.axes("step") as axes:
        ticks = [round(last * part / 4) for part in range(5)] if last else [0]
        drawing.linear_x(axes, ticks, [f"{tick:,}" for tick in ticks])
        drawing.linear_y(axes, low, high + 0.05 * (high - low))
        for index, model in enumerate(ordered):
            if lines[model]:
                axes.plot(*zip(*lines[model], strict=True), gid=f"line c{index % drawing.COLOURS}")
        return Chart(f"{TITLES[what][0]} during training: {', '.join(ordered)}", drawing.shapes(axes))
