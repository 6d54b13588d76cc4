"""From the teacher's logits to the student's targets: Sinkhorn-Knopp over all devices, or moving-average centring.

Sources: Caron et al. 2020 (arXiv 2006.09882, Sinkhorn-Knopp), Caron et al. 2021 (arXiv 2104.14294, centring), Oquab et
al. 2023 (arXiv 2304.07193, section 4: the first replaces the second).

Both end in a softmax with one offset for each prototype. The offsets come from all images of a step, which a device may
hold in parts: so the targets of a part need no other part, and a step gives the same targets however it is cut up.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

T = TypeVar("T")


class Computed(Generic[T]):
    """`function` of each item: kept where there is one item, else computed anew whenever it is looked at."""

    def __init__(self, function: Callable[[Any], T], items: "Parts[Any]") -> None:
        self.function, self.items = function, items
        self.kept = [function(items[0])] if len(items) == 1 else None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> T:
        return self.function(self.items[index]) if self.kept is None else self.kept[index]

    def __iter__(self) -> Iterator[T]:
        return (self[index] for index in range(len(self)))


Parts = Sequence[T] | Computed[T]  # of what a device has of a step


def assign(logits: Tensor, temperature: float, offsets: Tensor) -> Tensor:
    """Targets (M, K) float32, whose rows sum to 1, of logits (M, K) with the offsets (K,) of `sinkhorn` or a centre."""
    return F.softmax(logits.float() / temperature + offsets, dim=1)


def sinkhorn(parts: Parts[Tensor], temperature: float, iterations: int = 3) -> Tensor:
    """Offsets with which the samples of all parts on all devices share the prototypes evenly.

    Alternately, each prototype is given the same weight, then each sample the weight 1. The matrix itself is never
    changed, only the factors of its rows and columns, so an iteration is two products of a matrix with a vector.

    Args:
        parts: logits (M, K) of this device; M may differ and may be 0, but not everywhere. What lies more than 80
            temperatures below the largest of its row counts as nothing (cosines at 0.04: 50 at most).
        temperature: of the teacher.
        iterations: 3 in DINOv2.

    Returns:
        (K,) float32. The columns of `assign` over all devices sum to samples / K, with enough iterations.
    """
    looked = Computed(partial(_shares, temperature=temperature), parts)
    largest = _largest(torch.cat([top for _, top in looked]))
    prototypes: Tensor | None = None
    for _ in range(iterations):
        weights = _summed(torch.stack([_weights(*part, largest, prototypes) for part in looked]).sum(dim=0))
        prototypes = weights.mean() / weights.clamp_min(1e-37 * weights.mean())
    assert prototypes is not None, "at least one iteration"
    return prototypes.log()


def _shares(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    # (M, K), at most 1: no overflow, and every sample has a prototype that counts; and what was taken off (M,).
    scaled = logits.float() / temperature
    top = scaled.amax(dim=1)
    return (scaled - top[:, None]).exp(), top


def _weights(shares: Tensor, top: Tensor, largest: Tensor, prototypes: Tensor | None) -> Tensor:
    # What each prototype (K,) has of these samples: of the samples as they are, then of samples of weight 1.
    with torch.autocast(shares.device.type, enabled=False):
        samples = (top - largest).exp() if prototypes is None else 1 / (shares @ prototypes)
        return samples @ shares


class SinkhornTargets(nn.Module):
    """`sinkhorn` as a module without state."""

    def forward(self, parts: Parts[Tensor], temperature: float) -> Tensor:
        """Offsets (K,) from the logits (M, K) of each part of this step on this device."""
        return sinkhorn(parts, temperature)


class CentredTargets(nn.Module):
    """The moving average of the logits is taken off them.

    Args:
        prototypes: K.
        momentum: of the average.

    Attributes:
        centre: (K,), part of the checkpoint.
    """

    centre: Tensor

    def __init__(self, prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(prototypes))

    def forward(self, parts: Parts[Tensor], temperature: float) -> Tensor:
        """Offsets (K,) by the centre of the steps before, which then moves to the mean over this step.

        Args:
            parts: logits (M, K) of each part of this step on this device.
            temperature: of the teacher.
        """
        offsets = -self.centre / temperature
        sums = [torch.cat([part.float().sum(dim=0), offsets.new_tensor([len(part)])]) for part in parts]
        total = _summed(torch.stack(sums).sum(dim=0))
        self.centre.lerp_(total[:-1] / total[-1].clamp_min(1), 1 - self.momentum)
        return offsets


def _summed(values: Tensor) -> Tensor:
    if distributed.is_initialized():
        distributed.all_reduce(values)
    return values


def _largest(values: Tensor) -> Tensor:
    largest = values.amax() if len(values) else values.new_full((), -torch.inf)
    if distributed.is_initialized():
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return largest
