"""Tables of the registers paper and the data of its Figs. 4, 7, 8 and 12, with the paper's numbering.

Source: Darcet et al. 2023 (arXiv 2309.16588). Each table has the paper's columns; its rows are the models that have
records. What the paper measures with DINOv2-g and twelve further data sets is measured here with any model on its data.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.tables import columns, token_columns
from benchmarks.tables.columns import (
    LEAST_TRIALS,
    Measured,
    Table,
    TableRow,
    column_of,
    key,
    numbers_of,
    register_count,
    row_of,
    same_part_of_twin,
)
from benchmarks.tables.headings import set_name
from benchmarks.tables.model_names import family, twins
from benchmarks.tables.published import Published
from benchmarks.tables.scored_records import ScoredRecord
from regvit_lightning.models import names

Measures = Callable[[Sequence[ScoredRecord]], list[Measured]]
Named = tuple[str, str, str, str]  # task, metric, published data set, rest of the heading

TOP1: dict[str, Any] = {"better": 1, "unit": "%", "decimals": 1}


@dataclass(frozen=True)
class PaperTable:
    """Definition of one table.

    Attributes:
        name: name of the table's files.
        title: title of the table.
        labels: headings of the columns that identify a row.
        measures: extracts its values from records; none if the records lack them.
        twin_rows: gives the candidate rows of the same model without registers, or of what `against` says.
        against: what the changes are against, in words.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    measures: Measures
    twin_rows: Callable[[TableRow], list[TableRow]] = same_part_of_twin
    against: str = "the same model without registers"


def metrics(*columns: Named) -> Measures:
    """Extract metrics of tasks, as in the overview."""

    def measures(cells: Sequence[ScoredRecord]) -> list[Measured]:
        numbers = []
        for cell in cells:
            for index, (task, metric, data, rest) in enumerate(columns):
                if cell.record.task == task and metric in cell.record.columns:
                    heading = set_name(cell.record, data) + rest
                    numbers += numbers_of(cell, column_of(cell.record, metric, heading, (index,)))
        return numbers

    return measures


FROZEN: tuple[Named, ...] = (
    ("imagenet_linear", "top1", "ImageNet", " linear top-1"),
    ("imagenet_linear", "top1_best_on_test", "ImageNet", " linear top-1, best on test"),
    ("ade20k_linear", "miou", "ADE20k", " segmentation mIoU"),
    ("nyud_linear1", "rmse", "NYUd", " depth RMSE"),
)


# ----------------------------------------------------------------------------------------------- from artifact reports


def reports(cells: Sequence[ScoredRecord]) -> list[ScoredRecord]:
    """Records of artifact reports, sorted by name."""
    of_reports = [cell for cell in cells if "norms_of_last_block" in cell.record.protocol]
    return sorted(of_reports, key=lambda cell: key(cell.record))


def report_of_each_model(cells: Sequence[ScoredRecord]) -> list[ScoredRecord]:
    """Artifact report of the first seed of each model, in the order of the rows."""
    first: dict[str, ScoredRecord] = {}
    for cell in sorted(reports(cells), key=lambda cell: (row_of(cell.record).order(), cell.record.seed)):
        first.setdefault(cell.record.model, cell)
    return list(first.values())


def _number(
    cell: ScoredRecord,
    row: TableRow,
    value: Any,
    metric: str,
    heading: str,
    index: int,
    trials: int | None = None,
    share: bool = False,
    **facts: Any,
) -> list[Measured]:
    """One value of a report; empty if the report could not measure it. `trials` and `share`: see `Measured`."""
    if value is None:
        return []
    column = column_of(cell.record, metric, heading, (index,), **facts)
    return [Measured(row, column, float(value), cell, trials=trials, share=share)]


def _count(cell: ScoredRecord, row: TableRow, count: int, of: str, metric: str, heading: str, index: int) -> Measured:
    """The number of test images or tokens behind other columns, as a column of its own."""
    facts: dict[str, Any] = {"better": 0, "unit": of, "decimals": 0, "compared": False}
    return Measured(row, column_of(cell.record, metric, heading, (index,), **facts), float(count), cell)


IMAGES, PATCHES = "test images", "test patches"
TOKENS = {"CLS": "[CLS]", "normal": "normal patch", "outlier": "outlier patch", "registers": "register (mean)"}


