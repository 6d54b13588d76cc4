"""The cells of a grid: models × tasks × seeds, one evaluation each, and the pretrainings that they need."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from regvit_lightning import precision, settings
from regvit_lightning.data import layout
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.models import origins
from regvit_lightning.settings import check, setting

PRETRAINING = "pretrain"  # in place of a task


@dataclass
class Chosen:
    """Settings that say which cells are meant."""

    grid: str = setting("a file of configs/grids, or the path of one", "demo")
    data: str = setting("a file of configs/data, or a folder with train/ and val/ class folders", "mini")
    variant: str = setting("overlay of recipes and tasks; 'auto' takes the data's own", "auto")
    pretrain: bool = setting("the pretraining of the models is part of the grid", False)
    pretrain_devices: int = setting("GPUs of one pretraining", 1)
    runs: str = setting("folder of the runs", "runs")
    results: str = setting("folder of the results", "results")


@dataclass
class GridFile:
    """A file of configs/grids.

    Attributes:
        models, tasks, seeds: every combination is a cell, but for tasks that do not apply to a model.
    """

    models: list[str] = settings.MISSING
    tasks: list[str] = settings.MISSING
    seeds: list[int] = settings.MISSING


@dataclass(frozen=True)
class Cell:
    """An evaluation, or a pretraining.

    Attributes:
        model: as `make eval` takes it.
        task: of configs/tasks, or `PRETRAINING`.
        seed: of both.
        needs: the cell that makes the model, where it belongs to the grid.
    """

    model: str
    task: str
    seed: int
    needs: "Cell | None" = None

    @property
    def name(self) -> str:
        return f"{self.model} {self.task} seed {self.seed}"

    @property
    def pretrains(self) -> bool:
        return self.task == PRETRAINING

    @property
    def recipe(self) -> str:
        """Recipe of a model that is trained here, else empty."""
        return recipe(self.model)

    @property
    def size(self) -> str:
        """Name of the register ViT of such a model: `vitb_reg4`."""
        return self.model.rpartition("-")[2]

    def folder_name(self) -> str:
        """Names the model's folder: its id in records, or of a file what is left of its path."""
        return origins.record_id(self.model)


@dataclass(frozen=True)
class Cells:
    """All cells of a grid.

    Attributes:
        cells: pretrainings first, then in the order of the grid's file.
        left_out: what does not apply, a line each.
        data: where the images are.
        variant: overlay of recipes and tasks, or empty.
        runs, results: folders.
    """

    cells: Sequence[Cell]
    left_out: Sequence[str]
    data: DataSettings
    variant: str
    runs: Path
    results: Path
    pretrain_devices: int

    @cached_property
    def trained(self) -> Path:
        """Folder of the trained models."""
        return self.runs / (self.data.trained_on or self.data.name)

    def base(self, cell: Cell) -> Path:
        """Lock, log and outcome of a cell are files of this name with a suffix."""
        return self.runs / self.data.name / "grid" / cell.folder_name() / f"{cell.task}.seed{cell.seed}"

    def file(self, cell: Cell, suffix: str) -> Path:
        """`<base><suffix>`."""
        base = self.base(cell)
        return base.with_name(base.name + suffix)

    def devices(self, cell: Cell) -> int:
        """How many devices it takes."""
        return self.pretrain_devices if cell.pretrains else 1


def build(chosen: Chosen, images_needed: bool = True) -> Cells:
    """The cells of a grid.

    Args:
        chosen: the settings that say which.
        images_needed: False for a program that reads no image: the data needs no root, see `layout.resolve`.

    Raises:
        SettingsError: no such grid, data, variant, recipe or task.
    """
    check(chosen.pretrain_devices > 0, f"pretrain_devices={chosen.pretrain_devices}: must be at least 1")
    data = layout.resolve(chosen.data, root_needed=images_needed)
    variant = data.variant if chosen.variant == "auto" else chosen.variant
    file = settings.build(GridFile, _files(chosen.grid))
    pretrainings: list[Cell] = []
    evaluations: list[Cell] = []
    left_out: list[str] = []
    lacking = {task: {model: _lacks(model, task, variant) for model in file.models} for task in file.tasks}
    for seed in file.seeds:
        for model in file.models:
            needed = Cell(model, PRETRAINING, seed) if chosen.pretrain and recipe(model) else None
            pretrainings += [needed] if needed else []
            evaluations += [Cell(model, task, seed, needed) for task in file.tasks if not lacking[task][model]]
    for task, models in lacking.items():
        for why in dict.fromkeys(filter(None, models.values())):
            left_out.append(f"{task} of {', '.join(model for model in models if models[model] == why)}: {why}")
    folders = Path(chosen.runs), Path(chosen.results)
    return Cells([*pretrainings, *evaluations], left_out, data, variant, *folders, chosen.pretrain_devices)


def recipe(model: str) -> str:
    """The recipe of a model that is trained here, `deit3` of `deit3-vitb_reg4`; empty for all others."""
    if "/" in model or model.startswith(origins.ELSEWHERE):
        return ""
    name = model.rpartition("-")[0]
    return name if name in settings.names("recipes") else ""


@lru_cache
def task_module(task: str, variant: str) -> tuple[Any, Any, bool]:
    """Module and settings of a task, and whether it leaves the precision to the hardware."""
    return precision.module_and_settings("tasks", task, variant)


def _files(grid: str) -> list[Path]:
    path = Path(grid)
    return [path] if path.suffix == ".yaml" and path.is_file() else settings.find("grids", grid)


def _lacks(model: str, task: str, variant: str) -> str:
    """What a task needs and a model has not; empty when it applies, and for files, whose content would tell."""
    settings.find("tasks", task, variant)
    if not getattr(task_module(task, variant)[0], "NEEDS_TEXT", False):
        return ""
    if model.startswith(origins.ELSEWHERE):
        return "no text tower"
    if not recipe(model):
        return ""
    _, options, _ = precision.module_and_settings("recipes", recipe(model), variant)
    return "" if options.images == "pairs" else "no text tower"
