"""Result tables from records: `python -m benchmarks.tables data=mini`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import command, terminal
from benchmarks.tables import blocks, columns, formats, paper_tables, published
from benchmarks.tables.columns import Table
from benchmarks.tables.formats import Origin
from benchmarks.tables.published import Published
from benchmarks.tables.scored_records import ScoredRecord, ScoredRecords, data_name, read_scored_records
from regvit_lightning.invocation import invocation
from regvit_lightning.runtime import atomic
from regvit_lightning.settings import setting
from regvit_lightning.values import texts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DESCRIPTION = """Writes <results>/<data>/tables/<table>.{md,csv,tex} from the records and prints the overview: models ×
metrics, the floors first (constant predictors, untrained models), with the change against the twin without registers;
on a terminal as one narrow block for each task.
Beside it the tables of the registers paper under their numbers (table1, table2a, … fig12), those for which there are
records. Where there are artifact reports, norms.png shows the norms of their models beside each other."""


@dataclass
class Tables:
    """Settings of the program."""

    data: str = setting("name of the data, a folder of <results>, or the folder of its images", "mini")
    results: str = setting("folder of the results", "results", texts.folder)


def tables(cells: Sequence[ScoredRecord], entries: Sequence[Published] = ()) -> Iterator[Table]:
    """Build the overview, then the tables of the paper that have any record.

    Args:
        cells: all records of one data set.
        entries: published numbers.
    """
    yield columns.overview(cells, entries)
    yield from paper_tables.build(cells, entries)


def norm_strips(cells: Sequence[ScoredRecord]) -> "Figure | None":
    """Draw Fig. 7: norms of patches after the last block by model, with and without registers side by side.

    Returns:
        None if there is no record of an artifact report.
    """
    reports = [cell.record for cell in paper_tables.report_of_each_model(cells)]
    if not reports:
        return None
    import torch
    from matplotlib.figure import Figure

    from regvit_lightning.figures import artifacts as figures_artifacts

    groups = {record.model: torch.tensor(record.protocol["norms_of_last_block"]) for record in reports}
    figure = Figure(figsize=(2 + 1.8 * len(groups), 3.6), dpi=90, facecolor="white", layout="constrained")
    axes = figure.subplots()
    figures_artifacts.strips(axes, groups)
    axes.set_title("norms of patches after the last block: quantiles, the bar is the median", fontsize=9, loc="left")
    return figure


def main(options: Tables, words: list[str]) -> None:
    """Run the program."""
    results, data = Path(options.results), data_name(options.data)
    records = read_scored_records(results, data)
    overview = columns.overview(records.cells, published.read_published())
    width, origin = terminal.columns(), origin_of(results, data, records)
    if width is None:
        print(formats.markdown(overview, origin))
    else:
        print(blocks.text(overview, width, origin))
    print(write(results, data, records))


def origin_of(results: Path, data: str, records: ScoredRecords) -> Origin:
    """Header of tables of these records in this folder of results."""
    elsewhere = {} if str(results) == Tables.results else {"RESULTS": results}
    return Origin(data, records, invocation("tables", {"DATA": data, **elsewhere}))


def write(results: Path, data: str, records: ScoredRecords) -> str:
    """Write the files of all tables of a data set; returns a line that names them."""
    folder, origin = results / data / "tables", origin_of(results, data, records)
    written: list[str] = []
    for table in tables(records.cells, published.read_published()):
        texts = {"md": formats.markdown(table, origin), "csv": formats.csv(table), "tex": formats.latex(table, origin)}
        for suffix, text in texts.items():
            atomic.write_text(folder / f"{table.name}.{suffix}", text)
        written.append(table.name)
    strips = norm_strips(records.cells)
    if strips is not None:
        atomic.write(folder / "norms.png", lambda file: strips.savefig(file, format="png", metadata={"Software": None}))
    return f"tables: {folder}/<table>.md, .csv, .tex of {', '.join(written)}{'; norms.png' if strips else ''}"


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("tables", DESCRIPTION, Tables, main)


if __name__ == "__main__":
    cli()
