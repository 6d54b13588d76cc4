"""Grid on a cluster: its cells are submitted as job arrays and watched until the last has ended."""

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import launch
from benchmarks.grid import cluster, states
from benchmarks.grid.board import Board
from benchmarks.grid.cells import Cell
from benchmarks.grid.make_commands import Commands
from benchmarks.grid.states import State, States
from benchmarks.launch import SlurmJob
from regvit_lightning.errors import Stopped
from regvit_lightning.invocation import invocation
from regvit_lightning.runtime import locks

LOOK = 2.0  # seconds between queries of the queue
LARGEST_ARRAY = 1000  # Slurm's default MaxArraySize is 1001


@dataclass(frozen=True)
class Wanted:
    """Resources requested by every job.

    Attributes:
        partition: partition of the cluster; empty for its default.
        hours: time limit before a job is requeued.
    """

    partition: str
    hours: float


class Cluster:
    """Submits cells and waits for them.

    Args:
        commands: commands of the cells.
        wanted: resources of every job.
        board: progress display.
    """

    def __init__(self, commands: Commands, wanted: Wanted, board: Board) -> None:
        self.commands, self.wanted, self.board = commands, wanted, board
        self.cells = commands.cells
        self.known = States(self.cells)
        self.folder = self.cells.runs / self.cells.data.name / "grid" / "slurm"

    def submit(self, cells: Sequence[Cell]) -> None:
        """Submit cells, each array after the pretraining it depends on; cells submitted by another grid are skipped.

        Raises:
            UserError: Slurm is not available, or rejects a job.
        """
        while (lock := locks.acquire(self.folder / "submission.lock")) is None:  # one grid at a time
            time.sleep(LOOK / 10)
        try:
            self.known.look_again()
            mine = [cell for cell in cells if self.known.at_work(cell) is None]
            for one in [c for c in mine if c.pretrains], [c for c in mine if not c.pretrains]:
                for array in _arrays([(cell, self._job(cell)) for cell in one]):
                    self._submit(array)
        finally:
            lock.release()

    def _submit(self, array: Sequence[tuple[Cell, SlurmJob]]) -> None:
        at = time.time()
        jobs = [job for _, job in array]
        done = launch.submit_array(jobs, launch.prepare(jobs[0]))
        for (cell, _), job in zip(array, done, strict=True):
            cluster.Submitted(job.job_id, str(job.paths.stderr), at).save(self.cells.base(cell))
        after = f", after job {array[0][1].after}" if array[0][1].after else ""
        numbers = done[0].job_id if len(done) == 1 else f"{done[0].job_id} to {done[-1].job_id}"
        self.board.say(f"Slurm job {numbers}{after}: {', '.join(cell.name for cell, _ in array)}")

    def _job(self, cell: Cell) -> SlurmJob:
        program, words = self.commands.program(cell), self.commands.words(cell)
        cpus, after = self.commands.workers(cell) + 1, ""
        if cell.needs and self.known.kept(cell.needs).kind != states.DONE:
            needed = cluster.submitted(self.cells.base(cell.needs))
            after = needed.number if needed else ""
        limits = self.wanted.hours, self.wanted.partition
        return SlurmJob(program, words, self.folder, 1, self.cells.devices(cell), cpus, *limits, after)

    def watch(self, cells: Sequence[Cell]) -> dict[Cell, State]:
        """Wait until all cells have ended; a crashed one is resubmitted once.

        Raises:
            Stopped: Ctrl-C; the jobs continue.
        """
        try:
            return self._watch(list(cells))
        except KeyboardInterrupt:
            advice = f"{invocation('status', {})} shows them, and the same command watches again"
            raise Stopped(f"the submitted jobs continue: {advice}", signal.SIGINT) from None

    def _watch(self, waiting: list[Cell]) -> dict[Cell, State]:
        ended: dict[Cell, State] = {}
        tried: set[Cell] = set()
        looked: dict[Cell, State] = {}
        total = len(waiting)
        while waiting:
            self.known.look_again()
            before, looked = looked, {cell: self.known.of(cell) for cell in waiting}
            again = []
            for cell, state in looked.items():
                # Twice: on a shared file system a record may appear some time after the end of its job.
                at_work = state.kind in (states.RUNNING, states.QUEUED)
                if at_work or cell.needs in waiting or before.get(cell) != state:
                    continue
                retried = cell.needs in tried and ended[cell.needs].kind == states.DONE  # Slurm has cancelled the cell
                if state.kind == states.FAILED and cell not in tried and (retried or self._crashed(cell)):
                    tried.add(cell)
                    again.append(cell)
                    continue
                ended[cell] = state
                waiting.remove(cell)
                self.board.say(f"[{len(ended)}/{total}] {cell.name} {state.kind}: {state.note}".rstrip(": "))
            if again:
                self.board.say(f"once more: {', '.join(cell.name for cell in again)}")
                self.submit(again)
                looked = {cell: state for cell, state in looked.items() if cell not in again}
            self._show(looked, total, ended)
            time.sleep(LOOK)
        return ended

    def _crashed(self, cell: Cell) -> bool:
        job = cluster.submitted(self.cells.base(cell))
        return job is not None and cluster.crashed(job.number)

    def _show(self, looked: dict[Cell, State], total: int, ended: dict[Cell, State]) -> None:
        running = [(cell, state) for cell, state in looked.items() if state.kind == states.RUNNING]
        lines = [f"{len(ended)} of {total} ended, {len(running)} running; Ctrl-C leaves the jobs alone"]
        self.board.show(lines + [f"  {state.note}  {cell.name}" for cell, state in running[:20]])


def _arrays(jobs: Sequence[tuple[Cell, SlurmJob]]) -> list[list[tuple[Cell, SlurmJob]]]:
    """Group jobs that differ only in their arguments."""
    groups: dict[tuple[str, int, int, str], list[tuple[Cell, SlurmJob]]] = {}
    for cell, job in jobs:
        groups.setdefault((job.program, job.devices, job.cpus, job.after), []).append((cell, job))
    size = LARGEST_ARRAY
    return [group[first : first + size] for group in groups.values() for first in range(0, len(group), size)]
