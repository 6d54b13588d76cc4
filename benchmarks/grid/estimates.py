"""Estimated time and memory of a cell: measured if it has run before, else computed from its FLOPs and its shapes.

FLOPs are twice the multiply-adds of the backbone's blocks, times three if it is trained. Memory is that of
`regvit_lightning/tasks/footprint` for an evaluation, and that of `training_memory` for a pretraining.
"""

import statistics
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.data.image_counts import Counts
from benchmarks.grid import outcomes, training_memory
from benchmarks.grid.cells import PRETRAINING, Cell, Cells, recipe_settings, task_module
from benchmarks.grid.states import States
from benchmarks.throughput import flops
from regvit_lightning import records
from regvit_lightning.analysis import cost
from regvit_lightning.data.mini import scenes
from regvit_lightning.errors import UserError
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.feature_maps import FeatureMaps
from regvit_lightning.tasks.footprint import cells as footprints
from regvit_lightning.tasks.footprint.case import Case, Footprint, Part, shape_of
from regvit_lightning.work import Work

IMAGENET_CLASSES = 1000
CLASSES = {  # of the published sets with classes
    "places205": 205,
    "aircraft": 100,
    "cifar10": 10,
    "cifar100": 100,
    "cub": 200,
    "caltech101": 102,
    "cars": 196,
    "dtd": 47,
    "flowers": 102,
    "food101": 101,
    "pets": 37,
    "sun397": 397,
    "voc07cls": 20,
}
FALLBACK_SPEED = 1e11  # FLOP/s if nothing has run yet: only determines the order of the cells


@dataclass(frozen=True)
class Estimate:
    """Computation and memory of a cell.

    Attributes:
        flops: total FLOPs.
        memory: peak memory on each device, and on the host for each of them.
    """

    flops: float
    memory: Footprint


class Estimates:
    """Estimates of the cells of a grid.

    Args:
        cells: the grid.
        given: image counts, see `Counts`.
        elsewhere: another folder of results, whose records say how long a cell takes that has not run here.
    """

    def __init__(self, cells: Cells, given: Mapping[str, int] | None = None, elsewhere: Path | None = None) -> None:
        self.cells, self.states = cells, States(cells)
        self.elsewhere = States(replace(cells, results=elsewhere)) if elsewhere else None
        self.counts = Counts(cells.data, given or {})
        self.shape = cache(self._shape)
        self.work = cache(self._work)
        self.estimate = cache(self._estimate)
        self.reads = cache(self._reads)
        self.measured = cache(self._measured)

    def seconds(self, cell: Cell) -> float:
        """Time of the cell's last run, or the estimate from its FLOPs and the speed of cells that have run."""
        return self.measured(cell) or self._flops(cell) / (self.speed(cell.task) or FALLBACK_SPEED)

    def speed(self, task: str = "") -> float:
        """Measured FLOP/s of the cells that have run; 0 if none has.

        Of those of one task, if any of its cells have run, else of the tasks on the same images, else of all.
        """
        ran = {cell: seconds for cell in self.cells.cells if (seconds := self.measured(cell))}
        rates = {cell: self._flops(cell) / seconds for cell, seconds in ran.items()}
        measured = [(cell.task, rate) for cell, rate in rates.items() if rate]
        of_task = [rate for other, rate in measured if other == task]
        alike = [rate for other, rate in measured if task and self.reads(other) == self.reads(task)]
        return statistics.median(of_task or alike or [rate for _, rate in measured] or [0.0])

    def _flops(self, cell: Cell) -> float:
        """FLOPs of a cell; 0 if unknown because images cannot be counted or the model cannot be read."""
        try:
            return self.estimate(cell).flops
        except UserError:
            return 0.0

    def _measured(self, cell: Cell) -> float:
        """Seconds that the cell took when it last completed; 0 if it never has."""
        outcome = outcomes.read_outcome(self.cells.file(cell, ".json"))
        if outcome is not None and not outcome.error:
            return outcome.seconds
        if cell.pretrains:
            return 0.0
        return _seconds(self.states, cell) or (_seconds(self.elsewhere, cell) if self.elsewhere else 0.0)

    def devices(self) -> list[str]:
        """Names of the hardware on which evaluations of the grid have run, from their records."""
        names = []
        for cell in self.cells.cells:
            if not cell.pretrains:
                with suppress(UserError):
                    names.append(str(records.read_record(self.states.record(cell)).provenance["device"]))
        return sorted(set(names))

    def _work(self, cell: Cell) -> tuple[Work, Any]:
        """Work of the cell, and the settings of its recipe or task."""
        from regvit_lightning.pretrain.recipe import recipe_class

        if cell.pretrains:
            options, _ = recipe_settings(cell.recipe, self.cells.variant, cell.words)
            return recipe_class(options.module).work(options, self.counts), options
        task, options, _ = task_module(cell.task, self.cells.variant)
        return task.work(options, self.counts), options

    def _reads(self, task: str) -> str:
        """The images that a task reads, by the name of their set; of a pretraining its own name."""
        if task == PRETRAINING:
            return task
        module, options, _ = task_module(task, self.cells.variant)
        return str(options.named_set or module.READS)

    def _estimate(self, cell: Cell) -> Estimate:
        work, options = self.work(cell)
        if cell.pretrains:
            return trained(self.shape(cell.model), work, options, self.cells)
        task, _, any_precision = task_module(cell.task, self.cells.variant)
        shape, classes = shape_of(self.shape(cell.model)), self._classes(task, options)
        half = any_precision or options.precision != "32-true"  # `auto` takes 16 bit where the hardware has it
        case = Case(options, self.counts, classes, shape, work, half)
        return frozen(self.shape(cell.model), task.__name__.rpartition(".")[2], case)

    def _classes(self, task: Any, options: Any) -> int:
        """Number of classes of the set that a task reads; that of ImageNet where it is not known without reading."""
        data, name = self.cells.data, str(options.named_set or task.READS)
        if name in ("segmentation", *data.masked):
            return data.masked[name].classes if name in data.masked else data.segmentation.classes
        return len(scenes.CLASSES) if data.rendered else CLASSES.get(name, IMAGENET_CLASSES)

    def by_stage(self, cell: Cell) -> bool:
        """Whether the model of a cell has stages with feature maps, and no blocks of a ViT."""
        return isinstance(self.shape(cell.model), FeatureMaps)

    def _shape(self, model: str) -> Backbone:
        return cost.load_shape(model, self.cells.trained)


def _seconds(states: States, cell: Cell) -> float:
    """Duration of a cell by its record; 0 without one."""
    try:
        return float(records.read_record(states.record(cell)).provenance.get("seconds", 0.0))
    except UserError:
        return 0.0


def frozen(backbone: Backbone, module: str, case: Case) -> Estimate:
    """Estimate of an evaluation by the module of the task."""
    return Estimate(sum(flops(backbone, one) for one in case.work.passes), footprints.of(module, case))


def trained(backbone: Backbone, work: Work, options: Any, cells: Cells) -> Estimate:
    """Estimate of a pretraining, with the memory on each of its devices."""
    shape = shape_of(backbone)
    size = training_memory.of(backbone, shape, work, options, cells.pretrain_devices)
    return Estimate(sum(flops(backbone, one) for one in work.passes), Footprint({"training": Part(size)}))
