"""Figures of the registers paper that compare models, from records: Fig. 7 (norms), 8 (registers) and 12 (cost)."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from benchmarks.tables import paper_tables
from benchmarks.tables.columns import Column, Score, Table, TableRow
from benchmarks.tables.model_names import family
from benchmarks.tables.scored_records import ScoredRecord
from benchmarks.tables.shown import axis, error_bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from regvit_lightning.figures.comparison import Curve, Point

FORMATS = ("pdf", "png")  # no SVG: the folder is kept in the repository, and a PDF holds the same lines
FACTOR = 3.0  # medians above which the artifact report speaks of a high norm, unless its settings say otherwise


def figures(cells: Sequence[ScoredRecord], tables: Sequence[Table]) -> Iterator[tuple[str, "Figure"]]:
    """Draw those figures for which there are records, each with the name of its table.

    Args:
        cells: all records of one data set.
        tables: the tables made from them.
    """
    if reports := paper_tables.report_of_each_model(cells):
        yield "fig7", _norms(reports)
    for table in tables:
        if table.name == "fig8":
            yield "fig8", _registers(table)
        if table.name == "fig12":
            yield "fig12", _costs(reports)


def _norms(reports: Sequence[ScoredRecord]) -> "Figure":
    import torch

    from regvit_lightning.figures import comparison

    groups = {cell.record.model: torch.tensor(cell.record.protocol["norms_of_last_block"]) for cell in reports}
    factors = {cell.record.settings.get("rules", {}).get("factor", FACTOR) for cell in reports}
    images = sorted({cell.record.images for cell in reports})
    counts = f"{images[0]:,}" if len(images) == 1 else f"{images[0]:,} to {images[-1]:,}"
    quantiles = len(next(iter(groups.values())))
    return comparison.norms_of_models(
        groups, max(factors), f"one of {quantiles} quantiles of the patches of {counts} images"
    )


def _registers(table: Table) -> "Figure":
    from regvit_lightning.figures import comparison

    titles = dict(zip(table.columns, table.titles(), strict=True))
    seeds = max(len(score.values) for score in table.scores.values())
    several = f"one standard deviation over {seeds} seeds, or with one seed " if seeds > 1 else ""
    bars = f"error bars: {several}the 95 % interval over test images, where it is known"
    return comparison.register_curves([_curve(table, column, titles[column]) for column in table.columns], bars)


def _curve(table: Table, column: Column, title: str) -> "Curve":
    from regvit_lightning.figures.comparison import Curve

    rows: dict[str, list[tuple[TableRow, Score]]] = {}
    floors: dict[str, float] = {}
    for row in table.rows:
        score = table.scores.get((row, column))
        if score and row.floor:
            floors[row.model] = score.mean
        elif score:
            rows.setdefault(row.model, []).append((row, score))
    points = {
        model: sorted((_point(row, score) for row, score in line), key=lambda point: point.registers)
        for model, line in rows.items()
    }
    images = sorted({cell.record.images for line in rows.values() for _, score in line for cell in score.cells})
    n = f"n = {images[0]:,}" + (f" to {images[-1]:,}" if len(images) > 1 else "")
    return Curve(title, ", ".join(filter(None, [axis(column), n])), points, floors)


def _point(row: TableRow, score: Score) -> "Point":
    from regvit_lightning.figures.comparison import Point

    low, high = error_bar(score)
    return Point(int(row.part), score.mean, min(low, score.mean), max(high, score.mean))


def _costs(reports: Sequence[ScoredRecord]) -> "Figure":
    from regvit_lightning.figures import comparison

    kinds: dict[str, tuple[list[str], list[list[float]]]] = {}
    for cell in reports:
        name, rows = family(cell.record.model), cell.record.protocol["cost"]
        if not name.startswith("random-"):
            counts = [float(row["registers"]) for row in rows]
            more = [[round(float(row[key]), 1) for row in rows] for key in ("more_macs", "more_parameters")]
            names, _ = kinds.setdefault(str(more), ([], [counts, *more]))  # models of one size have one line
            names.extend({name} - set(names))
    return comparison.costs_of_models({", ".join(names): line for names, line in kinds.values()})
