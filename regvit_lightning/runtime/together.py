"""Ending a training on several devices: all processes stop at the same point, with one message from the first."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from regvit_lightning.errors import UserError, one_line, reading_failure

ELSEWHERE = "the process of another device stopped; its line tells why"


def stop_if_any(trainer: Trainer, error: UserError | None) -> None:
    """Stop all processes if one of them has an error; all must call this at the same point.

    Raises:
        UserError: in the first process; its own error, or that of another process.
        SystemExit: in the others, without a message.
    """
    if not trainer.strategy.reduce_boolean_decision(error is not None, all=False):
        return
    texts = [str(error or "")] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(texts, str(error or ""))
    if not trainer.is_global_zero:
        raise SystemExit(0)
    raise error or UserError(next(filter(None, texts)))


class Began(Callback):
    """Remembers that training has begun: whatever fails before that, after a checkpoint was given, is its content.

    A checkpoint without state of the optimiser, which Lightning would take, is refused.
    """

    def __init__(self) -> None:
        self.training = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.training = True

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]
        if progress["optimizer"]["step"]["total"]["completed"] != checkpoint["global_step"]:
            raise ValueError("its numbers of steps differ")
        (optimizer,) = checkpoint["optimizer_states"]
        if not isinstance(optimizer, dict) or {"state", "param_groups"} - optimizer.keys():
            raise ValueError("it holds no state of the optimiser")


@contextmanager
def fitting(trainer: Trainer, checkpoint: Path | None, began: Began) -> Iterator[None]:
    """Context of `Trainer.fit` that turns what goes wrong outside of the training itself into one line.

    A checkpoint that cannot be restored, as it is torn or of something else, is named. Where the first process fails
    alone, the processes that Lightning started for the further devices are ended, as they would wait for it.

    Args:
        trainer: the Trainer, one of whose callbacks is `began`.
        checkpoint: checkpoint that is given to it.

    Raises:
        UserError: see above.
    """
    try:
        yield
    except BaseException as error:
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            launcher.kill(signal.SIGKILL)
            launcher.procs.clear()  # whose observer would kill this process, too
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        if failure := reading_failure(error):
            raise failure from None
        if checkpoint is not None and not began.training:
            advice = "restore the file, or give FORCE=1 to start again"
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise UserError(f"cannot continue from {checkpoint}: {reason}; {advice}") from None
        if trainer.world_size > 1 and any(word in str(error) for word in ("gloo", "NCCL", "peer")):
            raise UserError(ELSEWHERE) from None  # torch.distributed, when another process stopped and gave the reason
        raise


def leave_helpers(trainer: Trainer) -> None:
    """End the processes that Lightning started for the further devices, after training on several of them.

    All of them leave the process group together. The remaining work (evaluating, exporting, recording) is done once, on
    one device, by the process that the user started.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    if not trainer.is_global_zero:
        raise SystemExit(0)
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
