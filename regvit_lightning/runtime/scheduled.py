"""LightningModule whose learning rate is a closed form of the step: a resumed run needs no scheduler state."""

from typing import Any

import torch
from lightning import LightningModule
from torch.optim import Optimizer


class ScheduledModule(LightningModule):
    """Applies the values of `schedule` before each optimiser update, and logs them as `train/<name>`.

    Attributes:
        skipped_update: the last update was not made, as its gradient was not finite in fp16; it counts as a step.
    """

    skipped_update = False

    def schedule(self, step: int) -> dict[str, float]:
        """Values by name for update `step` (0, 1, …): the learning rate `lr`, and others that change with the step."""
        raise NotImplementedError

    def set_options(self, optimizer: Optimizer, step: int) -> None:
        """Set the options of each parameter group for update `step`: the learning rate, the same for all groups."""
        for group in optimizer.param_groups:
            group["lr"] = self.schedule(step)["lr"]

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        self.set_options(optimizer, self.global_step)
        values = self.schedule(self.global_step).items()
        # Filled there: a number that is copied to a GPU would make this process wait for all that it is computing.
        self.log_dict({f"train/{name}": torch.full((), value, device=self.device) for name, value in values})
        scale = self._loss_scale()
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.skipped_update = self._loss_scale() < scale

    def _loss_scale(self) -> float:
        """Scale of the loss, which the scaler of fp16 lowers when it skips an update; 1 without a scaler."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return 1.0 if scaler is None else float(scaler.get_scale())
