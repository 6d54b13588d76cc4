"""Common parts of `benchmarks.speed`: the row type, and measurement of time and of the machine's peak."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regvit_lightning.data.layout import DataSettings
    from regvit_lightning.models.backbone import Backbone

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Measurement:
    """One measured ratio.

    Attributes:
        name: what is measured.
        value: measured ratio; NaN where nothing was measured, for the reason in `parts`.
        target: its target, as text, or empty.
        parts: quantities that it was computed from, with units.
    """

    name: str
    value: float
    target: str
    parts: str


def seconds(work: Callable[[], object], repeat: int = 5) -> float:
    """Median wall-clock time of `work`, after one warm-up call."""
    times = [seconds_once(work) for _ in range(repeat + 1)]
    return sorted(times[1:])[repeat // 2]


def seconds_once(work: Callable[[], object]) -> float:
    """Wall-clock time of one call of `work`, on a GPU until it has finished."""
    import torch

    begun = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def matrix_peak() -> float:
    """Measure FLOP/s of a 4096³ matrix product in the tasks' precision, the machine's practical peak."""
    import torch

    from regvit_lightning.runtime import hardware

    a, b = (torch.randn(4096, 4096, device=hardware.accelerator()) for _ in range(2))
    with autocast():  # bf16 is emulated, a hundred times slower, if the hardware lacks it
        return 2 * 4096**3 / seconds(lambda: a @ b)


def autocast() -> AbstractContextManager[Any]:
    """Autocast context of the tasks' precision: bf16 if the hardware supports it."""
    from regvit_lightning.runtime import hardware

    return hardware.autocast(hardware.accelerator(), hardware.precision("auto"))


@contextmanager
def image_shapes(backbone: "Backbone") -> Iterator[Counter[Shape]]:
    """Context that counts the image batches (B, 3, H, W) passed through a backbone, by shape."""
    shapes: Counter[Shape] = Counter()
    hook = backbone.model.patch_embed.register_forward_pre_hook(lambda _, inputs: shapes.update([inputs[0].shape]))
    try:
        yield shapes
    finally:
        hook.remove()


def forward_seconds(forward: Callable[[Any], object], shapes: Mapping[Shape, int]) -> float:
    """Wall-clock time of `forward` on the given number of batches of each shape."""
    import torch

    from regvit_lightning.runtime import hardware

    batches = {shape: torch.randn(shape, device=hardware.accelerator()) for shape in shapes}
    return sum(count * seconds(partial(forward, batches[shape]), 3) for shape, count in shapes.items())


@dataclass(frozen=True)
class CellTime:
    """Time of a whole cell beside that of its forward passes.

    Attributes:
        whole, alone: seconds of the cell, and of the forward passes that it made.
        images: number of images, crops or windows that it passed through the backbone.
    """

    whole: float
    alone: float
    images: int

    @property
    def ratio(self) -> float:
        """The whole over its forward passes."""
        return self.whole / self.alone


def timed_cell(task: Any, backbone: "Backbone", data: "DataSettings", chosen: Any) -> CellTime:
    """Run a cell, and then the forward passes that it made, on random images.

    Args:
        task: module of the task.
        backbone, data, chosen: what its `run` takes.
    """
    from regvit_lightning.frozen.module import Frozen
    from regvit_lightning.runtime import hardware

    with image_shapes(backbone) as shapes:
        begun = time.perf_counter()
        task.run(backbone, data, chosen)
        whole = time.perf_counter() - begun
    frozen = Frozen(backbone, chosen.precision).to(hardware.accelerator())
    return CellTime(whole, forward_seconds(frozen, shapes), image_count(shapes))


def image_count(shapes: Mapping[Shape, int]) -> int:
    """Total number of images in the given number of batches of each shape."""
    return sum(count * shape[0] for shape, count in shapes.items())
