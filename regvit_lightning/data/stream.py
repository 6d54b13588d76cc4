"""Image order of a training run: a stream of steps with random access, so that a run can resume at any step."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Sampler

from regvit_lightning.runtime import seeds
from regvit_lightning.settings import check


@dataclass(frozen=True)
class Stream:
    """The image draws of a whole training run.

    Every pass over the data is a separate permutation, drawn from the seed; with `repeats` r, each image of the
    permutation is repeated r times (repeated augmentation, Hoffer et al. 2020) and a pass covers 1/r of the images, as
    in DeiT. Repeats of an image are spread over their step, so that mixing neighbours does not mix an image with
    itself. Batches span pass boundaries, so that every image is used and no batch is short.

    Attributes:
        size: number of images.
        batch_size: images per step over all devices.
        steps: optimiser steps of the run.
        seed: seed of the order.
        repeats: number of times that an image of a pass is repeated.
    """

    size: int
    batch_size: int
    steps: int
    seed: int
    repeats: int = 1

    def __post_init__(self) -> None:
        check(self.size > 0, "no image to draw from")

    def indices(self, step: int) -> Tensor:
        """Indices into the files of the images of one step, (batch_size,) int64."""
        positions = torch.arange(step * self.batch_size, (step + 1) * self.batch_size)
        passes = positions // self.size
        indices = torch.cat([self._order(int(p))[positions[passes == p] % self.size] for p in passes.unique()])
        return torch.cat([indices[first :: self.repeats] for first in range(self.repeats)])

    def _order(self, number: int) -> Tensor:
        cached = getattr(self, "_cache", None)
        if cached is None or cached[0] != number:
            order = torch.randperm(self.size, generator=seeds.generator(self.seed, "order", number))
            repeated = order if self.repeats == 1 else order.repeat_interleave(self.repeats)[: self.size]
            cached = number, repeated
            object.__setattr__(self, "_cache", cached)
        return cached[1]


class StreamSampler(Sampler[list[tuple[int, int]]]):
    """Batches for one device: lists of (position in the run, index in the files) for `Drawn`.

    A step's images are split into `accumulate` micro-batches, and each of those into one part per device, so that a
    step has the same images for any number of devices.

    Args:
        stream: the draws of the run.
        accumulate: micro-batches per step.
        rank, world: this device and the number of devices; batch_size must be a multiple of accumulate * world.
        start: first step (of a resumed run).
        most: maximum images of a batch; a larger micro-batch comes as several batches, of which the last may be
            smaller. None leaves micro-batches whole.
    """

    def __init__(
        self,
        stream: Stream,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        most: int | None = None,
    ) -> None:
        parts = accumulate * world
        check(stream.batch_size % parts == 0, f"batch size {stream.batch_size} does not divide into {parts} parts")
        self.stream, self.accumulate, self.rank, self.world, self.start = stream, accumulate, rank, world, start
        self.share = stream.batch_size // parts
        self.most = most or self.share

    def __len__(self) -> int:
        """Batches of the whole run, including those before `start`: Lightning counts from the beginning."""
        return self.stream.steps * self.accumulate * len(range(0, self.share, self.most))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.stream.steps):
            first = step * self.stream.batch_size
            draws = list(enumerate(self.stream.indices(step).tolist(), start=first))
            for part in range(self.rank, self.accumulate * self.world, self.world):
                micro_batch = draws[part * self.share : (part + 1) * self.share]
                yield from (micro_batch[begin : begin + self.most] for begin in range(0, self.share, self.most))
