"""Norms of tokens, from artifact reports: quantiles by block, the histogram after the last one, rules for outliers."""

import bisect
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from benchmarks.report import cells as kept
from benchmarks.report.cells import Cell
from benchmarks.report.chart import Chart, log_ticks
from benchmarks.report.markup import Child, Html, tag

BINS = 36


def reports(cells: Sequence[Cell]) -> list[tuple[int, Cell]]:
    """The artifact report of each model, seed 0 first, with its place."""
    found: dict[str, tuple[int, Cell]] = {}
    for place, cell in sorted(enumerate(cells), key=lambda one: one[1].record.seed):
        if "norms_by_block" in cell.record.protocol:
            found.setdefault(cell.record.model, (place, cell))
    return sorted(found.values(), key=lambda one: one[0])


def pairs(cells: Sequence[Cell]) -> tuple[list[Html], list[str]]:
    """One row of panels per family, its models with and without registers beside each other on the same scales.

    Returns:
        the rows, and a line for each report that cannot be drawn.
    """
    families: dict[str, list[tuple[int, Cell]]] = {}
    skipped = []
    for place, cell in reports(cells):
        try:
            panel(place, cell, _range([cell]))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError) as error:
            skipped.append(f"{cell.file}: its norms cannot be drawn ({type(error).__name__}: {error})")
        else:
            families.setdefault(kept.family(cell.record.model), []).append((place, cell))
    rows = []
    for own in families.values():
        scale = _range([cell for _, cell in own])
        rows.append(tag("div", [panel(place, cell, scale) for place, cell in own], class_="twins"))
    return rows, skipped


def panel(place: int, cell: Cell, scale: tuple[float, float]) -> Html:
    """What the report of one model says: its verdict, two charts, the rules."""
    record = cell.record
    title = tag("h3", tag("button", record.model, type="button", data_cells=place, class_="open"))
    verdict = tag("p", str(record.protocol["verdict"]), class_="verdict")
    charts = tag("div", by_block(record.protocol, scale), histogram(record.protocol, scale), class_="charts")
    return tag("article", title, verdict, charts, _rules(record.protocol["findings"]), data_filter=record.model)


def by_block(protocol: dict[str, Any], scale: tuple[float, float]) -> Html:
    """Quantiles of the norms of patches after each block, and medians of CLS and registers."""
    norms = protocol["norms_by_block"]
    levels = norms["levels"]
    depth = len(norms["patches"]) - 1  # the last one is after the final norm
    step = max(1, -(-depth // 8))
    places = [(float(block), str(block)) for block in range(1, depth + 1) if (block - 1) % step == 0 or block == depth]
    chart = Chart("norms after each block", "block", "L2 norm", places, scale, log=True)
    bands = [(0.01, 0.99), (0.25, 0.75)]
    for low, high in bands:
        lower, upper = (_at(norms["patches"], levels, level, depth) for level in (low, high))
        chart.band(lower, upper, "c0")
    chart.line(_at(norms["patches"], levels, 1.0, depth), "c0 dashed")
    chart.line(_at(norms["patches"], levels, 0.5, depth), "c0")
    legend = [_key("c0", "patches: median, 50 %, 98 %, dashed: largest")]
    registers = [name for name in norms if name.startswith("reg_")]
    for name in registers:
        chart.line(_at(norms[name], levels, 0.5, depth), "c2")
    if "CLS" in norms:
        chart.line(_at(norms["CLS"], levels, 0.5, depth), "c1")
        legend.append(_key("c1", "CLS"))
    if registers:
        legend.append(_key("c2", "registers"))
    return tag("figure", chart.svg(), tag("figcaption", legend))


def histogram(protocol: dict[str, Any], scale: tuple[float, float]) -> Html:
    """Share of the patches by their norm after the last block, from the quantiles that the record keeps.

    Both axes are logarithmic: outliers are far away, and few.
    """
    values = sorted(float(value) for value in protocol["norms_of_last_block"])
    low, high = (math.log10(end) for end in scale)
    edges = [low + (high - low) * number / BINS for number in range(BINS + 1)]
    below = [bisect.bisect_left(values, 10**edge) for edge in edges]
    least = 100 / len(values)
    shares = [100 * (b - a) / len(values) for a, b in pairwise(below)]
    places = [(math.log10(value), label) for value, label in log_ticks(*scale)]
    chart = Chart("after the last block", "L2 norm of patches", "% of patches", places, (least / 2, 100.0), log=True)
    chart.x_low, chart.x_high = low, high
    chart.bars(edges, [max(share, least / 2) for share in shares], "c0")
    caption = f"{len(values)} quantiles; median {values[len(values) // 2]:.3g}, largest {values[-1]:.3g}"
    return tag("figure", chart.svg(), tag("figcaption", caption))


def _range(cells: Sequence[Cell]) -> tuple[float, float]:
    """Least and largest norm of patches, CLS and registers after any block."""
    found = [
        float(value)
        for cell in cells
        for name, blocks in cell.record.protocol["norms_by_block"].items()
        if name != "levels"
        for quantiles in blocks[:-1]
        for value in quantiles
    ]
    return max(min(found), 1e-6) * 0.9, max(found) * 1.1


def _at(
    blocks: Sequence[Sequence[float]], levels: Sequence[float], level: float, depth: int
) -> list[tuple[float, float]]:
    place = levels.index(level)
    return [(float(block), float(blocks[block - 1][place])) for block in range(1, depth + 1)]


def _key(colour: str, text: str) -> Html:
    return tag("span", tag("i", class_=f"key {colour}"), text, class_="legend")


def _rules(findings: dict[str, Any]) -> Html:
    """Share of outliers by every rule, after the last block and at its largest."""
    head = tag("tr", [tag("th", title) for title in ("rule", "last block", "most", "from block")])
    rows = []
    for found in findings.values():
        shares = [float(share) for share in found["shares"]]
        first = found["first"]
        numbers: list[Child] = [
            f"{100 * shares[-1]:.2f} %",
            f"{100 * max(shares):.2f} %",
            "–" if first is None else str(first),
        ]
        rows.append(
            tag("tr", tag("td", str(found["rule"])), [tag("td", number, class_="number") for number in numbers])
        )
    return tag("details", tag("summary", "outliers by rule"), tag("table", tag("thead", head), tag("tbody", rows)))
