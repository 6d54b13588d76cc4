"""The command of a cell: `make pretrain` or `make eval` for it."""

import sys
from dataclasses import dataclass

from benchmarks.grid.cells import Cell, Cells, Chosen, recipe_settings, task_module
from benchmarks.grid.queueing import LocalJob


@dataclass(frozen=True)
class Commands:
    """The commands of a grid's cells.

    Attributes:
        chosen: the words of the user.
        cells: the grid.
        force: evaluate cells whose record holds; never trains a trained model anew.
    """

    chosen: Chosen
    cells: Cells
    force: bool

    def program(self, cell: Cell) -> str:
        """`benchmarks.<program>` is run."""
        return "pretrain" if cell.pretrains else "evaluate"

    def words(self, cell: Cell) -> list[str]:
        """Its `key=value` words."""
        chosen = self.chosen
        what = {"model": cell.model, "task": cell.task, "force": self.force}
        if cell.pretrains:
            identity = cell.identity
            what = {"model": identity.name, "recipe": cell.recipe, "devices": chosen.pretrain_devices}
            what |= {"tag": identity.tag} if identity.tag else {}
        what |= {"data": chosen.data, "variant": self.cells.variant, "seed": cell.seed}
        what |= {"runs": chosen.runs, "results": chosen.results}
        return [*(f"{key}={value}" for key, value in what.items()), *cell.words]

    def job(self, cell: Cell, seconds: float) -> LocalJob:
        """The cell as a child process that takes so many seconds."""
        command = [sys.executable, "-m", f"benchmarks.{self.program(cell)}", *self.words(cell)]
        needs = cell.needs.name if cell.needs else ""
        return LocalJob(cell.name, command, self.cells.base(cell), self.cells.devices(cell), needs, seconds)

    def workers(self, cell: Cell) -> int:
        """Decoding processes of each of its devices."""
        if cell.pretrains:
            return int(recipe_settings(cell.recipe, self.cells.variant, cell.words)[0].workers)
        return int(task_module(cell.task, self.cells.variant)[1].workers)
