"""Result tables from records: `python -m benchmarks.tables data=mini`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from benchmarks import command, terminal
from benchmarks.tables import (
    arm_speeds,
    arms_table,
    blocks,
    columns,
    formats,
    latex,
    leaderboard,
    leaderboard_formats,
    paper_figures,
    paper_tables,
    published,
    questions,
    questions_formats,
    released_table,
    robustness_table,
    row_forms,
    summary,
    summary_formats,
    where,
    where_figures,
    where_formats,
)
from benchmarks.tables.arm_speeds import ArmSpeed
from benchmarks.tables.columns import Table
from benchmarks.tables.formats import Origin
from benchmarks.tables.published import Published
from benchmarks.tables.scored_records import ScoredRecord, ScoredRecords, data_name, read_scored_records
from regvit_lightning.invocation import invocation
from regvit_lightning.runtime import atomic
from regvit_lightning.settings import setting
from regvit_lightning.values import texts

DESCRIPTION = """Writes <results>/<data>/tables/<table>.{md,csv,tex} from the records. Prints the summary, whether
registers help for each family of models and each task, and the overview: models × metrics, the floors first (constant
predictors, untrained models), with the change against the twin without registers; on a terminal the overview is one
narrow block for each task. The answers of the artifact reports to three questions are questions.{md,csv,tex}: high
norms? sinks, of which kind? are patches local? leaderboard.{md,csv,tex} ranks models in every column and over those
that all have, and puts accuracy against GFLOPs. Beside them the tables of the registers paper under their numbers
(table1, table2a, … fig12), and those of robustness, of the arms and of released models, those for which there are
records. Figs. 7, 8 and 12 are drawn too (fig7.pdf, fig7.png, …): norms, metrics and cost with and without registers."""

OVERVIEW = "overview"


@dataclass
class Tables:
    """Settings of the program."""

    data: str = setting("name of the data, a folder of <results>, or the folder of its images", "mini")
    results: str = setting("folder of the results", "results", texts.folder)


def tables(
    cells: Sequence[ScoredRecord], entries: Sequence[Published] = (), speeds: Mapping[str, ArmSpeed] | None = None
) -> Iterator[Table]:
    """Build the overview, then the tables of the paper, of robustness, of the arms and of released models, if any.

    Args:
        cells: all records of one data set.
        entries: published numbers.
        speeds: measured speed of models with an arm, by name.
    """
    overview = columns.overview(cells, entries)
    yield overview
    yield from paper_tables.build(cells, entries)
    yield from robustness_table.build(cells, entries)
    if arms := arms_table.build(cells, entries, speeds):
        yield arms
    if released := released_table.build(cells, overview, entries):
        yield released


def files(built: Sequence[Table], origin: Origin) -> Iterator[tuple[str, dict[str, str]]]:
    """Name of each table, and its text by suffix.

    The summary is first, if any model has a twin without registers, and where registers help; then the three questions
    of artifact reports, and the leaderboard with its rows in the forms of two other collections.
    """
    for table in built:
        if table.name == OVERVIEW and summary.answers(table):
            yield summary_formats.NAME, summary_formats.formats(table, origin)
        if table.name == OVERVIEW and (compared := where.pairs(summary.answers(table), origin.records.known)):
            yield where_formats.NAME, where_formats.formats(compared, origin)
        if table.name == OVERVIEW and (asked := questions.rows(origin.records.cells)):
            yield questions_formats.NAME, questions_formats.formats(asked, origin)
        if table.name == OVERVIEW and (board := leaderboard.build(origin.records.cells, table)):
            yield leaderboard_formats.NAME, leaderboard_formats.formats(board, origin)
            yield row_forms.EFFICIENT_PROBING, {"csv": row_forms.efficient_probing(origin.records.cells)}
            yield row_forms.VISBENCH, {"csv": row_forms.visbench(origin.records.cells)}
        yield (
            table.name,
            {
                "md": formats.markdown(table, origin),
                "csv": formats.csv(table),
                "tex": latex.latex(table, origin),
            },
        )


def main(options: Tables, words: list[str]) -> None:
    """Run the program."""
    results, data = Path(options.results), data_name(options.data)
    records = read_scored_records(results, data)
    speeds = arm_speeds.read_speeds(results)
    built = list(tables(records.cells, published.read_published(), speeds))
    origin = origin_of(results, data, records)
    width = terminal.columns()
    print(printed(built[0], origin, width) if width else plain(built[0], origin))
    print(write(results / data / "tables", built, origin))


def origin_of(results: Path, data: str, records: ScoredRecords) -> Origin:
    """Header of tables of these records in this folder of results."""
    elsewhere = {} if str(results) == Tables.results else {"RESULTS": results}
    return Origin(data, records, invocation("tables", {"DATA": data, **elsewhere}))


def plain(overview: Table, origin: Origin) -> str:
    """Summary, if any model has a twin without registers, the three questions, and the overview, as Markdown."""
    apart = (where_formats.NAME, leaderboard_formats.NAME)
    return "\n".join(text["md"] for name, text in files([overview], origin) if "md" in text and name not in apart)


def printed(overview: Table, origin: Origin, width: int) -> str:
    """Overview for a terminal of `width` characters, the three questions, the leaderboard, then the summary.

    Of the summary it has how often registers help or hurt, and each clear case.
    """
    answers = summary.answers(overview)
    rows = [summary_formats.texts(row) for row in answers]
    clear = [f"  {row.verdict}: {row.family} {row.task} {row.difference} {row.because}" for row in rows]
    lines = [line for line, row in zip(clear, answers, strict=True) if row.verdict != summary.UNCLEAR]
    head = [f"{summary_formats.TITLE} {summary.headline(answers)}"] if answers else []
    last = terminal.fitted("\n".join([*head, *lines]), min(width, blocks.WIDEST))
    asked = questions_formats.lines(questions.rows(origin.records.cells))
    artifacts = terminal.fitted("\n".join([f"{questions_formats.TITLE}."] * bool(asked) + asked), width)
    board = leaderboard.build(origin.records.cells, overview)
    ranks = terminal.fitted("\n".join(leaderboard_formats.lines(board)), width) if board else ""
    parts = [blocks.text(overview, width, origin), artifacts, ranks, last, _where(origin, answers, width)]
    return "\n\n".join(filter(None, parts))


def _where(origin: Origin, answers: Sequence[summary.Answer], width: int) -> str:
    """On which classes and images registers help or hurt, for a terminal; empty where no model has a twin."""
    lines = where_formats.lines(where.pairs(answers, origin.records.known), origin.data)
    return terminal.fitted("\n".join([where_formats.TITLE] * bool(lines) + lines), min(width, blocks.WIDEST))


def write(folder: Path, built: Sequence[Table], origin: Origin) -> str:
    """Write the files of all tables of a data set and the figures of the paper; returns a line that names them."""
    written = []
    for name, formatted in files(built, origin):
        for suffix, text in formatted.items():
            atomic.write_text(folder / f"{name}.{suffix}", text)
        written += [name] * ("md" in formatted)
    drawn = draw(folder, origin.records, built)
    figures = f"; figures .{', .'.join(paper_figures.FORMATS)} of {', '.join(drawn)}" if drawn else ""
    return f"tables: {folder}/<table>.md, .csv, .tex of {', '.join(written)}{figures}"


def draw(folder: Path, records: ScoredRecords, built: Sequence[Table]) -> list[str]:
    """Write the figures that compare models beside the tables, and return their names."""
    drawn = []
    compared = where.pairs(summary.answers(built[0]), records.known)
    for name, figure in chain(paper_figures.figures(records.cells, built), where_figures.figures(compared)):
        from regvit_lightning.figures import style

        style.save(figure, folder / name, paper_figures.FORMATS)
        drawn.append(name)
    return drawn


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("tables", DESCRIPTION, Tables, main)


if __name__ == "__main__":
    cli()
