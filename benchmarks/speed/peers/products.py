"""Limit of a training step: the time of its matrix products alone, with the same shapes and precision."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.speed.timing import seconds

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward", "_scaled_mm"}

Operand = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]


class Recorded(TorchDispatchMode):
    """Counts the matrix products that are computed inside, by operator, shapes, strides and dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in PRODUCTS:
            self.calls[(func, tuple(_frozen(value) for value in args))] += 1
        return func(*args, **(kwargs or {}))


def _frozen(value: Any) -> Any:
    if isinstance(value, Tensor):
        return "tensor", (tuple(value.shape), value.stride(), value.dtype)
    return "value", tuple(value) if isinstance(value, list) else value


def product_seconds(step: Callable[[], object], repeat: int = 3) -> float:
    """Seconds of all matrix products of a step, each measured alone."""
    with Recorded() as recorded:
        step()
    total = 0.0
    for (func, frozen), count in recorded.calls.items():
        args = [_random(*value) if kind == "tensor" else value for kind, value in frozen]
        total += count * seconds(partial(func, *args), repeat)
    return total


def _random(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    elements = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    return torch.randn(elements).to(dtype).as_strided(shape, stride)
