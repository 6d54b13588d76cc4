"""The tables of a data set from its records: the overview, and the tables of the registers paper."""

from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks.tables import columns, published
from benchmarks.tables.columns import Column, Table, TableRow
from benchmarks.tables.paper_tables import PAPER_TABLES
from benchmarks.tables.published import Published
from benchmarks.tables.scored_records import ScoredRecord
from regvit_lightning.records import Record


def overview(cells: Sequence[ScoredRecord], entries: Sequence[Published] = ()) -> Table:
    """Models × metrics, the floors first.

    Args:
        cells: all of one data set.
        entries: published numbers.
    """
    return columns.build(columns.overview(cells), marks(cells), partial(_published, entries))


def tables(cells: Sequence[ScoredRecord], entries: Sequence[Published] = ()) -> Iterator[Table]:
    """The overview, then the tables of the paper that have any record; arguments as for `overview`."""
    yield overview(cells, entries)
    doubts, look_up = marks(cells), partial(_published, entries)
    for table in PAPER_TABLES:
        measured = table.measures(cells)
        if measured:
            yield columns.build(measured, doubts, look_up, table.name, table.title, table.labels, table.twin_rows)


def marks(cells: Sequence[ScoredRecord]) -> dict[str, str]:
    """What is doubtful about each record under the present protocols, see `columns.marks`."""
    return columns.marks(cells, published.versions(sorted({cell.record.task for cell in cells})))


def _published(entries: Sequence[Published], row: TableRow, column: Column, record: Record) -> Published | None:
    return published.beside(entries, record.model, row.part, column.metric, record)