def single_tokens(spread: bool) -> Measures:
    """Image classification from a single token (Table 1), with the deviation over draws of the token (Table 6).

    Of artifact reports for ImageNet, and of logistic regression for each set.
    """

    def measures(cells: Sequence[ScoredRecord]) -> list[Measured]:
        numbers = []
        for cell in reports(cells):
            scores = cell.record.protocol["single_tokens"]
            for index, token in enumerate(token for token in ("CLS", "normal", "outlier") if scores.get(token)):
                row, score, images = row_of(cell.record, token, index), scores[token], scores[token]["test_images"]
                numbers += _number(
                    cell, row, score["top1"], "single_token_top1", "top-1", 0, trials=images, share=True, **TOP1
                )
                if spread and token != "CLS":
                    facts = {**TOP1, "better": 0, "trials": images}
                    deviation = score["std_over_draws"]
                    numbers += _number(cell, row, deviation, "single_token_std", "std over draws", 1, **facts)
                numbers.append(_count(cell, row, images, IMAGES, "single_token_images", "n", 2))
        return numbers + token_columns.of_sets(cells, spread)

    return measures


def registers_hold(cells: Sequence[ScoredRecord]) -> list[Measured]:
    """Image classification from CLS, a normal patch, an outlier patch or a register (Table 4), each with its n."""
    numbers = []
    for cell in reports(cells):
        scores, row = dict(cell.record.protocol["single_tokens"]), _by_registers(cell)
        registers = [score for token, score in scores.items() if token.startswith("reg_") and score]
        if registers:
            scores["registers"] = {**registers[0], "top1": sum(score["top1"] for score in registers) / len(registers)}
        for index, (token, heading) in enumerate(TOKENS.items()):
            if score := scores.get(token):
                metric, images = f"single_token_{token}", score["test_images"]
                shown = {**TOP1, "trials": images, "share": True}
                numbers += _number(cell, row, score["top1"], metric, heading, 2 * index, **shown)
                named = f"{metric}_images", f"n {heading}"
                numbers.append(_count(cell, row, images, IMAGES, *named, 2 * index + 1))
    return numbers


def local_information(cells: Sequence[ScoredRecord]) -> list[Measured]:
    """Prediction of a normal patch's position and pixels from its token (Table 5), and the number of such patches."""
    numbers = []
    for cell in reports(cells):
        position, pixels = (cell.record.protocol[name].get("normal") or {} for name in ("position", "pixels"))
        row, scale = _by_registers(cell), f"pixels of {cell.record.protocol['pixel_scale']}"
        less: dict[str, Any] = {"better": -1, "decimals": 2}
        n = position.get("patches", pixels.get("patches"))
        far, l2, rms = position.get("distance"), pixels.get("l2"), pixels.get("rms")
        top1 = position.get("top1")
        numbers += _number(cell, row, top1, "position_top1", "position top-1", 0, trials=n, share=True, **TOP1)
        numbers += _number(cell, row, far, "position_distance", "position distance", 1, n, unit="patches", **less)
        numbers += _number(cell, row, l2, "pixel_l2", "reconstruction L2 error", 2, n, unit=scale, **less)
        numbers += _number(cell, row, rms, "pixel_rms", "reconstruction rms error", 3, n, unit=scale, **less)
        if n is not None:
            numbers.append(_count(cell, row, n, PATCHES, "local_patches", "n", 4))
    return numbers


def _by_registers(cell: ScoredRecord) -> TableRow:
    return row_of(cell.record, str(register_count(cell.record)))


LEVELS = {0.01: "norm at 1 %", 0.5: "median norm", 0.99: "norm at 99 %", 1.0: "largest norm"}
NORM: dict[str, Any] = {"better": 0, "unit": "the model's own scale", "decimals": 1}
SHARE: dict[str, Any] = {"better": 0, "unit": "% of patches", "decimals": 2}


def norms_by_block(cells: Sequence[ScoredRecord]) -> list[Measured]:
    """Norms of patches after every block, and the share of outliers by the report's rule (Fig. 4a; 4c over models)."""
    numbers = []
    for cell in reports(cells):
        protocol, rule = cell.record.protocol, cell.record.settings["rule"]
        levels, shares = protocol["norms_by_block"]["levels"], protocol["findings"][rule]["shares"]
        for block, share in enumerate(shares, 1):
            row = row_of(cell.record, str(block), block)
            norms = dict(zip(levels, protocol["norms_by_block"]["patches"][block - 1], strict=True))
            for index, (level, heading) in enumerate(LEVELS.items()):
                numbers += _number(cell, row, norms[level], f"norm_{level:g}", heading, index, **NORM)
            numbers += _number(
                cell, row, 100 * share, "block_outlier_share", f"outliers ({rule})", len(LEVELS), **SHARE
            )
    return numbers


def norms_of_registers(cells: Sequence[ScoredRecord]) -> list[Measured]:
    """Norm of each register's mean over images after every block (Fig. 15); none from reports of older versions."""
    numbers = []
    for cell in reports(cells):
        for block, norms in enumerate(cell.record.protocol.get("norm_of_mean_register_by_block", ()), 1):
            row = row_of(cell.record, str(block), block)
            for index, norm in enumerate(norms):
                numbers += _number(cell, row, norm, f"register_norm_{index}", f"register {index}", index, **NORM)
    return numbers


QUANTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)


def norms_of_last_block(cells: Sequence[ScoredRecord]) -> list[Measured]:
    """Norms of patches after the last block, as quantiles of the strips (Fig. 7)."""
    numbers = []
    for cell in reports(cells):
        strip = cell.record.protocol["norms_of_last_block"]
        for index, percent in enumerate(QUANTILES):
            value = strip[round(percent / 100 * (len(strip) - 1))]
            numbers += _number(cell, row_of(cell.record), value, f"norm_{percent}", f"{percent} %", index, **NORM)
    return numbers


def costs(cells: Sequence[ScoredRecord]) -> list[Measured]:
    """Parameters and multiply-adds against the number of registers (Fig. 12), once for each kind of model."""
    numbers: list[Measured] = []
    whole: dict[str, Any] = {"better": 0, "unit": "millions", "decimals": 3}
    more: dict[str, Any] = {"better": 0, "unit": "% more than without registers", "decimals": 2}
    kinds = {family(cell.record.model): cell for cell in reports(cells) if not row_of(cell.record).floor}
    for model, cell in kinds.items():
        for cost in cell.record.protocol["cost"]:
            row = TableRow(model, str(cost["registers"]), cost["registers"])
            numbers += _number(cell, row, cost["parameters"] / 1e6, "parameters", "parameters", 0, **whole)
            numbers += _number(cell, row, cost["more_parameters"], "more_parameters", "more parameters", 1, **more)
            numbers += _number(cell, row, cost["macs"] / 1e6, "macs", "multiply-adds", 2, **{**whole, "decimals": 2})
            numbers += _number(cell, row, cost["more_macs"], "more_macs", "more multiply-adds", 3, **more)
    return numbers


# ------------------------------------------------------------------------------------------------ number of registers


def by_registers(cells: Sequence[ScoredRecord]) -> list[Measured]:
    """Table 2a by number of registers (Fig. 8), for models with at least two such numbers, beside the floors."""
    measured = metrics(*FROZEN)(cells)
    numbers = [_at_its_registers(number) for number in measured if not number.row.floor]
    counts = {(number.row.model, number.row.part) for number in numbers}
    models = [model for model, _ in counts]
    shown = [number for number in numbers if models.count(number.row.model) > 1]
    columns = {number.column for number in shown}
    return [number for number in measured if number.row.floor and number.column in columns] + shown


def _at_its_registers(number: Measured) -> Measured:
    count = register_count(number.cell.record)
    row = TableRow(family(number.cell.record.model), str(count), count)
    return Measured(row, number.column, number.value, number.cell)


# Measures of `analysis/diversity.py` by heading, unit and decimals: none of them is better for being high or low.
DIVERSITY = {
    "register_cosine": ("cosine", "", 2),
    "register_cosine_raw": ("cosine before the norm", "", 2),
    "register_effective_rank": ("effective rank", "", 2),
    "register_identity": ("identity share", "", 2),
    "register_divergence": ("divergence of maps", "bits", 2),
    "register_coverage": ("coverage", "% of patches", 1),
}
ARTIFACTS = {"outlier_share": "outliers", "max_over_median": "largest norm / median"}
BESIDE_DIVERSITY: tuple[Named, ...] = (
    ("imagenet_knn", "top1", "ImageNet", " kNN top-1"),
    ("imagenet_linear", "top1", "ImageNet", " linear top-1"),
    ("ade20k_linear", "miou", "ADE20k", " mIoU"),
)


def register_diversity(cells: Sequence[ScoredRecord]) -> list[Measured]:
    """Diversity of registers beside accuracy, a dense score and artifacts, for models with at least two registers.

    Models of the same family with fewer registers stand beside them, without diversity.
    """
    numbers: list[Measured] = []
    diverse = {family(cell.record.model) for cell in reports(cells) if "register_cosine" in cell.record.metrics}
    related = [cell for cell in cells if family(cell.record.model) in diverse]
    for cell in reports(related):
        record, first = cell.record, len(DIVERSITY)
        for index, (metric, (heading, unit, decimals)) in enumerate(DIVERSITY.items()):
            facts: dict[str, Any] = {"better": 0, "unit": unit, "decimals": decimals}
            numbers += numbers_of(cell, column_of(record, metric, heading, (index,), **facts))
        for index, (metric, heading) in enumerate(ARTIFACTS.items(), first):
            numbers += numbers_of(cell, column_of(record, metric, heading, (index,)))
    beside = metrics(*BESIDE_DIVERSITY)(related)
    last = (len(DIVERSITY) + len(ARTIFACTS),)
    return numbers + [
        replace(one, column=replace(one.column, rank=last + one.column.rank)) for one in beside if not one.floor
    ]


