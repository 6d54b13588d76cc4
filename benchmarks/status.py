"""Status of a grid: `python -m benchmarks.status grid=demo`."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks import command, terminal
from benchmarks.grid import cells as grids
from benchmarks.grid.cells import Cell, Cells
from benchmarks.grid.states import ORDER, RUNNING, State
from benchmarks.tables import markdown
from regvit_lightning.settings import setting

DESCRIPTION = """Prints the grid as a table: done, running since, failed, stale or missing, with what is wrong and the
time that is left. Looks at records, locks and the queue of Slurm; runs nothing."""


@dataclass
class Status(grids.Chosen):
    """Settings of the program."""

    devices: int = setting("GPUs, or cells at once, for the estimate of the time that is left", 1, within="[1, 1e5]")


def main(options: Status, words: list[str]) -> None:
    """Run the program."""
    from benchmarks.counter import clock
    from benchmarks.grid import queueing
    from benchmarks.grid.estimates import Estimates
    from benchmarks.grid.make_commands import Commands
    from benchmarks.grid.states import States

    grid = grids.build(options)
    known = States(grid)
    known.check_ids()
    of_cells = {cell: known.of(cell) for cell in grid.cells}
    print(table(grid, of_cells))
    for line in [*notes(of_cells, time.time()), *(f"left out: {line}" for line in grid.left_out)]:
        print(line)
    print(", ".join(f"{count} {kind}" for kind, count in sorted(counts(of_cells).items(), key=_by_order)))
    left = [cell for cell, state in of_cells.items() if state.kind != ORDER[0] and state.runnable]
    estimates, commands = Estimates(grid), Commands(options, grid, force=False)
    if left and estimates.speed():
        jobs = [commands.job(cell, estimates.seconds(cell)) for cell in left]
        begun = {cell.name: time.time() - of_cells[cell].since for cell in left if of_cells[cell].kind == RUNNING}
        seconds = queueing.seconds_left(jobs, begun, options.devices)
        print(time_left(clock(seconds), len(left), options.devices, list(of_cells.values())))


def table(grid: Cells, of_cells: Mapping[Cell, State]) -> str:
    """Format models and seeds × pretraining and tasks as a table, or as a list on a terminal that is too narrow."""
    tasks = list(dict.fromkeys(cell.task for cell in grid.cells))
    in_order = sorted(grid.cells, key=lambda cell: cell.pretrains)  # that of the file, then models without a task
    lines = list(dict.fromkeys((cell.model, cell.seed) for cell in in_order))
    of_place = {(cell.model, cell.seed, cell.task): state.kind for cell, state in of_cells.items()}
    rows = [["model", "seed", *tasks]]
    rows += [[model, str(seed), *(of_place.get((model, seed, task), "–") for task in tasks)] for model, seed in lines]
    wide = markdown.table(rows)
    columns = terminal.columns()
    if columns is None or len(wide.split("\n", 1)[0]) <= columns:
        return wide
    return terminal.fitted("\n".join(_listed(*line, tasks, of_place) for line in lines), columns)


def _listed(model: str, seed: int, tasks: Sequence[str], kinds: Mapping[tuple[str, int, str], str]) -> str:
    """Format a row of the table as lines: tasks that are done, then those running, and so on."""
    lines = [f"{model} seed {seed}"]
    for kind in ORDER:
        names = [task for task in tasks if kinds.get((model, seed, task)) == kind]
        lines += [f"  {kind:<7}  {', '.join(names)}"] if names else []
    return "\n".join(lines)


def notes(of_cells: Mapping[Cell, State], now: float) -> list[str]:
    """Notes on cells, by state; cells with the same note share one."""
    from benchmarks.counter import clock

    cells: dict[State, list[Cell]] = {}
    for cell, state in of_cells.items():
        if state.note:
            cells.setdefault(state, []).append(cell)
    lines = []
    for state in sorted(cells, key=lambda state: ORDER.index(state.kind)):
        since = f" for {clock(now - state.since)}" if state.since else ""
        log = f"; log: {state.log}" if state.log else ""
        names = cells[state][0].name if len(cells[state]) == 1 else _together(cells[state])
        lines.append(f"{state.kind}{since}: {names}: {state.note}{log}")
    return lines


def _together(cells: Sequence[Cell]) -> str:
    models = dict.fromkeys(f"{cell.model} seed {cell.seed}" for cell in cells)
    return f"{len(cells)} cells of {', '.join(models)}"


def time_left(clock: str, cells: int, devices: int, states: Sequence[State]) -> str:
    """Say how long the cells that can run now take, and how many wait for a model or another cell."""
    of = f"{cells} cell{'s' * (cells != 1)} on {devices} device{'s' * (devices != 1)}"
    waiting = sum(not state.runnable for state in states)
    without = f", without {waiting} whose model is missing" if waiting else ""
    return f"about {clock} left for {of}, by what such cells took before{without}"


def counts(of_cells: Mapping[Cell, State]) -> Counter[str]:
    """Number of cells in each state."""
    return Counter(state.kind for state in of_cells.values())


def _by_order(entry: tuple[str, int]) -> int:
    return ORDER.index(entry[0])


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("status", DESCRIPTION, Status, main)


if __name__ == "__main__":
    cli()
