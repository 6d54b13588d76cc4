"""The cells of a grid: models × tasks × seeds, one evaluation each, and the pretrainings that they need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from benchmarks.grid.variations import GridModel, recipe, vary
from regvit_lightning import precision, settings
from regvit_lightning.data import layout
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.models import catalogue, names, origins
from regvit_lightning.models.names import ModelId
from regvit_lightning.settings import SettingsError, check, setting
from regvit_lightning.values import texts

PRETRAINING = "pretrain"  # takes the position of a task


@dataclass
class Chosen:
    """Settings that select the cells."""

    grid: str = setting("a file of configs/grids, or the path of one", "demo")
    data: str = setting("a file of configs/data, or a folder with train/ and val/ class folders", "mini")
    variant: str = setting("overlay of recipes and tasks; 'auto' takes the data's own", "auto")
    seeds: str = setting("seeds of the grid's file, as 0,2, or all", "all")
    pretrain: bool = setting("the pretraining of the models is part of the grid", False)
    pretrain_devices: int = setting("GPUs of one pretraining", 1, within="[1, 1024]")
    runs: str = setting("folder of the runs", "runs", texts.folder)
    results: str = setting("folder of the results", "results", texts.folder)


@dataclass
class GridFile:
    """Contents of a file of configs/grids.

    Attributes:
        models, tasks, seeds: every combination is a cell, except tasks that do not apply to a model. A grid without
            tasks is that of its pretrainings.
        settings: recipe overrides, each entry with its own tag: `[{lr: 1e-3}, {lr: 2e-3, tag: big}]`. Every model
            pretrained here is trained once with each entry, or those that the entry lists as `models`; `model` gives it
            another shape, see `variations`. An empty list varies nothing.
        catalogue: the models are those of configs/released.yaml, before `models`.
    """

    models: list[str] = field(default_factory=list)
    tasks: list[str] = settings.MISSING
    seeds: list[int] = settings.number(settings.SEEDS)
    settings: list[dict[str, Any]] = field(default_factory=list)
    catalogue: bool = False


@dataclass(frozen=True)
class Cell:
    """An evaluation or a pretraining run.

    Attributes:
        model: name as accepted by `make eval`.
        task: name in configs/tasks, or `PRETRAINING`.
        seed: random seed of the pretraining and the evaluation.
        needs: the cell that pretrains the model, or trains the head that this one reads, if it belongs to the grid.
        words: `key=value` overrides of the recipe's settings, for a pretraining.
    """

    model: str
    task: str
    seed: int
    needs: "Cell | None" = None
    words: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.model} {self.task} seed {self.seed}"

    @property
    def pretrains(self) -> bool:
        return self.task == PRETRAINING

    @property
    def recipe(self) -> str:
        """Recipe of a model pretrained here, else empty."""
        return recipe(self.model)

    @property
    def identity(self) -> ModelId:
        """Recipe, tag and register ViT of a model pretrained here."""
        parsed = names.parse_id(names.intervention(self.model)[0])
        assert parsed is not None, "only a model that is trained here has a recipe"
        return parsed

    def folder_name(self) -> str:
        """Name of the model's folder: its id in records, or for a file a name derived from its path."""
        return origins.record_id(self.model)


@dataclass(frozen=True)
class Cells:
    """All cells of a grid.

    Attributes:
        cells: pretrainings first, then in the order of the grid's file.
        left_out: combinations that do not apply, one line each.
        data: settings of the data.
        variant: variant of recipes and tasks, or empty.
        runs, results: folders of runs and results.
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
        """Folder of the models pretrained here."""
        return self.runs / (self.data.trained_on or self.data.name)

    def base(self, cell: Cell) -> Path:
        """Path, without suffix, of the log and outcome of a cell."""
        return self.runs / self.data.name / "grid" / cell.folder_name() / f"{cell.task}.seed{cell.seed}"

    def file(self, cell: Cell, suffix: str) -> Path:
        """Path `<base><suffix>` of a cell."""
        base = self.base(cell)
        return base.with_name(base.name + suffix)

    def folder(self, cell: Cell) -> Path:
        """Folder that a cell writes to while it runs, whose lock it holds."""
        if cell.pretrains:
            return self.trained / cell.model / f"seed{cell.seed}"
        return self.runs / self.data.name / cell.folder_name() / f"seed{cell.seed}" / cell.task

    def devices(self, cell: Cell) -> int:
        """Number of devices that a cell uses."""
        return self.pretrain_devices if cell.pretrains else 1


def build(chosen: Chosen, images_needed: bool = True) -> Cells:
    """Build the cells of a grid.

    Args:
        chosen: settings that select the cells.
        images_needed: False for a program that reads no images: the data needs no root, see `layout.resolve`.

    Raises:
        SettingsError: the grid, data, variant, recipe or task does not exist.
    """
    data = layout.resolve(chosen.data, root_needed=images_needed)
    variant = data.variant if chosen.variant == "auto" else chosen.variant
    file = settings.build(GridFile, _files(chosen.grid))
    models = _models(chosen.grid, file, variant)
    pretrainings: list[Cell] = []
    evaluations: list[Cell] = []
    lacking = {task: {model.name: _lacks(model, task, variant) for model in models} for task in file.tasks}
    pretrain = chosen.pretrain or not file.tasks
    if pretrain:
        lacking[PRETRAINING] = {model.name: _untrainable(model) for model in models}
    for seed in _seeds(chosen, file.seeds):
        for model in models:
            trained = pretrain and model.trainable
            plain, _ = names.intervention(model.name)
            needed = Cell(plain, PRETRAINING, seed, words=model.words) if trained else None
            pretrainings += [needed] if needed and needed not in pretrainings else []
            apply = [task for task in file.tasks if not lacking[task][model.name]]
            evaluations += [_evaluation(model.name, task, seed, needed, apply, variant) for task in apply]
    left_out = [line for task, reasons in lacking.items() for line in _left_out(task, reasons)]
    folders = Path(chosen.runs), Path(chosen.results)
    return Cells([*pretrainings, *evaluations], left_out, data, variant, *folders, chosen.pretrain_devices)


def _evaluation(model: str, task: str, seed: int, needed: Cell | None, tasks: Sequence[str], variant: str) -> Cell:
    """Cell of a task, which needs that of the task whose head it reads, if this is among the `tasks` of the model."""
    trains = task_module(task, variant)[1].reads_head_of
    return Cell(model, task, seed, Cell(model, trains, seed, needed) if trains in tasks else needed)


def _seeds(chosen: Chosen, known: Sequence[int]) -> list[int]:
    """Chosen seeds of a grid's file, in its order."""
    if chosen.seeds == "all":
        return list(known)
    wanted = chosen.seeds.split(",")
    strange = [seed for seed in wanted if seed not in map(str, known)]
    has = ", ".join(map(str, known))
    check(not strange, f"seeds={chosen.seeds}: grid {chosen.grid} has {has}; give some of them, or all")
    return [seed for seed in known if str(seed) in wanted]


