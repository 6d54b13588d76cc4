"""LightningModule whose learning rate is a closed form of the step: a resumed run needs no scheduler state."""

from typing import Any

from lightning import LightningModule
from torch.optim import Optimizer


class ScheduledModule(LightningModule):
    """Applies the values of `schedule` before each optimiser update, and logs them as `train/<name>`."""

    def schedule(self, step: int) -> dict[str, float]:
        """Values by name for update `step` (0, 1, …): the learning rate `lr`, and others that change with the step."""
        raise NotImplementedError

    def set_options(self, optimizer: Optimizer, step: int) -> None:
        """Set the options of each parameter group for update `step`: the learning rate, the same for all groups."""
        for group in optimizer.param_groups:
            group["lr"] = self.schedule(step)["lr"]

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        self.set_options(optimizer, self.global_step)
        self.log_dict({f"train/{name}": value for name, value in self.schedule(self.global_step).items()})
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
