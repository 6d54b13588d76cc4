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
from regvit_lightning.runtime import hardware

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


class Met(UserError):
    """What the process of a further device has met alone while it trained: it says so itself."""


_launchers: list[_SubprocessScriptLauncher] = []  # of the Trainers of this process; the first one started the helpers


def remember(trainer: Trainer) -> None:
    """Remember the processes that a Trainer will start for further devices, for `kill_helpers`."""
    if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
        _launchers.append(trainer.strategy.launcher)


def kill_helpers() -> None:
    """End the processes of further devices at once, as they would wait for this one."""
    for launcher in _launchers:
        launcher.kill(signal.SIGKILL)
        launcher.procs.clear()  # whose observer would kill this process, too
    _launchers.clear()


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
    remember(trainer)
    try:
        yield
    except BaseException as error:
        kill_helpers()
        if isinstance(error, UserError) and not trainer.is_global_zero:
            raise Met(str(error)) from None
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        if failure := reading_failure(error):
            raise failure from None
        if checkpoint is not None and not began.training:
            advice = "restore the file, or give FORCE=1 to start again"
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise UserError(f"cannot continue from {checkpoint}: {reason}; {advice}") from None
        if trainer.world_size > 1 and _of_another(error):
            raise UserError(ELSEWHERE) from None
        raise


def _of_another(error: BaseException) -> bool:
    """Whether torch.distributed raised it, as it does when another process stopped and gave the reason."""
    return isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "NCCL", "peer"))


@contextmanager
def helped() -> Iterator[None]:
    """Context of work whose Trainers start processes for further devices, which do the same work.

    At its end they leave, and the process that the user started goes on alone. A user's error ends them without a
    message: the first process meets the same one, and says it.

    Raises:
        UserError: the work's own, or a line that says that another process stopped and gave the reason.
        SystemExit: in the processes of further devices.
    """
    try:
        yield
    except Met:
        raise
    except UserError:
        kill_helpers()
        if not hardware.first_process():
            raise SystemExit(0) from None
        raise
    except BaseException as error:
        kill_helpers()
        if _of_another(error):
            raise UserError(ELSEWHERE) from None
        raise
    leave_helpers(hardware.first_process())


def leave_helpers(first: bool) -> None:
    """End the processes that Lightning started for the further devices, after work on several of them.

    All of them leave the process group together. The remaining work (evaluating, exporting, recording) is done once, on
    one device, by the process that the user started.

    Args:
        first: this is that process.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    if not first:
        raise SystemExit(0)
    _launchers.clear()
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
