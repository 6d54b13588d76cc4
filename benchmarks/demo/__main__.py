"""Train, evaluate and tabulate small models from nothing: `python -m benchmarks.demo`."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import command, terminal
from benchmarks.annotate.__main__ import annotate, there
from benchmarks.compare.agreement import agreement
from benchmarks.counter import clock
from benchmarks.data import __main__ as data_program
from benchmarks.data.__main__ import Data
from benchmarks.grid import __main__ as grid
from benchmarks.grid.__main__ import Grid
from benchmarks.grid.cells import Cells
from benchmarks.report import __main__ as report
from benchmarks.tables import __main__ as tables
from benchmarks.tables import blocks, columns, published
from benchmarks.tables.scored_records import ScoredRecords, read_scored_records
from benchmarks.tables.where import section_of
from regvit_lightning import settings
from regvit_lightning.settings import setting
from regvit_lightning.values import texts

DESCRIPTION = """Renders or downloads the data, pretrains small models, evaluates them and the untrained floor, prints
the result tables, compares them with the kept results and writes a page of all of it. Records, tables and page go to a
folder of their own, so that everything is really evaluated here. An interrupted demo continues when the command is
given again; a finished one only prints."""

KEPT = Path("results")  # the results that are kept in the repository


@dataclass
class Demo:
    """Settings of the program."""

    grid: str = setting("a file of configs/grids, or the path of one; empty: the data's own, else demo", "")
    data: str = setting("a file of configs/data, or a folder with train/ and val/ class folders", "mini")
    seeds: str = setting("seeds of the grid's file, as 0,1,2, or all", "0")
    jobs: int = setting("cells at once on a machine without GPU, which share its threads", 2, within="[1, 1024]")
    cache: bool = setting("cells share features and imported packages; false shares nothing", True)
    runs: str = setting("folder of the runs", "runs", texts.folder)
    results: str = setting("folder of the results; empty: <runs>/demo", "", texts.folder)


def main(options: Demo, words: list[str]) -> None:
    """Run the program."""
    results = Path(options.results or f"{options.runs}/demo")
    if options.data in settings.names("downloads"):
        data_program.main(Data(options.data, get=options.data), [])
    cells = _run(options, results)
    data = cells.data.name
    _annotate(cells, results)
    everything = read_scored_records(results, data)
    records = _of_grid(everything, cells)
    entries, origin = published.read_published(), tables.origin_of(results, data, records)
    overview = columns.overview(records.cells, entries)
    print(f"\n{tables.printed(overview, origin, terminal.columns() or blocks.WIDEST)}\n")
    for line in _compared(records, results, data):
        terminal.show(line)
    print()
    built = list(tables.tables(everything.cells, entries))
    terminal.show(tables.write(results / data / "tables", built, replace(origin, records=everything)))
    report.main(report.ReportOptions(data, str(results), options.runs), [])
    terminal.show(f"demo: open {results / data / 'report.html'}")


def _run(options: Demo, results: Path) -> Cells:
    """Train and evaluate what is missing, and say what that is."""
    name = options.grid or (options.data if options.data in settings.names("grids") else "demo")
    chosen = Grid(grid=name, data=options.data, seeds=options.seeds, pretrain=True, runs=options.runs)
    started = time.monotonic()
    chosen = replace(chosen, results=str(results), jobs=options.jobs, cache=options.cache)
    cells, ran = grid.run(chosen, echo=False, elsewhere=KEPT)
    took = f"{ran} of {len(cells.cells)} cells took {clock(time.monotonic() - started)}"
    again = f"all {len(cells.cells)} cells were done before; to run them again remove {results} and {cells.trained}"
    print(f"demo: {took if ran else again}")
    return cells


def _annotate(cells: Cells, results: Path) -> None:
    """Look at the test images of the tasks, or take what is kept of them."""
    scored = {section_of(record) for record in read_scored_records(results, cells.data.name).records}
    if sections := [section for section in there(cells.data) if section in scored]:
        for line in annotate(cells.data, results, sections, elsewhere=KEPT):
            print(f"demo: {line}")


def _of_grid(records: ScoredRecords, cells: Cells) -> ScoredRecords:
    """The records of a grid's cells, without others in the same folder."""
    wanted = {(cell.folder_name(), cell.task, cell.seed) for cell in cells.cells}
    return replace(
        records,
        cells=[c for c in records.cells if (c.record.model, c.record.task, c.record.seed) in wanted],
    )


def _compared(records: ScoredRecords, results: Path, data: str) -> list[str]:
    """How the results agree with the kept ones."""
    if results.resolve() == KEPT.resolve():
        return [f"compared with nothing: {results} is the folder of the kept results"]
    if not (KEPT / data / "cells").is_dir():
        return [f"compared with nothing: no results are kept in {KEPT / data}"]
    kept = replace(read_scored_records(KEPT, data, required=False), name=str(KEPT / data))
    first, *more = agreement(kept, records)
    return [f"compared with the kept results: {first}", *(f"  {line}" for line in more)]


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("demo", DESCRIPTION, Demo, main)


if __name__ == "__main__":
    cli()
