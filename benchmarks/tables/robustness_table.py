"""Table of robustness: models and their heads × ImageNet's test images, other images of its classes, ReaL's labels."""

from collections.abc import Iterator, Sequence

from benchmarks.tables import columns
from benchmarks.tables.columns import Column, Measured, Table, TableRow, row_of
from benchmarks.tables.published import Published
from benchmarks.tables.scored_records import ScoredRecord

MODULE = "robustness"  # of the tasks whose records are shown
SETS = {
    "imagenet_val": "ImageNet",
    "imagenet_real": "ReaL",
    "imagenet_v2": "V2",
    "imagenet_a": "A",
    "imagenet_r": "R",
    "imagenet_sketch": "Sketch",
    "objectnet": "ObjectNet",
}
HEADS = {"linear": {"linear": "top1", "CLS + registers": "top1_registers"}, "own": {"own head": "top1"}}
TITLE = (
    "Robustness: top-1 of the linear head of imagenet_linear, of its head on CLS and the mean of the registers, and of "
    "the model's own classifier, on other images of ImageNet's classes"
)


def measures(cells: Sequence[ScoredRecord]) -> list[Measured]:
    """Top-1 of each head on each set, and the floors of the sets."""
    numbers = []
    for cell in cells:
        record = cell.record
        if record.settings.get("module") != MODULE:
            continue
        column = _column(str(record.settings["images"]))
        for index, (head, metric) in enumerate(HEADS[record.settings["head"]].items()):
            if metric in record.metrics:
                row = row_of(record, head, index)
                numbers.append(Measured(row, column, record.metrics[metric], cell, metric=metric))
        for name, floor in record.floors.items():
            numbers.append(Measured(TableRow(name, floor=True), column, floor["top1"], cell, floor=True))
    return numbers


def _column(images: str) -> Column:
    """The column of a set: those of the paper's authors first, then sets of one's own by name."""
    place = list(SETS).index(images) if images in SETS else len(SETS)
    return Column(MODULE, "", "top1", SETS.get(images, images), rank=(place, images))


def build(cells: Sequence[ScoredRecord], entries: Sequence[Published] = ()) -> Iterator[Table]:
    """The table, if there is any record of robustness; arguments as for `columns.overview`."""
    measured = measures(cells)
    if measured:
        yield columns.build(measured, columns.marks(cells), entries, "robustness", TITLE, ("model", "head"))
