"""Table of the arms for the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import overview
from benchmarks.report.overview import ARROWS, Row
from benchmarks.tables import arm_speeds, arms_table, formats
from benchmarks.tables.columns import Column
from benchmarks.tables.published import Published
from benchmarks.tables.scored_records import ScoredRecord


@dataclass(frozen=True)
class Arms:
    """What the section of the arms shows.

    Attributes:
        headings: of each column: the column, its text, and the meaning of its arrow.
        rows: one for each model.
        against: what the changes are against, in words.
        notes: lines below the table.
    """

    headings: list[tuple[Column, str, str]]
    rows: list[Row]
    against: str
    notes: list[str]


def arms(
    cells: Sequence[ScoredRecord], results: Path, indices: Mapping[str, int], entries: Sequence[Published]
) -> Arms | None:
    """The section of the arms; None where no record is of a model with an arm.

    Args:
        cells: all records of one data set.
        results: folder of the results, where measured speeds lie.
        indices: index of each record in the page's list, by `columns.key`.
        entries: published numbers.
    """
    table = arms_table.build(cells, entries, arm_speeds.read_speeds(results))
    if table is None:
        return None
    titles = zip(table.columns, table.titles(), strict=True)
    return Arms(
        headings=[(column, *_heading(column, title)) for column, title in titles],
        rows=overview.rows(table, indices, columns=table.columns),
        against=table.against,
        notes=[*formats.meanings(table), *table.footnotes],
    )


def _heading(column: Column, title: str) -> tuple[str, str]:
    arrow, meaning = ARROWS[column.better]
    unit = "\N{NO-BREAK SPACE}".join(filter(None, [f"({column.unit})" if column.unit else "", arrow]))
    return f"{title} {unit}", meaning
