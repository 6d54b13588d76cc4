"""Table of the arms: models with an arm beside the plain ones of the same recipe and size, one row each.

What an arm gains in one respect it may lose in another (gating removes sinks that do nothing and makes more of those
that broadcast), so that accuracy, a dense score, outliers by two rules, both kinds of sinks, the effective rank and the
speed stand side by side.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.tables import columns
from benchmarks.tables.arm_speeds import ArmSpeed
from benchmarks.tables.columns import Column, Measured, Table, TableRow, column_of, numbers_of
from benchmarks.tables.headings import set_name
from benchmarks.tables.model_names import is_untrained, twins
from benchmarks.tables.published import Published
from benchmarks.tables.scored_records import ScoredRecord
from regvit_lightning.models import arms, names
from regvit_lightning.models.names import ModelId

NAME = "arms"
TITLE = "Arms: changes of the architecture at equal recipe, data and seeds"
AGAINST = "the plain model with as many registers, of a plain model the one without registers"

SCORES = (  # task, metric, published data set, rest of the heading
    ("imagenet_knn", "top1", "ImageNet", " kNN top-1"),
    ("imagenet_linear", "top1", "ImageNet", " linear top-1"),
    ("ade20k_linear", "miou", "ADE20k", " segmentation mIoU"),
)
SECOND_RULE = "log_mads"  # robust, and independent of the scale of the norms like the first
SHARE: dict[str, Any] = {"better": -1, "unit": "% of patches", "decimals": 2, "floored": False}
COUNT: dict[str, Any] = {"better": 0, "unit": "heads per image", "decimals": 2}
FROM_REPORT: dict[str, tuple[str, dict[str, Any]]] = {  # heading and facts by metric of the artifact report
    "nop_sinks": ("NOP sinks", COUNT),
    "broadcast_sinks": ("broadcast sinks", COUNT),
    "effective_rank": ("effective rank", {"better": 0, "unit": "dimensions", "decimals": 1}),
}


def build(
    cells: Sequence[ScoredRecord], entries: Sequence[Published] = (), speeds: Mapping[str, ArmSpeed] | None = None
) -> Table | None:
    """Build the table; None where no record is of a model with an arm.

    Args:
        cells: all records of one data set.
        entries: published numbers.
        speeds: measured speed by the name of the register ViT, see `arm_speeds`.
    """
    chosen = list(_comparable(cells))
    numbers = [number for cell in chosen for number in (*_scores(cell), *_of_report(cell))]
    trained = {number.column for number in numbers if not number.row.floor}
    numbers = [number for number in numbers if number.column in trained]
    if not numbers:
        return None
    numbers += _speeds(chosen, speeds or {})
    table = columns.build(numbers, columns.marks(cells), entries, NAME, TITLE, twin_rows=_twins)
    return replace(table, against=AGAINST, footnotes=[*table.footnotes, *_footnotes(numbers, speeds or {})])


def _comparable(cells: Sequence[ScoredRecord]) -> Iterator[ScoredRecord]:
    """Records of every recipe and size of which a model with an arm has any, and of untrained models of that size."""
    parsed = {cell.record.model: names.parse_id(cell.record.model) for cell in cells}
    bases = {_base(own) for own in parsed.values() if own and own.recipe != "random" and _arm(own) != arms.NONE}
    sizes = {start for _, start in bases}
    for cell in cells:
        own = parsed[cell.record.model]
        if own and (_base(own) in bases or (is_untrained(cell.record.model) and _base(own)[1] in sizes)):
            yield cell


def _base(own: ModelId) -> tuple[str, str]:
    """Recipe with its tag, and the name without arm and registers."""
    return own.label, names.without_arm(own.name).partition("_reg")[0]


def _arm(own: ModelId) -> str:
    return names.arm_of(own.name)


def _twins(row: TableRow) -> list[TableRow]:
    own = names.parse_id(row.model)
    if own is None:
        return []
    if _arm(own) == arms.NONE:
        return [TableRow(name, floor=row.floor) for name in twins(row.model)]
    return [TableRow(str(replace(own, name=names.without_arm(own.name))), floor=row.floor)]


def _scores(cell: ScoredRecord) -> Iterator[Measured]:
    for index, (task, metric, data, rest) in enumerate(SCORES):
        if cell.record.task == task and metric in cell.record.columns:
            yield from numbers_of(cell, column_of(cell.record, metric, set_name(cell.record, data) + rest, (index,)))


def _of_report(cell: ScoredRecord) -> Iterator[Measured]:
    record = cell.record
    if "norms_of_last_block" not in record.protocol:
        return
    rule, findings = record.settings["rule"], record.protocol["findings"]
    named = {"outlier_share": (f"outliers ({rule})", SHARE)} | FROM_REPORT
    for index, (metric, (heading, facts)) in enumerate(named.items()):
        rank = len(SCORES) + index + (index > 0)
        yield from numbers_of(cell, column_of(record, metric, heading, (rank,), **facts))
    if rule != SECOND_RULE and SECOND_RULE in findings:  # after the last block, as the first
        second = column_of(record, f"share_{SECOND_RULE}", f"outliers ({SECOND_RULE})", (len(SCORES) + 1,), **SHARE)
        yield Measured(columns.row_of(record), second, 100 * findings[SECOND_RULE]["shares"][-1], cell)


def _speeds(cells: Sequence[ScoredRecord], speeds: Mapping[str, ArmSpeed]) -> Iterator[Measured]:
    """Speed of training of each model, which does not depend on the seed: beside its first record."""
    first: dict[str, ScoredRecord] = {}
    for cell in cells:
        first.setdefault(cell.record.model, cell)
    rank = len(SCORES) + len(FROM_REPORT) + 2
    rate = Column("speed", "", "images_per_second", "training", 1, "img/s", 0, (rank,), compared=False)
    share = Column("speed", "", "relative_speed", "training speed", 1, "% of plain", 0, (rank + 1,), compared=False)
    for model, cell in first.items():
        own = names.parse_id(model)
        speed = speeds.get(own.name) if own and not is_untrained(model) else None
        if speed is not None:
            row = columns.row_of(cell.record)
            yield Measured(row, rate, speed.images_per_second, cell, apart=True)
            yield Measured(row, share, 100 * speed.relative, cell, apart=True)


def _footnotes(numbers: Sequence[Measured], speeds: Mapping[str, ArmSpeed]) -> Iterator[str]:
    records = [number.cell.record for number in numbers if number.column.metric in FROM_REPORT]
    for task in sorted({record.task for record in records}):
        counts = sorted({record.settings.get("detailed", record.images) for record in records if record.task == task})
        few = " or ".join(f"{count:,}" for count in counts)
        yield f"{task}: sinks and effective rank are those of {few} of these images"
    if any(number.column.task == "speed" for number in numbers):
        yield from sorted({speed.note for speed in speeds.values()})
