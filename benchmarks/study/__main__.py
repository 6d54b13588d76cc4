"""Run a study and write what it shows: `python -m benchmarks.study study=emergence`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import command, terminal
from benchmarks.grid import __main__ as grid_program
from benchmarks.grid import cells as grids
from benchmarks.grid.__main__ import Grid
from benchmarks.tables import markdown
from regvit_lightning import settings
from regvit_lightning.errors import UserError
from regvit_lightning.settings import setting
from regvit_lightning.values import texts

if TYPE_CHECKING:
    from benchmarks.study.runs import StudyRun
    from regvit_lightning.figures.emergence import Panel

DESCRIPTION = """Trains the models of a study, which is one or several grids, each on its own data, and writes
<results>/studies/<name>/: norms.csv, the norms of the patches over training; study.md, what was found and a table of
all settings; curves.png, .svg and .pdf. Given again, it continues with what is missing, and draws anew what has
finished."""


@dataclass
class Study:
    """Settings of the program."""

    study: str = setting("a file of configs/studies", "emergence")
    seeds: str = setting("seeds of the grids' files, as 0,2, or all", "all")
    gpus: str = setting("numbers of the GPUs, as 0,1,3, or all", "all")
    jobs: int = setting("runs at once on a machine without GPU", 1, within="[1, 1024]")
    train: bool = setting("train what is missing; false: only show what has finished", True)
    page: str = setting("a Markdown page whose block between the markers is replaced by study.md; empty: none", "")
    runs: str = setting("folder of the runs", "runs", texts.folder)
    results: str = setting("folder of the results", "results", texts.folder)


@dataclass
class StudyFile:
    """Contents of a file of configs/studies.

    Attributes:
        parts: the data of each grid, `{grid: data}`, both by name; the first model of the first grid is the setting
            that the others vary.
    """

    parts: dict[str, str] = settings.MISSING


def main(options: Study, words: list[str]) -> None:
    """Run the program."""
    from benchmarks.study import runs

    parts = [
        Grid(grid, data, seeds=options.seeds, pretrain=True, runs=options.runs, results=options.results)
        for grid, data in settings.build(StudyFile, settings.find("studies", options.study)).parts.items()
    ]
    grids_built = [grids.build(part) for part in parts]  # a mistake in any of them before anything runs
    failures = [_train(part, options) for part in parts] if options.train else []
    finished = [run for cells in grids_built for run in runs.finished(cells)]
    if finished:
        done = {(run.model, run.data, run.seed) for run in finished}
        missing = [
            f"{cell.model} on {cells.data.name} seed {cell.seed}"
            for cells in grids_built
            for cell in cells.cells
            if cell.pretrains and (cell.model, cells.data.name, cell.seed) not in done
        ]
        _write(options, finished, missing)
    if failed := [failure for failure in failures if failure]:
        raise UserError("\n".join(failed))
    if not finished:
        raise UserError(
            f"study {options.study}: no run with norms has finished in {options.runs}; leave out train=false"
        )


def _train(part: Grid, options: Study) -> str:
    """Train what is missing of a grid; returns what failed, as other grids are trained nevertheless."""
    part.gpus, part.jobs = options.gpus, options.jobs
    try:
        grid_program.run(part)
    except UserError as error:
        return f"grid {part.grid}: {error}"
    return ""


def _write(options: Study, finished: Sequence["StudyRun"], missing: Sequence[str]) -> None:
    from benchmarks.study import page, runs
    from regvit_lightning.figures import emergence, style
    from regvit_lightning.runtime import atomic

    folder = Path(options.results) / "studies" / options.study
    content = page.text(options.study, finished, missing)
    atomic.write_text(folder / "norms.csv", runs.table(finished))
    style.save(emergence.figure(_panels(finished)), folder / "curves")
    atomic.write_text(folder / "study.md", f"# Study {options.study}\n\n{content}\n![Curves](curves.png)\n")
    if options.page:
        page.insert(Path(options.page), content)
    print(f"\n{markdown.for_terminal(content)}")
    terminal.show(f"study: {folder}: norms.csv, study.md, curves.png, .svg and .pdf")


def _panels(finished: Sequence["StudyRun"]) -> list["Panel"]:
    from benchmarks.study import runs
    from regvit_lightning.figures.emergence import Curve, Panel

    base = finished[0].facts
    return [
        Panel(
            runs.differences(group[0].facts, base),
            [
                Curve(run.registers, [one.step * run.batch for one in run.steps], [one.largest for one in run.steps])
                for run in group
            ],
        )
        for group in runs.by_setting(finished)
    ]


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("study", DESCRIPTION, Study, main)


if __name__ == "__main__":
    cli()
