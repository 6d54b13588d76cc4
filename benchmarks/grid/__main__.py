"""Run a grid of models × tasks × seeds: `python -m benchmarks.grid grid=demo pretrain=true`."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import command
from benchmarks.grid import cells as grids
from benchmarks.grid.cells import Cell, Cells
from regvit_lightning.errors import UserError
from regvit_lightning.settings import check, setting
from regvit_lightning.values import durations

if TYPE_CHECKING:
    from benchmarks.grid.board import Board
    from benchmarks.grid.estimates import Estimates
    from benchmarks.grid.states import States

DESCRIPTION = """Runs the cells of a grid that are missing or stale, each in a process of its own: one on every free
GPU, or as jobs of a Slurm cluster. A cell that fails does not stop the others: a summary at the end names it with its
last line and its log, and the exit status is not 0. Given again, or twice at once, it continues with what is left."""


@dataclass
class Grid(grids.Chosen):
    """Settings of the program."""

    gpus: str = setting("numbers of the GPUs, as 0,1,3, or all", "all")
    jobs: int = setting("cells at once on a machine without GPU", 1, within="[1, 1024]")
    force: bool = setting("evaluate cells although their records hold; nothing is trained again", False)
    launcher: str = setting("local, or slurm: submit the cells as jobs", "local")
    partition: str = setting("of the Slurm cluster; empty takes its default", "")
    cache: bool = setting(
        "cells share features, and imported packages where there is no GPU; false shares nothing", True
    )
    hours: float = setting(
        "time limit of a Slurm job; a training continues after it in the queue",
        24.0,
        durations.hours,
        within="(0, 8760]",
    )


@dataclass(frozen=True)
class Failure:
    """A cell that failed: the last line of its output, and the log with the rest."""

    cell: str
    error: str
    log: str = ""

    def __str__(self) -> str:
        return f"{self.cell}: {self.error}" + (f"\n      log: {self.log}" if self.log else "")


def main(options: Grid, words: list[str]) -> None:
    """Run the program."""
    grid, _ = run(options)
    print(f"grid {options.grid}: all {len(grid.cells)} cells are done")


def run(options: Grid, echo: bool = True, elsewhere: Path | None = None) -> tuple[Cells, int]:
    """Run what is missing or stale of a grid.

    Args:
        options: settings of the program.
        echo: print the output of a cell that runs alone.
        elsewhere: another folder of results, see `Estimates`.

    Returns:
        The grid, and the number of its cells that were run.

    Raises:
        UserError: a cell failed; the others have been run.
    """
    from benchmarks.data.rendering import render
    from benchmarks.grid.board import Board
    from benchmarks.grid.estimates import Estimates
    from benchmarks.grid.states import States

    check(options.launcher in ("local", "slurm"), f"launcher={options.launcher}: expected local or slurm")
    here = options.launcher == "local"
    slots = slots_of(options) if here else []
    grid = grids.build(options)
    for line in grid.left_out:
        print(f"grid: left out: {line}")
    known = States(grid)
    known.check_ids()
    if here:
        check_cluster(grid, known)
    todo, failed = choose(grid, known, options.force)
    done = len(grid.cells) - len(todo) - len(failed)
    print(f"grid {options.grid}: {len(grid.cells)} cells, {done} done, {len(todo)} to do", flush=True)
    if todo:
        render(grid.data)
        estimates = Estimates(grid, elsewhere=elsewhere)
        board = Board(f"grid {options.grid}", echo=echo and len(slots) == 1)
        failed += _run_here(options, estimates, todo, slots, board) if here else _run_on_cluster(options, grid, todo)
    if failed:
        lines = "\n  ".join(map(str, failed))
        raise UserError(f"{len(failed)} of {len(grid.cells)} cells failed; the others are done:\n  {lines}")
    return grid, len(todo)


def choose(grid: Cells, known: "States", force: bool) -> tuple[list[Cell], list[Failure]]:
    """Select the cells to run, and those whose model is missing; prints which are stale and why."""
    from benchmarks.grid import states

    todo: list[Cell] = []
    failed: list[Failure] = []
    for cell in grid.cells:
        state = known.kept(cell)
        if not state.runnable:
            failed.append(Failure(cell.name, state.note))
        elif state.kind != states.DONE or cell.needs in todo or (force and not cell.pretrains):
            todo.append(cell)
        if state.kind == states.STALE:
            print(f"grid: {cell.name} runs again: {state.note}")
    return todo, failed


def check_cluster(grid: Cells, known: "States") -> None:
    """Raise `UserError` while Slurm jobs work on cells of the grid, which would run twice."""
    jobs = {cell.name: state.note for cell in grid.cells if (state := known.on_cluster(cell))}
    if jobs:
        first = ", ".join(f"{name} ({note})" for name, note in list(jobs.items())[:3])
        advice = "give LAUNCHER=slurm to watch them, or scancel them"
        raise UserError(f"Slurm works on {len(jobs)} cells of this grid: {first}; {advice}")


def slots_of(options: Grid) -> list[str]:
    """Slots for parallel cells on this machine: GPU indices, or '' for each share of the CPU cores.

    Raises:
        SettingsError: a GPU does not exist.
    """
    import torch

    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    there = named.split(",")[:count] if named else [str(number) for number in range(count)]
    if options.gpus == "all":
        return there or [""] * options.jobs
    wanted = options.gpus.split(",")
    missing = [gpu for gpu in wanted if gpu not in there]
    has = f"has {', '.join(there)}" if there else "has no GPU"
    check(not missing, f"gpus={options.gpus}: this machine {has}; give numbers such as 0,1,3, or all")
    return wanted


def _run_here(
    options: Grid, estimates: "Estimates", todo: Sequence[Cell], slots: Sequence[str], board: "Board"
) -> list[Failure]:
    """Run cells as child processes on the devices of this machine."""
    from benchmarks.grid import states
    from benchmarks.grid.make_commands import Commands
    from benchmarks.grid.nursery import Nursery
    from benchmarks.grid.workers import Machine, Workers

    grid, known = estimates.cells, estimates.states
    short = [cell.name for cell in todo if grid.devices(cell) > len(slots)]
    check(not short, f"pretrain_devices={options.pretrain_devices}: the grid runs on {len(slots)} device(s) here")
    alone = slots[0] != "" or all(grid.devices(cell) == 1 for cell in todo)
    check(alone, f"pretrain_devices={options.pretrain_devices}: this machine has no GPU")
    commands = Commands(options, grid, options.force, options.cache)
    of_name = {cell.name: cell for cell in todo}
    jobs = [commands.job(cell, estimates.seconds(cell)) for cell in todo]
    environment = _environment(slots)
    forks = options.cache and slots[0] == "" and len(jobs) > 1
    machine = Machine(slots, grid.runs / "gpus", environment, Nursery(environment) if forks else None)
    with board, machine.nursery or nullcontext():
        workers = Workers(
            jobs,
            machine,
            board,
            held=lambda job: not options.force and known.kept(of_name[job.name]).kind == states.DONE,
            result=lambda job: _result(known, of_name[job.name]),
        )
        outcomes = workers.run()
    return [Failure(name, outcomes[name].error, outcomes[name].log) for name in of_name if outcomes[name].error]


def _result(known: "States", cell: Cell) -> str:
    """The first metric of a cell's record, with its interval: `top1 58.4 [55.2, 61.4] %`; '' for a pretraining."""
    from regvit_lightning import records

    if cell.pretrains:
        return ""
    try:
        record = records.read_record(known.record(cell))
    except UserError:
        return ""
    for metric, facts in record.columns.items():
        if metric in record.metrics:
            numbers = [record.metrics[metric], *record.intervals.get(metric, ())]
            value, *ends = (f"{number:.{facts['decimals']}f}" for number in numbers)
            return " ".join([metric, value, *([f"[{', '.join(ends)}]"] if ends else []), facts["unit"]])
    return ""


def _environment(slots: Sequence[str]) -> dict[str, str]:
    """Environment of the child processes: several on a machine without GPU share its cores."""
    own = dict(os.environ)
    if len(slots) > 1 and slots[0] == "":
        own.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // len(slots), 1)))
    return own


def _run_on_cluster(options: Grid, grid: Cells, todo: Sequence[Cell]) -> list[Failure]:
    """Run cells as arrays of Slurm jobs."""
    from benchmarks.grid import states
    from benchmarks.grid.board import Board
    from benchmarks.grid.make_commands import Commands
    from benchmarks.grid.submission import Cluster, Wanted

    with Board(f"grid {options.grid}", echo=False) as board:
        wanted = Wanted(options.partition, options.hours)
        jobs = Cluster(Commands(options, grid, options.force, options.cache), wanted, board)
        jobs.submit(todo)
        outcomes = jobs.watch(todo)
    return [Failure(cell.name, state.note, state.log) for cell, state in outcomes.items() if state.kind != states.DONE]


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("grid", DESCRIPTION, Grid, main)


if __name__ == "__main__":
    cli()
