"""Token norms from artifact reports: quantiles by block, the histogram after the last block, outlier rules."""

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from benchmarks.report import drawing
from benchmarks.report.drawing import Chart, Key
from benchmarks.tables.columns import key
from benchmarks.tables.model_names import plain_family
from benchmarks.tables.paper_tables import report_of_each_model
from benchmarks.tables.scored_records import ScoredRecord

BINS = 36
BANDS = ((0.01, 0.99), (0.25, 0.75))
UNUSABLE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)  # raised by malformed reports


@dataclass(frozen=True)
class Rule:
    """Outliers detected by one rule.

    Attributes:
        name: the rule in words.
        last: share of outlier patches after the last block, as text.
        most: largest share after any block, as text.
        images: number of images with outliers that a block made, largest over the blocks, as text; or a dash.
        first: first block with outliers, or a dash.
    """

    name: str
    last: str
    most: str
    images: str
    first: str


@dataclass(frozen=True)
class Panel:
    """The artifact report of one model.

    Attributes:
        model: its id.
        cell: index of the record in the page's list.
        verdict: the report's verdict on norms in a sentence.
        blocks: chart of the norms after each block.
        legend: legend of `blocks`.
        last: chart of the norms after the last block.
        caption: caption of `last`.
        rules: a row for each rule.
    """

    model: str
    cell: int
    verdict: str
    blocks: Chart
    legend: list[Key]
    last: Chart
    caption: str
    rules: list[Rule]


def panels(cells: Sequence[ScoredRecord], indices: Mapping[str, int]) -> tuple[list[list[Panel]], list[str]]:
    """Build one row of panels per model family, with and without registers side by side on the same scales.

    Args:
        cells: all records; the first seed of each model's artifact report is shown.
        indices: index of each record in the page's list, by `columns.key`.

    Returns:
        The rows, and one warning for each report that cannot be drawn.
    """
    families: dict[str, list[ScoredRecord]] = {}
    skipped = []
    for cell in report_of_each_model(cells):
        try:
            _panel(cell, 0, _range([cell]))
        except UNUSABLE as error:
            skipped.append(f"{cell.file}: its norms cannot be drawn ({type(error).__name__}: {error})")
        else:
            families.setdefault(plain_family(cell.record.model), []).append(cell)
    rows = []
    for twins in families.values():
        scale = _range(twins)
        rows.append([_panel(cell, indices[key(cell.record)], scale) for cell in twins])
    return rows, skipped


def _panel(cell: ScoredRecord, index: int, scale: tuple[float, float]) -> Panel:
    model, protocol = cell.record.model, cell.record.protocol
    values = sorted(float(value) for value in protocol["norms_of_last_block"])
    caption = f"{len(values)} quantiles; median {values[len(values) // 2]:.3g}, largest {values[-1]:.3g}"
    blocks, legend = by_block(model, protocol["norms_by_block"], scale)
    rules = [_rule(finding, cell.record.images) for finding in protocol["findings"].values()]
    questions = protocol.get("questions")  # a record of an older version has one verdict, of norms alone
    words = questions[0]["words"] if questions else str(protocol["verdict"])
    return Panel(model, index, words, blocks, legend, histogram(model, values, scale), caption, rules)


def by_block(model: str, norms: Mapping[str, Any], scale: tuple[float, float]) -> tuple[Chart, list[Key]]:
    """Chart of quantiles of patch norms after each block, and medians of CLS and registers."""
    levels, depth = norms["levels"], len(norms["patches"]) - 1  # the last entry is after the final norm
    blocks = list(range(1, depth + 1))
    ticks = ticks_of(depth)
    registers = [name for name in norms if name.startswith("reg_")]

    def quantiles(token: str, level: float) -> list[float]:
        index = levels.index(level)
        return [float(norms[token][block - 1][index]) for block in blocks]

    with drawing.axes("block") as axes:
        drawing.linear_x(axes, ticks, list(map(str, ticks)))
        drawing.logarithmic(axes, "y", *scale)
        for low, high in BANDS:
            around = quantiles("patches", low) + quantiles("patches", high)[::-1]
            axes.fill(blocks + blocks[::-1], around, gid="band c0")
        axes.plot(blocks, quantiles("patches", 1.0), gid="line c0 dashed")
        axes.plot(blocks, quantiles("patches", 0.5), gid="line c0")
        for name in registers:
            axes.plot(blocks, quantiles(name, 0.5), gid="line c2")
        if "CLS" in norms:
            axes.plot(blocks, quantiles("CLS", 0.5), gid="line c1")
        chart = Chart(f"{model}: L2 norms of tokens after each block", drawing.shapes(axes))
    legend = [Key("line c0", "patches: median, bands of 50 % and 98 %"), Key("line c0 dashed", "largest patch")]
    legend += [Key("line c1", "CLS")] * ("CLS" in norms)
    legend += [Key("line c2", "registers")] * bool(registers)
    return chart, legend


def ticks_of(depth: int) -> list[int]:
    """Blocks 1..depth with a tick, at most nine, including both ends."""
    step = max(1, -(-depth // 8))
    return [block for block in range(1, depth + 1) if (block - 1) % step == 0 or block == depth]


def histogram(model: str, values: Sequence[float], scale: tuple[float, float]) -> Chart:
    """Histogram of patch norms after the last block, from ascending quantiles.

    Both axes are logarithmic, since outliers are few and far away.
    """
    low, high = (math.log10(end) for end in scale)
    edges = [10 ** (low + (high - low) * number / BINS) for number in range(BINS + 1)]
    below = [bisect.bisect_left(values, edge) for edge in edges]
    least = 100 / len(values)
    shares = [max(100 * (after - before) / len(values), least / 2) for before, after in pairwise(below)]
    with drawing.axes("L2 norm of patches") as axes:
        drawing.logarithmic(axes, "x", *scale)
        drawing.logarithmic(axes, "y", least / 2, 100.0)
        axes.stairs(shares, edges, baseline=least / 2, fill=True, gid="bars c0")
        return Chart(f"{model}: share of patches by L2 norm after the last block", drawing.shapes(axes))


def _range(cells: Sequence[ScoredRecord]) -> tuple[float, float]:
    """Range of the norms of patches, CLS and registers over all blocks, with a small margin."""
    norms = [
        float(value)
        for cell in cells
        for name, blocks in cell.record.protocol["norms_by_block"].items()
        if name != "levels"
        for quantiles in blocks[:-1]
        for value in quantiles
    ]
    return max(min(norms), 1e-6) * 0.9, max(norms) * 1.1


def _rule(finding: Mapping[str, Any], images: int) -> Rule:
    shares, first = [float(share) for share in finding["shares"]], finding["first"]
    last, most = (f"{100 * share:.2f} %" for share in (shares[-1], max(shares)))
    counts = [int(count) for count in finding.get("images", [])]  # a record of an older version has none
    in_images = f"{max(counts)} of {images}" if counts else "–"
    return Rule(str(finding["rule"]), last, most, in_images, "–" if first is None else str(first))
