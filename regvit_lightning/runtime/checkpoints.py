"""Atomic checkpoints, and checks that prevent a corrupt one from being written."""

from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint
from torch import Tensor

from regvit_lightning.errors import UserError
from regvit_lightning.runtime import atomic, together
from regvit_lightning.runtime.interruption import Signals

KEPT = (
    "the last good checkpoint is kept; the same command would meet the same step again, so start again with other "
    "settings, such as a lower lr or precision=32-true, and FORCE=1"
)


NONE = 2**62  # stands for the step of a device whose losses are all finite


class TrainingStopped(UserError):
    """Training cannot continue; the last good checkpoint is preserved."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint writer, made atomic.

    Attributes:
        failure: why the last checkpoint could not be written. With several devices it is kept for `LastCheckpoint`,
            which stops all of them: the others wait at a barrier for the one that writes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failure: UserError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        def fill(temporary: Path) -> None:
            with temporary.open("wb") as file:  # torch, given a path, would not report a full disk
                torch.save(checkpoint, file)

        try:
            atomic.write(Path(path), fill)
        except UserError as error:
            if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
                raise
            self.failure = error


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
            writer = trainer.strategy.checkpoint_io
            together.stop_if_any(trainer, writer.failure if isinstance(writer, AtomicCheckpointIO) else None)
        if stop:
            self.signals.stop(trainer)


class FiniteLoss(Callback):
    """Stops training at the first non-finite loss and reports its step.

    Losses are checked in groups of `every` micro-batches, so that the device need not wait for the host at every step.
    Before each checkpoint and each measurement of a monitor (`check_finite`) they are checked together with the
    weights, so that no checkpoint and no measurement is made of values that are not finite.
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
            self.check(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.check_all(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        self.check(trainer)

    def check_all(self, trainer: Trainer, module: LightningModule) -> None:
        """Check the losses since the last check, and the weights.

        Raises:
            TrainingStopped: one of them is NaN or infinite.
        """
        self.check(trainer)
        finite = bool(torch.stack([weight.isfinite().all() for weight in module.parameters()]).all())
        error = None if finite else TrainingStopped(f"a weight is not finite after step {self.step}; {KEPT}")
        together.stop_if_any(trainer, error)

    def check(self, trainer: Trainer) -> None:
        """Check the losses of all devices since the last check; they decide together, so that none waits for another.

        Raises:
            TrainingStopped: one of them is NaN or infinite.
        """
        steps, losses = [step for step, _ in self.pending], [loss for _, loss in self.pending]
        self.pending = []
        if not losses:
            return
        bad = torch.nonzero(~torch.isfinite(torch.stack(losses))).flatten().tolist()
        here = 2 * steps[bad[0]] + int(losses[bad[0]].isnan()) if bad else NONE
        first = int(trainer.strategy.reduce(torch.tensor(here, device=trainer.strategy.root_device), reduce_op="min"))
        if first < NONE:
            value = "nan" if first % 2 else "inf"
            together.stop_if_any(trainer, TrainingStopped(f"the loss of step {first // 2} is {value}; {KEPT}"))


def check_finite(trainer: Trainer, module: LightningModule) -> None:
    """Check losses and weights by the trainer's `FiniteLoss`, if it has one; every device calls this at the same step.

    Raises:
        TrainingStopped: one of them is NaN or infinite.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, FiniteLoss):
            callback.check_all(trainer, module)
