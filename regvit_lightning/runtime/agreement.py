"""Agreement of all processes of a training on a flag, without any of them waiting for the others or for its GPU."""

from typing import Any

import torch
from lightning import Trainer
from torch import Tensor, distributed


class Agreement:
    """Whether a process has raised a flag, told to all of them one call later.

    Each call starts a maximum over the processes and returns the one that the call before has started, so that all
    processes get the same answer at the same call. The flags stay on the hosts (gloo), whatever the devices exchange:
    reading them waits for no GPU. A single process has its own answer at once.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._pending: tuple[Any, Tensor] | None = None

    def any(self, trainer: Trainer, here: bool) -> bool:
        """Whether any process passed True: to this call if there is one process, else to the call before.

        Args:
            trainer: the training; all its processes make the same calls.
            here: the flag of this process.
        """
        if trainer.world_size == 1:
            return here
        self._group = self._group or distributed.new_group(backend="gloo")
        before, flag = self._pending, torch.tensor([here], dtype=torch.uint8)
        started = distributed.all_reduce(flag, distributed.ReduceOp.MAX, self._group, async_op=True)
        self._pending = started, flag
        if before is None:
            return False
        before[0].wait()
        return bool(before[1].item())
