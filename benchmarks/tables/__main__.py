"""Result tables from records: `python -m benchmarks.tables data=mini`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import command
from benchmarks.tables import columns, formats, latex, markdown, paper_tables, published, summary, summary_formats
from benchmarks.tables.columns import Table
from benchmarks.tables.formats import Origin
from benchmarks.tables.published import Published
from benchmarks.tables.scored_records import ScoredRecord, data_name, read_scored_records
from regvit_lightning.invocation import invocation
from regvit_lightning.runtime import atomic
from regvit_lightning.settings import setting
from regvit_lightning.values import texts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DESCRIPTION = """Writes <results>/<data>/tables/<table>.{md,csv,tex} from the records. Prints the summary, whether
registers help for each family of models and each task, and the overview: models × metrics, the floors first (constant
predictors, untrained models), with the change against the twin without registers. Beside them the tables of the
registers paper under their numbers (table1, table2a, … fig12), those for which there are records. Where there are
artifact reports, norms.png shows the norms of their models beside each other."""

OVERVIEW = "overview"
PRINTED = (summary_formats.NAME, OVERVIEW)


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


def files(cells: Sequence[ScoredRecord], origin: Origin) -> Iterator[tuple[str, dict[str, str]]]:
    """Name of each table, and its text by suffix; the summary first, if any model has a twin without registers."""
    for table in tables(cells, published.read_published()):
        if table.name == OVERVIEW and summary.answers(table):
            yield summary_formats.NAME, summary_formats.formats(table, origin)
        yield (
            table.name,
            {
                "md": formats.markdown(table, origin),
                "csv": formats.csv(table),
                "tex": latex.latex(table, origin),
            },
        )


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
    folder, origin = results / data / "tables", Origin(data, records, invocation("tables", {"DATA": data}))
    written: list[str] = []
    for name, formatted in files(records.cells, origin):
        for suffix, text in formatted.items():
            atomic.write_text(folder / f"{name}.{suffix}", text)
        if name in PRINTED:
            print(markdown.for_terminal(formatted["md"]))
        written.append(name)
    strips = norm_strips(records.cells)
    if strips is not None:
        atomic.write(folder / "norms.png", lambda file: strips.savefig(file, format="png", metadata={"Software": None}))
    print(f"tables: {folder}/<table>.md, .csv, .tex of {', '.join(written)}{'; norms.png' if strips else ''}")


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("tables", DESCRIPTION, Tables, main)


if __name__ == "__main__":
    cli()