def _models(grid: str, file: GridFile, variant: str) -> list[GridModel]:
    """Models of a grid's file; checks that their recipes have the settings that it varies."""
    listed = [*(entry.name for entry in catalogue.entries() if file.catalogue), *file.models]
    check(bool(listed), f"grid {grid}: models is not set: expected a list of models, or catalogue: true")
    try:
        models = vary(listed, file.settings)
        for words in {(recipe(model.name), model.words) for model in models if model.words}:
            recipe_settings(words[0], variant, words[1])
        _check_shapes(models)
    except SettingsError as error:
        raise SettingsError(f"grid {grid}: {error}") from None
    return models


def _check_shapes(models: Sequence[GridModel]) -> None:
    """Raise `SettingsError` where a name gives a depth or a width that its size cannot have."""
    shaped = [parsed.name for model in models if (parsed := names.parse_id(model.name)) and names.shape_of(parsed.name)]
    if shaped:
        from regvit_lightning.models import vit

        for name in shaped:
            vit.parse_name(name)


@lru_cache
def task_module(task: str, variant: str) -> tuple[Any, Any, bool]:
    """Module and settings of a task, and whether its precision is chosen by the hardware."""
    return precision.module_and_settings("tasks", task, variant)


@lru_cache
def recipe_settings(recipe: str, variant: str, words: tuple[str, ...] = ()) -> tuple[Any, bool]:
    """Settings of a recipe with overrides, and whether its precision is chosen by the hardware.

    Raises:
        SettingsError: the recipe lacks one of these settings.
    """
    try:
        _, options, free = precision.module_and_settings("recipes", recipe, variant, words)
    except SettingsError as error:
        raise SettingsError(f"recipe {recipe} with {' '.join(words)}: {error}" if words else str(error)) from None
    return options, free


def _files(grid: str) -> list[Path]:
    path = Path(grid)
    return [path] if path.suffix == ".yaml" and path.is_file() else settings.find("grids", grid)


def _untrainable(model: GridModel) -> str:
    """Reason why the grid cannot pretrain a model of a recipe."""
    return "" if model.trainable or not recipe(model.name) else "the grid does not know the settings of its tag"


def _left_out(task: str, reasons: Mapping[str, str]) -> list[str]:
    """Lines that explain why models have no cell of a task, one for each reason."""
    groups: dict[str, list[str]] = {}
    for model, reason in reasons.items():
        groups.setdefault(reason, []).append(model)
    return [f"{task} of {', '.join(models)}: {reason}" for reason, models in groups.items() if reason]


def _lacks(model: GridModel, task: str, variant: str) -> str:
    """Requirement of a task that a model lacks; empty if the task applies, and for files, which are not read."""
    settings.find("tasks", task, variant)
    module, chosen, _ = task_module(task, variant)
    if chosen.needs_classifier and not model.name.startswith(origins.TIMM):
        return "no classifier of its own"
    if getattr(module, "NEEDS_REGISTERS", False):
        plain, intervention = names.intervention(model.name)
        if plain.endswith("_reg0") and (intervention is None or intervention.kind != "ttr"):
            return "no registers"
    if not getattr(module, "NEEDS_TEXT", False):
        return ""
    if model.name.startswith(origins.ELSEWHERE):
        return "no text tower"
    if not recipe(model.name):
        return ""
    options, _ = recipe_settings(recipe(model.name), variant, model.words)
    return "" if options.images == "pairs" else "no text tower"
