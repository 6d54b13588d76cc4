"""Counts the places where the host waits for the GPU, as `torch.cuda.set_sync_debug_mode` reports them."""

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Context that counts waits by place, `file.py:line`; nothing is counted on a CPU.

    PyTorch reports copies to the host and other calls that wait; explicit `torch.cuda.synchronize` is none of them.
    """
    places: Counter[str] = Counter()
    if not torch.cuda.is_available():
        yield places
        return
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode("default")
            waits = [one for one in told if "synchronizing CUDA operation" in str(one.message)]
            places.update(f"{Path(one.filename).name}:{one.lineno}" for one in waits)


def in_words(places: Counter[str], steps: int) -> str:
    """Places and how often a step waits there: `swa_utils.py:246 × 2`; `nowhere` without any."""
    shown = [f"{place} × {count / steps:g}" for place, count in places.most_common(6)]
    return ", ".join(shown) or "nowhere"
