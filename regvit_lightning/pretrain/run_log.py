"""Logging of resolved settings, throughput, memory and gradient norm for every pretraining run."""

import time
from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from regvit_lightning.runtime import hardware, loggers


class RunLog(Callback):
    """Logs the settings as text, and periodically `run/images_per_second`, `memory_mib` and `gradient_norm`.

    Throughput is averaged since the previous entry and includes all overhead between steps; memory is the peak so far,
    see `hardware.peak_memory_mib`; the norm is that of the full gradient of the step, before any clipping.

    Args:
        settings: resolved settings by name.
        batch_size: images per step over all devices.
        every: steps between two entries.
    """

    def __init__(self, settings: Mapping[str, Any], batch_size: int, every: int) -> None:
        self.settings, self.batch_size, self.every = settings, batch_size, every
        self.step, self.begun = 0, 0.0  # of the previous entry
        self.norm = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loggers.describe(trainer.logger, self.settings, trainer.global_step)
        self.step, self.begun = trainer.global_step, time.perf_counter()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if (trainer.global_step + 1) % self.every == 0:
            self.norm = gradient_norm(pl_module)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        step = trainer.global_step
        if step == self.step or step % self.every:  # with accumulation, a step has several batches
            return
        now = time.perf_counter()
        values = {
            "run/images_per_second": (step - self.step) * self.batch_size / (now - self.begun),
            "run/memory_mib": hardware.peak_memory_mib(),
            "run/gradient_norm": self.norm,
        }
        self.step, self.begun = step, now
        if trainer.logger is not None:
            trainer.logger.log_metrics(values, step)


def gradient_norm(module: nn.Module) -> float:
    """Global L2 norm of the gradients of all parameters, over all shards."""
    norm = get_total_norm([parameter.grad for parameter in module.parameters() if parameter.grad is not None])
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
