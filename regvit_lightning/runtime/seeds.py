"""Random draws determined only by named numbers: seed, step, sample.

Every draw of a training run comes from `derive(...)`, so there is no generator state to save or to lose: a resumed
run continues with the same draws. Data order and augmentation depend only on seed and sample, for any number of
devices and workers; draws per batch (mixing, stochastic depth) also depend on the batch of a device.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from zlib import crc32

import numpy as np
import torch

from regvit_lightning.settings import check


def derive(*parts: int | str) -> int:
    """Derive a 63-bit seed from numbers and names, e.g. `derive(seed, "augment", position)`; order matters.

    Raises:
        SettingsError: a number is negative.
    """
    numbers = [crc32(part.encode()) if isinstance(part, str) else part for part in parts]
    check(min(numbers) >= 0, f"seed={min(numbers)}: must not be negative")
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded with `derive(*parts)`."""
    return torch.Generator().manual_seed(derive(*parts))


def seed_global(*parts: int | str) -> None:
    """Seed torch's global generators, of the CPU and of the GPUs in use, with `derive(*parts)`."""
    # Not torch.manual_seed: while CUDA is not initialised it queues a call, with a stack trace, every time.
    torch.default_generator.manual_seed(derive(*parts))
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(derive(*parts))


@contextmanager
def torch_drawn_from(*parts: int | str) -> Iterator[None]:
    """Context manager: CPU draws of torch come from `derive(*parts)`; the previous state is restored afterwards."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(derive(*parts))
    try:
        yield
    finally:
        torch.set_rng_state(state)


def torch_each_drawn_from(numbers: Sequence[int], *parts: int | str) -> Iterator[int]:
    """Count through `numbers`; CPU draws of torch before the next one come from `derive(*parts, number)`.

    The previous state is restored at the end: many times cheaper than `torch_drawn_from` for each.
    """
    state = torch.get_rng_state()
    try:
        for index, number in enumerate(numbers):
            torch.default_generator.manual_seed(derive(*parts, number))
            yield index
    finally:
        torch.set_rng_state(state)


@contextmanager
def drawn_from(*parts: int | str) -> Iterator[None]:
    """Context manager: global CPU draws come from `derive(*parts)`; the previous states are restored afterwards.

    It covers torch's generator, and those of numpy and Python, which mmsegmentation's transforms use; where only torch
    draws, `torch_drawn_from` takes a third of the time.
    """
    states = np.random.get_state(), random.getstate()  # noqa: NPY002
    seed = derive(*parts)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
    random.seed(seed)
    try:
        with torch_drawn_from(*parts):
            yield
    finally:
        np.random.set_state(states[0])  # noqa: NPY002
        random.setstate(states[1])
