"""Callbacks that do something at regular steps of a training."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from regvit_lightning.runtime.checkpoints import check_finite


class Periodic(Callback):
    """Does something every `every` steps, and at the first and the last one; with finite losses and weights only.

    Attributes:
        every: steps between two times.
        done: last step at which it was done, -1 before the first. With gradient accumulation, a step has several
            batches.
    """

    def __init__(self, every: int) -> None:
        self.every, self.done = every, -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._when_due(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._when_due(trainer, pl_module)

    def _when_due(self, trainer: Trainer, recipe: Any) -> None:
        step = trainer.global_step
        due = step % self.every == 0 or step == trainer.max_steps
        if not due or step <= self.done or not self.applies(trainer):
            return
        self.done = step
        check_finite(trainer, recipe)
        self.at_step(trainer, recipe, step)

    def applies(self, trainer: Trainer) -> bool:
        """Whether there is anything to do in this training."""
        raise NotImplementedError

    def at_step(self, trainer: Trainer, recipe: Any, step: int) -> None:
        """Do it, on all devices."""
        raise NotImplementedError
