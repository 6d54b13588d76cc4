"""Trainers of frozen evaluations: one for ordered passes, one that trains a head and resumes interrupted runs."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save_file

from regvit_lightning.data.module import Streamed, accumulation
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.frozen.devices import Keeping, telling
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.runtime import atomic, hardware, loggers, slurm, together
from regvit_lightning.runtime.checkpoints import AtomicCheckpointIO, FiniteLoss, LastCheckpoint
from regvit_lightning.runtime.interruption import Signals

CHECKPOINT_EVERY = 1000  # steps of head training
LOG_EVERY = 10  # steps
LAST, HEAD = "last.ckpt", "head.safetensors"  # files in the folder of a cell


class Tester(Trainer):
    """Trainer for ordered passes: what the steps return is kept by the module, see `devices`; writes nothing to disk.

    Args:
        how: devices, which share the passes so that every image counts once, and callbacks.

    Raises:
        SettingsError: too few devices.
    """

    def __init__(self, how: RunOptions) -> None:
        hardware.check_devices(how.devices)
        options = _quiet([*how.callbacks, Keeping()])
        super().__init__(
            **options, devices=how.devices, strategy=strategy(how.devices), logger=False, enable_checkpointing=False
        )
        together.remember(self)

    def validate(self, *arguments: Any, **options: Any) -> Any:
        with telling(self):
            return super().validate(*arguments, **options)

    def test(self, *arguments: Any, **options: Any) -> Any:
        with telling(self):
            return super().test(*arguments, **options)


def strategy(devices: int) -> str:
    """Lightning's strategy: one process for each of several devices."""
    return "ddp" if devices > 1 else "auto"


def fit(module: FrozenModule, images: Streamed, steps: int, how: RunOptions, **more: Any) -> None:
    """Train the head on `how.devices` devices, resuming from the checkpoint in `how.folder` if there is one.

    Afterwards the head is saved in the folder.

    Args:
        module: the frozen backbone and its head.
        images: data whose stream yields the batches.
        steps: number of optimiser steps.
        how: devices, callbacks, folder.
        more: further arguments of Lightning's Trainer.

    Raises:
        UserError: too few devices, a folder that is not writable, a checkpoint that cannot be restored, or a loss that
            is not finite.
        Stopped: a signal requested a stop; a checkpoint was written.
    """
    assert images.stream is not None, "the batches come from a stream"
    hardware.check_devices(how.devices)
    signals, began = Signals(), together.Began()
    callbacks = [began, *how.callbacks, FiniteLoss(LOG_EVERY)]
    if how.folder is not None:
        callbacks.append(LastCheckpoint(how.folder / LAST, CHECKPOINT_EVERY, signals))
    runner = Trainer(
        **_quiet(callbacks),
        devices=how.devices,
        strategy=strategy(how.devices),
        max_steps=steps,
        accumulate_grad_batches=accumulation(images.stream.batch_size, how.devices, images.loading.device_batch),
        limit_val_batches=0,
        logger=loggers.build("tensorboard" if how.folder is not None else "none", how.folder or Path()),
        log_every_n_steps=LOG_EVERY,
        enable_checkpointing=how.folder is not None,
        plugins=[AtomicCheckpointIO(), *slurm.environment()],
        **more,
    )
    last = how.folder / LAST if how.folder is not None and (how.folder / LAST).exists() else None
    listening = (
        signals if how.folder is not None else nullcontext()
    )  # without a folder there is no checkpoint to resume
    with listening, together.fitting(runner, last, began):
        runner.fit(module, images, ckpt_path=last, weights_only=True)
    if how.folder is not None and runner.is_global_zero:
        head = {name: value.detach().cpu().contiguous() for name, value in module.head_state().items()}
        atomic.write(how.folder / HEAD, lambda temporary: save_file(head, temporary))


def _quiet(callbacks: Sequence[Callback]) -> dict[str, Any]:
    return {
        "accelerator": hardware.accelerator(),
        "precision": "32-true",  # of the heads; the backbone has a precision of its own
        "callbacks": list(callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
    }
