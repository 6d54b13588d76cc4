"""Run a grid of cells, models × tasks × seeds: `python -m benchmarks.grid grid=demo pretrain=true`."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks import command, evaluate, pretrain
from regvit_lightning import settings
from regvit_lightning.errors import UserError, one_line
from regvit_lightning.settings import setting

DESCRIPTION = """Runs the cells of a grid one after another; cells whose record holds are skipped. A cell that fails
does not stop the others: a summary at the end names it, and the exit status is not 0."""


@dataclass
class Grid:
    """Settings of the program."""

    grid: str = setting("a file of configs/grids", "demo")
    data: str = setting("a file of configs/data, or a folder with train/ and val/ class folders", "mini")
    pretrain: bool = setting("first pretrain the models that are missing", False)
    runs: str = setting("folder of the runs", "runs")
    results: str = setting("folder of the results", "results")


@dataclass
class Cells:
    """A file of configs/grids."""

    models: list[str] = settings.MISSING
    tasks: list[str] = settings.MISSING
    seeds: list[int] = settings.MISSING


def main(options: Grid, words: list[str]) -> None:
    """Run the program."""
    cells = settings.build(Cells, settings.find("grids", options.grid))
    failed: list[str] = []
    for seed in cells.seeds:
        for model in cells.models:
            recipe, _, name = model.partition("-")
            if options.pretrain and recipe in settings.names("recipes"):
                job = pretrain.Pretrain(name, recipe, options.data, seed=seed, runs=options.runs)
                job.results = options.results
                if not _succeeds(f"pretrain {model} seed {seed}", partial(pretrain.main, job, []), failed):
                    continue
            for task in cells.tasks:
                cell = evaluate.Evaluate(model, task, options.data, seed=seed, runs=options.runs)
                cell.results = options.results
                _succeeds(f"{model} {task} seed {seed}", partial(evaluate.main, cell, []), failed)
    if failed:
        raise UserError(f"{len(failed)} failed; the others are done:\n  " + "\n  ".join(failed))


def _succeeds(name: str, job: Callable[[], None], failed: list[str]) -> bool:
    try:
        job()
    except UserError as error:
        failed.append(f"{name}: {error}")
        return False
    except Exception as error:  # a defect, or the device ran out of memory: the other cells go on
        traceback.print_exc()
        failed.append(f"{name}: {one_line(error)}")
        return False
    return True


def cli() -> None:
    """Run the program with the words of the command line."""
    command.run("grid", DESCRIPTION, Grid, main)


if __name__ == "__main__":
    cli()
