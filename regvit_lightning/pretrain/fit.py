"""One pretraining run: from settings to exported weights, resumed when the command is given again."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import ModelParallelStrategy
from PIL import Image

from regvit_lightning import settings
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import accumulation
from regvit_lightning.data.stream import Stream
from regvit_lightning.errors import UserError, one_line
from regvit_lightning.models import EXPORT
from regvit_lightning.pretrain import parallel
from regvit_lightning.pretrain.recipe import Recipe, RecipeSettings, example_grid, recipe_class
from regvit_lightning.pretrain.run_log import RunLog
from regvit_lightning.pretrain.unreadable import Unreadable
from regvit_lightning.runtime import atomic, hardware, loggers, seeds, slurm
from regvit_lightning.runtime.checkpoints import AtomicCheckpointIO, FiniteLoss, LastCheckpoint
from regvit_lightning.runtime.interruption import Signals

# Settings that may differ when a run is continued: they change how it runs, not what it computes. The device batch is
# not among them: mixing and stochastic depth are drawn per batch, and Lightning counts micro-batches.
LOOKS = ("log_every", "norms_every", "monitor_every", "monitor_images", "logger")
FREE_TO_CHANGE = ("workers", "checkpoint_every", "grad_checkpointing", *LOOKS)


@dataclass(frozen=True)
class Run:
    """What is trained, and where it is kept.

    Attributes:
        model: name of the register ViT.
        recipe: name of the recipe, as in `configs/recipes/`, with the tag of a run with settings of its own.
        settings: resolved settings of the recipe.
        data: where the images are.
        seed: of everything drawn.
        folder: of checkpoint, logs and exported weights.
        devices: number of devices of each machine.
        nodes: number of machines.
    """

    model: str
    recipe: str
    settings: RecipeSettings
    data: DataSettings
    seed: int
    folder: Path
    devices: int = 1
    nodes: int = 1

    @property
    def world(self) -> int:
        """Number of devices in all."""
        return self.devices * self.nodes


def finished(run: Run) -> bool:
    """Whether the run with these settings has been carried to its end."""
    return (run.folder / EXPORT).exists() and changes(run) == []


def fit(run: Run, callbacks: Sequence[Callback] = (), force: bool = False) -> Path:
    """Train, or continue, and export the weights.

    Args:
        run: what to train.
        callbacks: for showing progress.
        force: begin anew, whatever the folder holds.

    Returns:
        The exported backbone, `EXPORT` in the folder.

    Raises:
        UserError: the data or the folder cannot be used, the folder holds a run with other settings, or training
            cannot go on.
        Stopped: a signal asked to stop; a checkpoint is written.
    """
    exported = run.folder / EXPORT
    if finished(run) and not force:
        return exported
    kind = recipe_class(run.settings.module)
    files = kind.files(run.settings, run.data)
    draws, batch_size = run.settings.epochs * len(files), run.settings.batch_size
    steps = draws // batch_size
    settings.check(steps > 0, f"batch_size={batch_size} is above the {draws} images of {run.settings.epochs} epochs")
    hardware.check_devices(run.devices)
    recipe = _recipe(run, len(files.classes), steps)
    metadata = recipe.name_backbone(run.recipe)
    stream = Stream(len(files), run.settings.batch_size, steps, run.seed, recipe.repeats)
    images = recipe.data_module(files, stream, run.settings.workers)
    if hardware.first_process():
        claim(run, force)
    last = run.folder / "last.ckpt"
    with Signals() as signals:
        guards = [FiniteLoss(run.settings.log_every), LastCheckpoint(last, run.settings.checkpoint_every, signals)]
        unreadable = Unreadable(files, run.folder / "unreadable.txt")
        shown = AugmentedImages(run.folder), RunLog(_resolved(run), batch_size, run.settings.log_every)
        trainer = _trainer(run, steps, recipe.micro_batch(), [*callbacks, unreadable, *shown, *guards])
        trainer.fit(recipe, images, ckpt_path=last if last.exists() else None, weights_only=True)
    hardware.leave_helpers(trainer)
    if isinstance(trainer.strategy, ModelParallelStrategy):  # this process holds a shard of the weights, the file all
        recipe = _recipe(run, len(files.classes), steps)
        recipe.load_state_dict(torch.load(last, map_location="cpu", weights_only=True)["state_dict"])
    recipe.export(run.folder, metadata)
    return exported


def _recipe(run: Run, num_classes: int, steps: int) -> Recipe:
    with seeds.drawn_from(run.seed, "initialise"):
        return recipe_class(run.settings.module)(run.settings, run.model, num_classes, steps, run.seed)


def _trainer(run: Run, steps: int, micro_batch: int, callbacks: list[Callback]) -> Trainer:
    options = run.settings
    return Trainer(
        accelerator=hardware.accelerator(),
        devices=run.devices,
        num_nodes=run.nodes,
        strategy=parallel.strategy(options.strategy, run.world),
        precision=options.precision,  # type: ignore[arg-type]
        max_steps=steps,
        accumulate_grad_batches=accumulation(options.batch_size, run.world, micro_batch),
        logger=loggers.build(options.logger, run.folder),
        log_every_n_steps=options.log_every,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO(), *slurm.environment()],
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


class AugmentedImages(Callback):
    """Shows the first batch as the network sees it, in the log and as `augmented.png` in the run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0 and trainer.is_global_zero:
            picture = example_grid(cast(Any, pl_module).examples(batch))
            loggers.show(trainer.logger, "train/augmented", picture, 0)
            image = Image.fromarray(picture)
            atomic.write(self.folder / "augmented.png", lambda temporary: image.save(temporary, "PNG"))


def _description(run: Run) -> dict[str, Any]:
    return {key: value for key, value in _resolved(run).items() if key not in FREE_TO_CHANGE}


def _resolved(run: Run) -> dict[str, Any]:
    data = str(Path(run.data.root).resolve())
    about = {"model": run.model, "recipe": run.recipe, "data": data, "seed": run.seed, "devices": run.world}
    return {**about, **settings.resolved(run.settings)}


def changes(run: Run) -> list[str] | None:
    """Differences between the run in the folder and this one, as text; None where the folder holds no run."""
    try:
        kept = dict(json.loads((run.folder / "run.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        return [f"run.json is not readable: {one_line(error)}"]
    wanted = _description(run)
    kept = {**_defaults(run.settings), **kept}  # a run of before a setting was there had its default
    keys = [key for key in {**wanted, **kept} if key not in FREE_TO_CHANGE and kept.get(key) != wanted.get(key)]
    return [f"{key}: {kept.get(key)} -> {wanted.get(key)}" for key in keys]


def _defaults(options: RecipeSettings) -> dict[str, Any]:
    defaults = {}
    for field in fields(options):
        value = field.default if field.default_factory is MISSING else field.default_factory()
        if value not in (MISSING, settings.MISSING):
            defaults[field.name] = value
    return defaults


def claim(run: Run, force: bool) -> None:
    """Write what is about to be trained into the folder, or refuse to mix it with another run."""
    if force and run.folder.exists():
        shutil.rmtree(run.folder)
    atomic.remove_leftovers(run.folder)
    differences = changes(run)
    if differences:
        raise UserError(
            f"{run.folder} holds a run with other settings ({'; '.join(differences[:4])}); "
            "give the old ones to continue it, TAG=<name> to keep both, or FORCE=1 to begin anew"
        )
    if differences is None:
        atomic.write_text(run.folder / "run.json", json.dumps(_description(run), indent=1) + "\n")
