"""What the rows of `benchmarks.speed` share: a row, and how time and the machine's peak are measured."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regvit_lightning.models.backbone import Backbone

Shape = tuple[int, ...]


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


@contextmanager
def image_shapes(backbone: "Backbone") -> Iterator[Counter[Shape]]:
    """Inside, counts the batches of images (B, 3, H, W) that pass through a backbone, by their shape."""
    shapes: Counter[Shape] = Counter()
    hook = backbone.model.patch_embed.register_forward_pre_hook(lambda _, inputs: shapes.update([inputs[0].shape]))
    try:
        yield shapes
    finally:
        hook.remove()


def forward_seconds(forward: Callable[[Any], object], shapes: Mapping[Shape, int]) -> float:
    """Wall-clock time of `forward` on so many batches of each shape."""
    import torch

    from regvit_lightning.runtime import hardware

    batches = {shape: torch.randn(shape, device=hardware.accelerator()) for shape in shapes}
    return sum(count * seconds(partial(forward, batches[shape]), 3) for shape, count in shapes.items())


def image_count(shapes: Mapping[Shape, int]) -> int:
    """How many images so many batches of each shape hold."""
    return sum(count * shape[0] for shape, count in shapes.items())