def none_of_them(row: TableRow) -> list[TableRow]:
    """Row of the same model without registers."""
    return [TableRow(row.model, "0")]


def twin_with_none(row: TableRow) -> list[TableRow]:
    """Row of the twin model, whose part states zero registers."""
    return [TableRow(name, "0", floor=row.floor) for name in twins(row.model)]


def without_tag(row: TableRow) -> list[TableRow]:
    """Row of the same model trained with the recipe as it is; none for a model without a tag."""
    plain = names.without_tag(row.model)
    return [] if plain == row.model else [TableRow(plain, floor=row.floor)]


def no_twin(row: TableRow) -> list[TableRow]:
    """No twin rows, for tables in which a change against the twin is meaningless."""
    return []


FEW = f" (– below {LEAST_TRIALS})"

PAPER_TABLES = (
    PaperTable(
        "table1",
        f"Table 1: image classification from one token; n: test images that have it{FEW}",
        ("model", "token"),
        single_tokens(False),
    ),
    PaperTable("table2a", "Table 2a: linear evaluation of frozen features", ("model",), metrics(*FROZEN)),
    PaperTable(
        "table2b",
        "Table 2b: zero-shot classification",
        ("model",),
        metrics(("imagenet_zeroshot", "top1", "ImageNet", " zero-shot top-1")),
    ),
    PaperTable(
        "table3",
        "Table 3: object discovery by LOST",
        ("model",),
        metrics(
            ("lost_voc07", "corloc", "VOC 2007", " CorLoc"),
            ("lost_voc12", "corloc", "VOC 2012", " CorLoc"),
            ("lost_coco20k", "corloc", "COCO 20k", " CorLoc"),
            ("lost_sweep_voc07", "corloc", "VOC 2007", " CorLoc, sweep"),
            ("lost_sweep_voc12", "corloc", "VOC 2012", " CorLoc, sweep"),
            ("lost_sweep_coco20k", "corloc", "COCO 20k", " CorLoc, sweep"),
            ("lost_sweep_voc07", "corloc_best_on_test", "VOC 2007", " CorLoc, sweep, best on test"),
            ("lost_sweep_voc12", "corloc_best_on_test", "VOC 2012", " CorLoc, sweep, best on test"),
            ("lost_sweep_coco20k", "corloc_best_on_test", "COCO 20k", " CorLoc, sweep, best on test"),
        ),
    ),
    PaperTable(
        "table4",
        f"Table 4: image classification from one token, by number of registers; n: test images that have it{FEW}",
        ("model", "registers"),
        registers_hold,
        twin_with_none,
    ),
    PaperTable(
        "table5",
        f"Table 5: position and pixels of a normal patch from its token; n: test patches{FEW}, in intervals as many as "
        "there are test images",
        ("model", "registers"),
        local_information,
        twin_with_none,
    ),
    PaperTable(
        "table6",
        f"Table 6: Table 1 with the standard deviation over draws of the token; n: test images that have it{FEW}",
        ("model", "token"),
        single_tokens(True),
    ),
    PaperTable("fig4", "Fig. 4: norms of patches by block", ("model", "block"), norms_by_block, no_twin),
    PaperTable(
        "fig7", "Fig. 7: norms of patches after the last block, quantiles", ("model",), norms_of_last_block, no_twin
    ),
    PaperTable(
        "fig8", "Fig. 8: linear evaluation by number of registers", ("model", "registers"), by_registers, none_of_them
    ),
    PaperTable(
        "fig15",
        "Fig. 15: norm of the mean of each register over images, by block",
        ("model", "block"),
        norms_of_registers,
        no_twin,
    ),
    PaperTable(
        "registers",
        "Diversity of registers, beside accuracy and artifacts: models with at least two, and the same with fewer",
        ("model",),
        register_diversity,
        without_tag,
        "the same model trained without the settings of its tag",
    ),
    PaperTable("fig12", "Fig. 12: cost by number of registers", ("model", "registers"), costs, no_twin),
)


def build(cells: Sequence[ScoredRecord], entries: Sequence[Published] = ()) -> Iterator[Table]:
    """Build those of `PAPER_TABLES` that have any record; arguments as for `columns.overview`."""
    marks = columns.marks(cells)
    for table in PAPER_TABLES:
        measured = table.measures(cells)
        if measured:
            built = columns.build(measured, marks, entries, table.name, table.title, table.labels, table.twin_rows)
            yield replace(built, against=table.against)
