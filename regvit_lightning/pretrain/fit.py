"""One pretraining run, from settings to exported weights; running the same command again resumes it."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import ModelParallelStrategy
from PIL import Image

from regvit_lightning.data.module import accumulation
from regvit_lightning.models import EXPORT
from regvit_lightning.pretrain import parallel, trainer_options
from regvit_lightning.pretrain.data import PretrainingData
from regvit_lightning.pretrain.kept_backbones import KeptBackbones
from regvit_lightning.pretrain.recipe import Recipe, example_grid, recipe_class
from regvit_lightning.pretrain.run import Run, claimed, described, finished
from regvit_lightning.pretrain.run_log import RunLog
from regvit_lightning.pretrain.unreadable import Unreadable
from regvit_lightning.runtime import atomic, hardware, loggers, seeds, slurm, together
from regvit_lightning.runtime.checkpoints import AtomicCheckpointIO, FiniteLoss, LastCheckpoint
from regvit_lightning.runtime.interruption import Signals

LAST = "last.ckpt"  # name of the checkpoint in the folder of a run


def fit(run: Run, callbacks: Sequence[Callback] = (), force: bool = False) -> Path | None:
    """Train, resuming from a checkpoint if there is one, and export the weights.

    Args:
        run: what to train.
        callbacks: further callbacks, such as a progress bar.
        force: start from scratch, deleting whatever the folder holds.

    Returns:
        Path of the exported backbone, `EXPORT` in the folder. None if training ended before its last step because of
        a Trainer option such as `limit_train_batches` or a callback: nothing is exported then. With `fast_dev_run` the
        run is neither resumed from nor saved to the folder.

    Raises:
        UserError: the data or the folder cannot be used, the folder holds a run with other settings, or training
            cannot continue.
        Stopped: a signal interrupted training; a checkpoint has been written.
    """
    trial = bool(run.settings.trainer.get("fast_dev_run"))
    if not trial and finished(run) and not force:
        return run.folder / EXPORT
    hardware.check_devices(run.devices)
    trainer_options.try_out(run.settings.trainer)
    images = PretrainingData(run.settings, run.data, run.seed)
    images.setup("fit")
    recipe = _recipe(run, images.num_classes, images.steps, images.epochs)
    metadata = recipe.name_backbone(run.recipe)
    if trial:
        with TemporaryDirectory() as folder:
            _train(replace(run, folder=Path(folder)), recipe, images, callbacks, reports=run.folder)
        return None
    with claimed(run, force) if hardware.first_process() else nullcontext():
        trainer = _train(run, recipe, images, callbacks, reports=run.folder)
        if trainer.global_step < images.steps:
            return None
        if isinstance(trainer.strategy, ModelParallelStrategy):  # this process holds only a shard of the weights
            recipe = _recipe(run, images.num_classes, images.steps, images.epochs)
            state = torch.load(run.folder / LAST, map_location="cpu", weights_only=True)["state_dict"]
            recipe.load_state_dict(state)
        recipe.export(run.folder, metadata)
    return run.folder / EXPORT


def _recipe(run: Run, num_classes: int, steps: int, epochs: float | None = None) -> Recipe:
    with seeds.drawn_from(run.seed, "initialise"):
        return recipe_class(run.settings.module)(run.settings, run.model, num_classes, steps, run.seed, epochs)


def _train(run: Run, recipe: Recipe, images: PretrainingData, callbacks: Sequence[Callback], reports: Path) -> Trainer:
    """Train, from the checkpoint in the folder if there is one; afterwards only the launching process continues."""
    options, last = run.settings, run.folder / LAST
    began = together.Began()
    with Signals() as signals:
        logged = AugmentedImages(run.folder), RunLog(described(run), options.batch_size, options.log_every)
        unreadable = Unreadable(images.files, run.folder / "unreadable.txt")
        scaled = hardware.mixed_precision(options.precision)
        finite = FiniteLoss(options.log_every)  # before all callbacks that look at the weights
        kept = LastCheckpoint(last, options.checkpoint_every, signals)
        over_time = [KeptBackbones(run.folder, options.keep_every, recipe.metadata(run.recipe))]
        trainer = Trainer(
            accelerator=hardware.accelerator(),
            devices=run.devices,
            num_nodes=run.nodes,
            strategy=parallel.strategy(options.strategy, run.world),
            precision=None if scaled else options.precision,  # type: ignore[arg-type]
            max_epochs=1,  # one epoch is the stream of all steps
            max_steps=images.steps,
            accumulate_grad_batches=accumulation(options.batch_size, run.world, recipe.micro_batch()),
            logger=loggers.build(options.logger, run.folder),
            log_every_n_steps=options.log_every,
            callbacks=[
                began,
                finite,
                *callbacks,
                unreadable,
                *logged,
                *(over_time if options.keep_every else ()),
                kept,
            ],
            plugins=[AtomicCheckpointIO(), *slurm.environment(), *([scaled] if scaled else [])],
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **trainer_options.with_reports(options.trainer, reports),
        )
        checkpoint = last if last.exists() else None
        try:
            with together.fitting(trainer, checkpoint, began):
                trainer.fit(recipe, images, ckpt_path=checkpoint, weights_only=True)
        finally:
            hardware.round_products(False)  # a step that ended with an error has left them rounded
    together.leave_helpers(trainer.is_global_zero)
    return trainer


class AugmentedImages(Callback):
    """Saves the first augmented batch to the logger and as `augmented.png` in the run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0 and trainer.is_global_zero:
            picture = example_grid(cast(Any, pl_module).examples(batch))
            loggers.show(trainer.logger, "train/augmented", picture, 0)
            image = Image.fromarray(picture)
            atomic.write(self.folder / "augmented.png", lambda temporary: image.save(temporary, "PNG"))
