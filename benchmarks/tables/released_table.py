"""Table of released backbones by family and size: with and without registers, each pair with its differences."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmarks.tables import columns, summary
from benchmarks.tables.columns import Measured, Table, TableRow
from benchmarks.tables.published import Published
from benchmarks.tables.scored_records import ScoredRecord
from regvit_lightning.models import catalogue
from regvit_lightning.models.catalogue import Entry

NAME = "released"
TITLE = "Released backbones by family and size, with and without registers"
AGAINST = "the model of the same family and size without registers, or with fewer"


def build(cells: Sequence[ScoredRecord], overview: Table, entries: Sequence[Published] = ()) -> Table | None:
    """Build the table from the main metric of each task; None where no record is of a released backbone.

    Args:
        cells: all records of one data set.
        overview: their overview.
        entries: published numbers.
    """
    wanted = {column for _, column in summary.mains(overview)}
    known = catalogue.by_record_id()
    numbers = [number for number in columns.overview_numbers(cells) if number.column in wanted]
    numbers = [replace(number, row=row) for number in numbers if (row := _row(number, known))]
    measured = {number.column for number in numbers if not number.row.floor}
    numbers = [number for number in numbers if number.column in measured]
    if not numbers:
        return None
    labels = ("model", "registers")
    table = columns.build(numbers, columns.marks(cells), entries, NAME, TITLE, labels, twin_rows=_pair)
    models = {row.model for row in table.rows}
    facts = [*_facts([entry for model, entry in known.items() if model in models]), *table.footnotes]
    return replace(table, rows=sorted(table.rows, key=_order), against=AGAINST, footnotes=facts)


def _row(number: Measured, known: dict[str, Entry]) -> TableRow | None:
    """Row of a value: of a released backbone, or a floor; None for another model."""
    if number.row.floor:
        return number.row
    entry = known.get(number.row.model)
    return None if entry is None else TableRow(entry.record_id, str(entry.registers), entry.registers)


def _pair(row: TableRow) -> list[TableRow]:
    known = catalogue.by_record_id()
    entry = known.get(row.model)
    if entry is None or not entry.pair:
        return []
    pair = next(other for other in known.values() if other.name == entry.pair)
    return [TableRow(pair.record_id, str(pair.registers), pair.registers)]


def _order(row: TableRow) -> tuple[int, int, str, str]:
    """Floors first; then the order of the catalogue, where families, sizes and pairs stand together."""
    places = {entry.record_id: number for number, entry in enumerate(catalogue.entries())}
    return int(not row.floor), places.get(row.model, -1), row.model, row.part


def _facts(shown: Sequence[Entry]) -> Iterator[str]:
    """A line for each family on training and licence, and one for each pair that differs in more than registers."""
    for family in dict.fromkeys(entry.family for entry in shown):
        own = [entry for entry in shown if entry.family == family]
        data, licences = (
            " or ".join(dict.fromkeys(getattr(entry, name) for entry in own)) for name in ("data", "licence")
        )
        yield f"{family}: trained by {own[0].objective} on {data}; licence: {licences}; {own[0].source}"
    for entry in shown:
        if entry.differs:
            yield f"{entry.record_id} differs from its pair in {entry.differs}, too"
