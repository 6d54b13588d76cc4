"""Commands that run cells, equivalent to `make pretrain` or `make eval`."""

import sys
from dataclasses import dataclass

from benchmarks.grid.cells import Cell, Cells, Chosen, recipe_settings, task_module
from benchmarks.grid.queueing import LocalJob


@dataclass(frozen=True)
class Commands:
    """Builds the commands of a grid's cells.

    Attributes:
        chosen: settings given by the user.
        cells: the grid.
        force: also evaluate cells with a valid record; never retrains a model.
        cache: evaluations share features.
    """

    chosen: Chosen
    cells: Cells
    force: bool
    cache: bool = True

    def program(self, cell: Cell) -> str:
        """Name of the cell's program in `benchmarks`."""
        return "pretrain" if cell.pretrains else "evaluate"

    def words(self, cell: Cell) -> list[str]:
        """`key=value` arguments of the cell's program."""
        chosen = self.chosen
        what = {"model": cell.model, "task": cell.task, "force": self.force} | ({} if self.cache else {"cache": False})
        if cell.pretrains:
            identity = cell.identity
            what = {"model": identity.name, "recipe": cell.recipe, "devices": chosen.pretrain_devices}
            what |= {"tag": identity.tag} if identity.tag else {}
        what |= {"data": chosen.data, "variant": self.cells.variant, "seed": cell.seed}
        what |= {"runs": chosen.runs, "results": chosen.results}
        return [*(f"{key}={value}" for key, value in what.items()), *cell.words]

    def job(self, cell: Cell, seconds: float) -> LocalJob:
        """Job that runs the cell as a child process, expected to take `seconds`."""
        command = [sys.executable, "-m", f"benchmarks.{self.program(cell)}", *self.words(cell)]
        needs = cell.needs.name if cell.needs else ""
        folders = self.cells.base(cell), self.cells.folder(cell)
        return LocalJob(cell.name, command, *folders, self.cells.devices(cell), needs, seconds)

    def workers(self, cell: Cell) -> int:
        """Number of decoding processes for each device of a cell."""
        if cell.pretrains:
            return int(recipe_settings(cell.recipe, self.cells.variant, cell.words)[0].workers)
        return int(task_module(cell.task, self.cells.variant)[1].workers)
