"""Which batches of an ordered pass a device takes, where several devices share it."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from lightning import Trainer
from torch.utils.data import BatchSampler, Sampler


def are_shared(trainer: Trainer | None) -> bool:
    """Whether the devices of a trainer share the passes of its module: it says so, and there are several."""
    return trainer is not None and trainer.world_size > 1 and getattr(trainer.lightning_module, "shares_passes", False)


def of_device(batches: BatchSampler | Sequence[list[int]], trainer: Trainer | None) -> Any:
    """The batches of a pass that the device of this process takes: all of them where devices share nothing.

    A pass with fewer batches than devices is run by each of them whole: Lightning would end a device without any.
    """
    if trainer is None or not are_shared(trainer) or len(batches) < trainer.world_size:
        return batches
    return DeviceBatches(batches, trainer.global_rank, trainer.world_size)


def sequences_of_device(sequences: Sequence[Sequence[list[int]]], trainer: Trainer | None) -> Any:
    """As `of_device`, for batches in sequences of which each is taken by one device."""
    if trainer is None or not are_shared(trainer) or len(sequences) < trainer.world_size:
        return [batch for one in sequences for batch in one]
    return DeviceSequences(sequences, trainer.global_rank, trainer.world_size)


class DeviceBatches(Sampler[list[int]]):
    """The batches of one device: every `world`-th one.

    Args:
        batches: those of all devices, in order.
        rank, world: this device, and the number of devices.
    """

    def __init__(self, batches: BatchSampler | Sequence[list[int]], rank: int, world: int) -> None:
        self.batches, self.rank, self.world = batches, rank, world

    @property
    def rounds(self) -> int:
        """Batches of the device that has most of them."""
        return -(-len(self.batches) // self.world)

    def number(self, batch: int) -> int:
        """Number among all batches of a batch of this device."""
        return batch * self.world + self.rank

    def __len__(self) -> int:
        return len(range(self.rank, len(self.batches), self.world))

    def __iter__(self) -> Iterator[list[int]]:
        return islice(iter(self.batches), self.rank, None, self.world)


class DeviceSequences(DeviceBatches):
    """The batches of one device where consecutive ones belong together: those of every `world`-th sequence.

    Args:
        sequences: of batches, in order.
        rank, world: as for `DeviceBatches`.
    """

    def __init__(self, sequences: Sequence[Sequence[list[int]]], rank: int, world: int) -> None:
        parts = [[batch for one in sequences[first::world] for batch in one] for first in range(world)]
        super().__init__(parts[rank], 0, 1)
        self.most = max(map(len, parts))

    @property
    def rounds(self) -> int:
        return self.most
