"""Ordered passes on all devices: each takes whole batches, and all of them get what every batch gave, in order.

A module that shares its passes returns from `test_step` what it has measured of a batch, and keeps it in `tested`
(`validation_step`, `validated`). With several devices each has every n-th batch, the same as on one device; what they
measured is exchanged, and every device keeps all of it in the order of the data. So each image counts once, a device
holds afterwards what a single one would, to the bit where the devices are alike, and no task knows their number.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import distributed

from regvit_lightning.data.device_batches import DeviceBatches, are_shared
from regvit_lightning.errors import UserError

ROUNDS = 8  # batches of each device between two exchanges, which bounds what waits for one


class Told(UserError):
    """What one of the processes has met and told the others."""


class Keeping(Callback):
    """Hands what the steps of a pass return to `validated` or `tested` of the module."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, Any]] = []  # with the round of each
        self.exchanged = 0  # rounds
        self.shared = False

    # ------------------------------------------------------------------------------------------------------- hooks

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._add(trainer, pl_module.validated, outputs, batch_idx, dataloader_idx)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._add(trainer, pl_module.tested, outputs, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._end(trainer, pl_module.validated)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._end(trainer, pl_module.tested)

    # ---------------------------------------------------------------------------------------------------- exchanges

    def _begin(self, trainer: Trainer) -> None:
        self.waiting, self.exchanged, self.shared = [], 0, are_shared(trainer)

    def _add(self, trainer: Trainer, keep: Callable[[Any], None], outputs: Any, batch: int, loader: int) -> None:
        if not self.shared:
            keep(outputs)
            return
        every = rounds(trainer)
        before = sum(every[:loader])
        if not every[loader]:  # each device runs all of this loader
            self._exchange_until(before, trainer, keep)
            keep(outputs)
            return
        number = before + batch
        self._exchange_until(number - number % ROUNDS, trainer, keep)
        self.waiting.append((number, outputs))

    def _end(self, trainer: Trainer, keep: Callable[[Any], None]) -> None:
        if self.shared:
            self._exchange_until(sum(rounds(trainer)), trainer, keep)

    def _exchange_until(self, end: int, trainer: Trainer, keep: Callable[[Any], None]) -> None:
        """Exchange all rounds before `end`; devices without a batch in the last round of a loader have none of it."""
        while self.exchanged < end:
            self.exchanged = min(self.exchanged - self.exchanged % ROUNDS + ROUNDS, end)
            mine = [one for one in self.waiting if one[0] < self.exchanged]
            self.waiting = self.waiting[len(mine) :]
            everyone = exchanged(mine, trainer.strategy.root_device)
            for _, _, outputs in sorted(
                ((number, rank, outputs) for rank, own in enumerate(everyone) for number, outputs in own),
                key=lambda one: one[:2],
            ):
                keep(outputs)


def rounds(trainer: Trainer) -> list[int]:
    """Rounds of each loader of the pass that runs; 0 for one that the devices do not share."""
    loaders: Any = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    samplers = [loader.batch_sampler for loader in (loaders if isinstance(loaders, list) else [loaders])]
    return [sampler.rounds if isinstance(sampler, DeviceBatches) else 0 for sampler in samplers]


def exchanged(own: Any, device: torch.device) -> list[Any]:
    """What each process passed, on all of them; tensors of a GPU come to the GPU of this process.

    Raises:
        Told: in the first process, if a process passed a `UserError`.
        SystemExit: the same in the others, without a message.
    """
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, _packed(own))
    received = [_unpacked(part, device) for part in parts]
    errors = [part for part in received if isinstance(part, UserError)]
    if errors:
        raise Told(str(errors[0])) if distributed.get_rank() == 0 else SystemExit(0)
    return received


def _packed(value: Any) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def _unpacked(content: bytes, device: torch.device) -> Any:
    def place(storage: Any, location: str) -> Any:
        return storage if location == "cpu" else storage.to(device=device)

    return torch.load(io.BytesIO(content), place, weights_only=False)  # from a process of this very program


@contextmanager
def telling(trainer: Trainer) -> Iterator[None]:
    """Context of a pass that stops on all devices where one meets a user's error, such as an unreadable file."""
    try:
        yield
    except Told:
        raise
    except UserError as error:
        if not are_shared(trainer):
            raise
        exchanged(UserError(str(error)), trainer.strategy.root_device)
