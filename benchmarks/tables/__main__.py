"""Result tables from records: `python -m benchmarks.tables data=mini`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import command
from benchmarks.tables import columns, formats, markdown, paper_figures, paper_tables, published
from benchmarks.tables.columns import Table
from benchmarks.tables.formats import Origin
from benchmarks.tables.published import Published
from benchmarks.tables.scored_records import ScoredRecord, data_name, read_scored_records
from regvit_lightning.invocation import invocation
from regvit_lightning.runtime import atomic
from regvit_lightning.settings import setting
from regvit_lightning.values import texts

DESCRIPTION = """Writes <results>/<data>/tables/<table>.{md,csv,tex} from the records and prints the overview: models ×
metrics, the floors first (constant predictors, untrained models), with the change against the twin without registers.
Beside it the tables of the registers paper under their numbers (table1, table2a, … fig12), those for which there are
records. Figs. 7, 8 and 12 are drawn too (fig7.pdf, fig7.png, …): norms, metrics and cost of models with and without
registers."""


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


def main(options: Tables, words: list[str]) -> None:
    """Run the program."""
    results, data = Path(options.results), data_name(options.data)
    records = read_scored_records(results, data)
    folder, origin = results / data / "tables", Origin(data, records, invocation("tables", {"DATA": data}))
    built = list(tables(records.cells, published.read_published()))
    for table in built:
        shown = formats.markdown(table, origin)
        texts = {"md": shown, "csv": formats.csv(table), "tex": formats.latex(table, origin)}
        for suffix, text in texts.items():
            atomic.write_text(folder / f"{table.name}.{suffix}", text)
        if table is built[0]:
            print(markdown.for_terminal(shown))
    drawn = draw(folder, records.cells, built)
    figures = f"; figures .{', .'.join(paper_figures.FORMATS)} of {', '.join(drawn)}" if drawn else ""
    print(f"tables: {folder}/<table>.md, .csv, .tex of {', '.join(table.name for table in built)}{figures}")


def draw(folder: Path, cells: Sequence[ScoredRecord], built: Sequence[Table]) -> list[str]:
    """Write the figures of the paper that compare models beside the tables, and return their names."""
    drawn = []
    for name, figure in paper_figures.figures(cells, built):
        from regvit_lightning.figures import style

        style.save(figure, folder / name, paper_figures.FORMATS)
        drawn.append(name)
    return drawn


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("tables", DESCRIPTION, Tables, main)


if __name__ == "__main__":
    cli()
