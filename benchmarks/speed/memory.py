"""Peak memory of a piece of work: of the GPU where there is one, else resident memory of this process (Linux)."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROCESS = Path("/proc/self")


@dataclass
class Peak:
    """Peak memory.

    Attributes:
        bytes: peak above the memory in use at the start; available after the context.
    """

    bytes: int = 0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Context that measures the peak memory of the work inside it.

    Raises:
        OSError: the kernel does not let a process reset its own peak.
    """
    import torch

    gc.collect()  # garbage that is freed inside would hide as much of the work's own memory
    peak = Peak()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated() - before
        return
    (PROCESS / "clear_refs").write_text("5")  # resets the peak, VmHWM; man 5 proc
    before = _status("VmRSS")
    yield peak
    peak.bytes = max(_status("VmHWM") - before, 0)


def _status(key: str) -> int:
    """A value of /proc/self/status, which is in kB, in bytes."""
    lines = (PROCESS / "status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))
