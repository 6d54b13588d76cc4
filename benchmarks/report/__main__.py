"""One HTML page of all results of a data set, from the same records as the tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import command
from benchmarks.report import (
    arms,
    artifacts,
    commands,
    curves,
    leaderboard,
    looks,
    norms,
    overview,
    pictures,
    record_list,
    templates,
    training,
    where,
)
from benchmarks.tables import by_task, columns, formats, summary, summary_formats, where_formats
from benchmarks.tables import where as groups
from benchmarks.tables.columns import Table, key, row_of
from benchmarks.tables.published import Published, read_published
from benchmarks.tables.scored_records import ScoredRecord, ScoredRecords, data_name, read_scored_records
from regvit_lightning.invocation import invocation
from regvit_lightning.runtime import atomic
from regvit_lightning.settings import setting
from regvit_lightning.values import texts

DESCRIPTION = """Writes <results>/<data>/report.html from the records and the pictures beside them: tables that can be
sorted and filtered, a leaderboard, metrics against the number of registers, norms, pictures side by side, and every
record with the command that makes it again. One file without any reference to the network."""

LONGEST_WARNING = 500  # characters: names in a foreign file may be of any length


@dataclass
class ReportOptions:
    """Settings of the program."""

    data: str = setting("name of the data, a folder of <results>, or the folder of its images", "mini")
    results: str = setting("folder of the results", "results", texts.folder)
    runs: str = setting("folder of the runs, where logs lie", "runs", texts.folder)
    width: int = setting("largest width of a picture in pixels", 1200, within="[1, 1e4]")


def main(options: ReportOptions, words: list[str]) -> None:
    """Run the program."""
    results, data = Path(options.results), data_name(options.data)
    records = read_scored_records(results, data)
    text, skipped = page(records, data, Path(options.runs), options.width, read_published())
    file = results / data / "report.html"
    atomic.write_text(file, text)
    for line in skipped:
        print(f"report: left out: {line}")
    print(f"report: {len(records.cells)} records in {file}, {len(text.encode()) / 1e6:.1f} MB")


def page(
    records: ScoredRecords, data: str, runs: Path, width: int = 1200, entries: Sequence[Published] = ()
) -> tuple[str, list[str]]:
    """Render the whole page.

    Args:
        records: at least one.
        data: name of the data.
        runs: folder of the training runs.
        width: maximum width of an image in pixels.
        entries: published numbers.

    Returns:
        HTML, and one warning for each skipped file, also shown on the page.
    """
    cells = sorted(records.cells, key=order)
    indices = {key(cell.record): index for index, cell in enumerate(cells)}
    lines = [commands.command(cell.record) for cell in cells]
    trained_by = [commands.training(cell.record) for cell in cells]
    table = columns.overview(cells, entries)
    panels, undrawn = norms.panels(cells, indices)
    folder = cells[0].file.parent.parent.parent
    looked, torn = looks.looks(folder, width)
    budget = pictures.BUDGET - sum(len(one.source) for one in looked)
    gallery, unread = pictures.gallery(cells, width, budget)
    trainings, damaged = training.trainings(cells, runs)
    skipped = [*records.skipped, *undrawn, *damaged, *torn, *unread]
    text = templates.render(
        data=data,
        command=invocation("report", {"DATA": data}),
        summary=_summary(records),
        skipped=[line[:LONGEST_WARNING] for line in skipped],
        **_summary_of_registers(table),
        **_where(table, records, data),
        tasks=sorted({column.task for column in table.columns}),
        groups=by_task.groups(table),
        against=table.against,
        rows=overview.rows(table, indices, lines, trained_by),
        notes=formats.meanings(table),
        sources=formats.sources_of(table),
        footnotes=table.footnotes,
        board=leaderboard.section(cells, table, indices),
        arms=arms.arms(cells, folder.parent, indices, entries),
        curves=curves.curves(table, indices),
        questions=artifacts.asked(cells, indices),
        panels=panels,
        sinks=artifacts.panels(cells, indices),
        trainings=trainings,
        looks=looked,
        gallery=gallery,
        kinds=record_list.KINDS,
        listed=record_list.listed(cells, lines),
        facts=record_list.facts(cells, lines, runs),
    )
    return text, skipped


def _summary_of_registers(table: Table) -> dict[str, object]:
    """What the first section of the page shows; no rows where no model has a twin without registers."""
    rows = summary.answers(table)
    return {
        "answers": [(summary_formats.texts(row), row.column.task, _models(row)) for row in rows],
        "answer_heads": summary_formats.HEADS,
        "answer_notes": summary_formats.notes(rows),
        "headline": summary.headline(rows),
    }


def _where(table: Table, records: ScoredRecords, data: str) -> dict[str, object]:
    """On which classes and images registers help or hurt; no pairs where no model has a twin without registers."""
    pairs = groups.pairs(summary.answers(table), records.known)
    notes = [note for note in where_formats.notes(pairs, data) if not note.startswith("chart")]
    return {"where": where.sections(pairs), "where_notes": notes}


def _models(row: summary.Answer) -> str:
    """Ids of the two models that a row compares, as the page's filter reads them."""
    return " ".join(score.cells[0].record.model for score in (row.without, row.with_registers))


def order(cell: ScoredRecord) -> tuple[object, ...]:
    """Sort key of records: models as in the tables, then tasks and seeds."""
    return row_of(cell.record).order(), cell.record.task, cell.record.seed


def _summary(records: ScoredRecords) -> str:
    models, tasks = ({getattr(record, name) for record in records.records} for name in ("model", "task"))
    return f"{len(records.cells)} records of {len(models)} models and {len(tasks)} tasks. {formats.made(records)}."


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("report", DESCRIPTION, ReportOptions, main)


if __name__ == "__main__":
    cli()
