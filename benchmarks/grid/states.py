"""State of every cell of a grid: done, running, failed, stale or missing, and why."""

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from benchmarks.grid import cluster, outcomes
from benchmarks.grid.cells import Cell, Cells, recipe_settings, task_module
from benchmarks.grid.fingerprints import Fingerprints
from regvit_lightning import records
from regvit_lightning.data import digest
from regvit_lightning.errors import UserError
from regvit_lightning.evaluation import Evaluation
from regvit_lightning.models import EXPORT, names, origins
from regvit_lightning.runtime import locks
from regvit_lightning.settings import check

DONE, RUNNING, QUEUED, FAILED, STALE, MISSING = "done", "running", "queued", "failed", "stale", "missing"
ORDER = (DONE, RUNNING, QUEUED, FAILED, STALE, MISSING)

# Settings that may differ between a pretraining and the grid: number of devices, and hardware-chosen precision.
FREE_IN_PRETRAINING = {"devices", "precision"}


@dataclass(frozen=True)
class State:
    """State of a cell.

    Attributes:
        kind: one of `ORDER`.
        note: the device, the reason, or the error.
        since: start of a running cell, in seconds since 1970.
        log: log of a running or failed cell.
        runnable: the grid can run the cell; False if its model is missing.
    """

    kind: str
    note: str = ""
    since: float = 0.0
    log: str = ""
    runnable: bool = True


class States:
    """Determines the states of a grid's cells; a model is loaded only if its files have changed since the last time."""

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        self.queue = cluster.Queue()
        self._fingerprints = Fingerprints(cells.trained)
        self._digests = cache(partial(digest.digests, cells.data))

    def look_again(self) -> None:
        """Query Slurm and look through the images again; everything else is read on each call anyway."""
        self.queue = cluster.Queue()
        self._digests.cache_clear()

    def of(self, cell: Cell) -> State:
        """State of a cell."""
        return self.at_work(cell) or self.kept(cell)

    def kept(self, cell: Cell) -> State:
        """State of a cell by its stored files, regardless of whether a process is working on it."""
        state = self.pretraining(cell) if cell.pretrains else self.evaluation(cell)
        if state.kind == DONE or not state.runnable:
            return state
        made = self._made(cell)
        outcome = outcomes.read_outcome(self.cells.file(cell, ".json"))
        if outcome is not None and outcome.error and outcome.ended > made:
            return State(FAILED, outcome.error, log=outcome.log)
        job = cluster.submitted(self.cells.base(cell))
        return State(FAILED, cluster.why(job), log=job.log) if job and job.at > made else state

    def evaluation(self, cell: Cell) -> State:
        """State of an evaluation: whether its record exists and is valid."""
        try:
            missing = self._missing_model(cell)
            if missing:
                return missing
            file = self.record(cell)
            if not file.exists():
                return State(MISSING)
            task, chosen, free = task_module(cell.task, self.cells.variant)
            evaluation = Evaluation(cell.task, task, chosen, self.cells.data, cell.seed, free)
            weights = partial(self._weights, cell.model, cell.seed, chosen.untrained_size)
            digests = partial(self._digests, evaluation.section)
            reason = evaluation.stale(file, weights, digests, self.cells.folder(cell))
        except UserError as error:  # a model that cannot be read
            return State(MISSING, str(error), runnable=False)
        return State(STALE, reason) if reason else State(DONE)

    def pretraining(self, cell: Cell) -> State:
        """State of a pretraining: whether its run is finished and matches its recipe."""
        from regvit_lightning.pretrain.run import Run, changes

        cells = self.cells
        options, free = recipe_settings(cell.recipe, cells.variant, cell.words)
        folder = cells.folder(cell)
        name, label = cell.identity.name, cell.identity.label
        run = Run(name, label, options, cells.data, cell.seed, folder, cells.pretrain_devices)
        ignored = FREE_IN_PRETRAINING if free else {"devices"}
        changed = [text for text in changes(run, self._digests) or [] if text.partition(":")[0] not in ignored]
        if changed:
            return State(STALE, f"settings changed: {'; '.join(changed)}")
        return State(DONE if (folder / EXPORT).exists() else MISSING)

    def check_ids(self) -> None:
        """Check that no two cells write the same record or train the same model; models given as files are loaded.

        Raises:
            SettingsError: two do, such as the same cell listed twice or two files of one name.
        """
        owners: dict[Path, Cell] = {}
        for cell in self.cells.cells:
            try:
                target = self.cells.folder(cell) if cell.pretrains else self.record(cell)
            except UserError:  # a model that cannot be read, which its cell reports
                continue
            other = owners.setdefault(target, cell)
            twice = f"{cell.name} is listed twice"
            if other.model != cell.model:
                twice = f"{other.model} and {cell.model} have the same id, so both would write {target}"
            check(other is cell, f"{twice}; take one out of the grid, or rename its file")

    def record(self, cell: Cell) -> Path:
        """Path of the record of an evaluation."""
        data = self.cells.data.name
        return records.path(self.cells.results, data, self._model_id(cell.model), cell.task, cell.seed)

    def _made(self, cell: Cell) -> float:
        """Time at which the cell was last completed, in seconds since 1970; 0 if never."""
        try:
            made = self.cells.folder(cell) / EXPORT if cell.pretrains else self.record(cell)
            return made.stat().st_mtime
        except OSError:
            return 0.0

    def at_work(self, cell: Cell) -> State | None:
        """State of a cell that is being worked on; None if no process is."""
        held = locks.holder(locks.beside(self.cells.folder(cell)))
        if held is None:
            return self.on_cluster(cell)
        by_grid = "device" in held
        where = f"{held['device']} of {held.get('host', 'some machine')}" if by_grid else locks.in_words(held)
        return State(RUNNING, where, locks.since(held), str(self.cells.file(cell, ".log")) if by_grid else "")

    def on_cluster(self, cell: Cell) -> State | None:
        """State of a cell with a pending or running Slurm job; None if there is none."""
        job = cluster.submitted(self.cells.base(cell))
        queued = self.queue.find(job.number) if job else None
        if job is None or queued is None:
            return None
        kind = RUNNING if queued.running else QUEUED
        return State(kind, f"Slurm job {job.number}, {queued.words}", queued.since, job.log)

    def _missing_model(self, cell: Cell) -> State | None:
        """State of a cell whose trained model or register neurons are missing, with how to obtain them; else None."""
        from regvit_lightning.models import register_neurons, sources

        plain, intervention = names.intervention(cell.model)
        try:
            if not (plain.startswith(origins.ELSEWHERE) or origins.is_file(plain)):
                sources.trained(plain, self.cells.trained, cell.seed)
        except UserError as error:
            if cell.needs:
                return State(MISSING, f"after {cell.needs.name}")
            return State(MISSING, str(error), runnable=False)
        try:
            if intervention is not None:
                register_neurons.file_of(plain, self.cells.trained, cell.seed)
        except UserError as error:
            return State(MISSING, str(error), runnable=False)
        return None

    def _model_id(self, model: str) -> str:
        return self._fingerprints.of(model, 0, 0)[0] if origins.is_file(model) else origins.record_id(model)

    def _weights(self, model: str, seed: int, untrained_size: int) -> str:
        untrained = model.startswith("random-")
        return self._fingerprints.of(model, seed, untrained_size if untrained else 0)[1]
