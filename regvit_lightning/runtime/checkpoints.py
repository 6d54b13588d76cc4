"""Atomic checkpoints, and checks that prevent a corrupt one from being written."""

from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint
from torch import Tensor

from regvit_lightning.errors import UserError
from regvit_lightning.runtime import atomic
from regvit_lightning.runtime.interruption import Signals

KEPT = (
    "the last good checkpoint is kept; the same command would meet the same step again, so begin anew with other "
    "settings, such as a lower lr or precision=32-true, and FORCE=1"
)


class TrainingStopped(UserError):
    """Training cannot continue; the last good checkpoint is preserved."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint writer, made atomic."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        def fill(temporary: Path) -> None:
            with temporary.open("wb") as file:  # torch, given a path, would not report a full disk
                torch.save(checkpoint, file)

        atomic.write(Path(path), fill)


class LastCheckpoint(Checkpoint):
    """Saves one checkpoint and replaces it every `every` steps, at the end of training and on a stop signal."""

    def __init__(self, path: Path, every: int, signals: Signals) -> None:
        self.path, self.every, self.signals = path, every, signals
        self.before = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.listen()

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.before = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        step, end = trainer.global_step, trainer.max_steps
        if step == self.before:  # between the micro-batches of a step
            return
        stop = step < end and self.signals.agreed(trainer)
        last = step == end or trainer.should_stop or trainer.is_last_batch
        if stop or last or step % self.every == 0:
            trainer.save_checkpoint(self.path)
        if stop:
            self.signals.stop(trainer)


class FiniteLoss(Callback):
    """Stops training at the first non-finite loss and reports its step.

    Losses are checked in groups of `every` micro-batches and before each checkpoint, so that the device need not wait
    for the host at every step; the weights are checked too, so that no checkpoint contains non-finite values.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.step = 0
        self.pending: list[tuple[int, Tensor]] = []

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.step = trainer.global_step + 1

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self.pending.append((self.step, outputs["loss"].detach()))
        if len(self.pending) >= self.every:
            self.check()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.check()
        if not torch.stack([weight.isfinite().all() for weight in pl_module.parameters()]).all():
            raise TrainingStopped(f"a weight is not finite after step {self.step}; {KEPT}")

    def on_train_end(self, *_: Any) -> None:
        self.check()

    def check(self) -> None:
        """Check the losses since the last check.

        Raises:
            TrainingStopped: one of them is NaN or infinite.
        """
        steps, losses = [step for step, _ in self.pending], [loss for _, loss in self.pending]
        self.pending = []
        bad = torch.nonzero(~torch.isfinite(torch.stack(losses))).flatten().tolist() if losses else []
        if bad:
            raise TrainingStopped(f"the loss of step {steps[bad[0]]} is {losses[bad[0]].item()}; {KEPT}")
