"""What the rows of `benchmarks.speed` share: a row, and how time and the machine's peak are measured."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """One measurement.

    Attributes:
        name: what is measured.
        value: the ratio.
        target: what it should be, as text, or empty.
        parts: what it was made from, with units.
    """

    name: str
    value: float
    target: str
    parts: str


def seconds(work: Callable[[], object], repeat: int = 5) -> float:
    """Median wall-clock time of `work`, after one warm-up call."""
    import torch

    times = []
    for _ in range(repeat + 1):
        begun = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return sorted(times[1:])[repeat // 2]


def matrix_peak() -> float:
    """FLOP/s of a 4096³ matrix product in the tasks' precision: what the machine can do at best."""
    import torch

    from regvit_lightning.runtime import hardware

    a, b = (torch.randn(4096, 4096, device=hardware.accelerator()) for _ in range(2))
    with autocast():  # bf16 is emulated, a hundred times slower, where the hardware lacks it
        return 2 * 4096**3 / seconds(lambda: a @ b)


def autocast() -> AbstractContextManager[Any]:
    """The precision of the tasks: bf16 where the hardware has it."""
    from regvit_lightning.runtime import hardware

    return hardware.autocast(hardware.accelerator(), hardware.precision("auto"))
