"""What a GPU spends its time on: milliseconds in matrix products, attention and all else, by the names of kernels."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

# The first that matches. cuBLAS calls its kernels nvjet or gemm; those of cuDNN's attention contain "sdpa".
KINDS = {
    "attention": re.compile("flash|fmha|sdpa"),
    "products": re.compile("nvjet|gemm|cutlass|xmma"),
    "the rest": re.compile(""),
}


def kind(name: str) -> str:
    """Kind of a kernel, in `KINDS`."""
    return next(one for one, pattern in KINDS.items() if pattern.search(name.lower()))


def by_kind(kernels: Iterable[tuple[str, float]]) -> Counter[str]:
    """Sum of the seconds of kernels, given as (name, seconds), by kind."""
    found: Counter[str] = Counter()
    for name, seconds in kernels:
        found[kind(name)] += seconds  # type: ignore[assignment]  # a float
    return found


@contextmanager
def watched() -> Iterator[Counter[str]]:
    """Context that adds up the seconds of all kernels by kind; nothing on a CPU. The device must be idle at its end."""
    found: Counter[str] = Counter()
    if not torch.cuda.is_available():
        yield found
        return
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        yield found
    events = [event for event in profile.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA]
    found.update(by_kind((event.key, event.self_device_time_total / 1e6) for event in events))


def in_words(found: Counter[str], steps: int, seconds: float) -> str:
    """Milliseconds of a step: `a step 89 ms, the GPU busy 86: products 38, attention 8, the rest 40`."""
    parts = ", ".join(f"{one} {1e3 * found[one] / steps:.0f}" for one in ("products", "attention", "the rest"))
    return f"a step {1e3 * seconds:.0f} ms, the GPU busy {1e3 * found.total() / steps:.0f}: {parts}"
