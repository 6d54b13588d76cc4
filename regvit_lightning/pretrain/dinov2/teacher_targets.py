"""Student targets from the teacher's logits: Sinkhorn-Knopp over all devices, or moving-average centring.

Sources: Caron et al. 2020 (arXiv 2006.09882, Sinkhorn-Knopp), Caron et al. 2021 (arXiv 2104.14294, centring), Oquab et
al. 2023 (arXiv 2304.07193, section 4: the first replaces the second).

Both end in a softmax with one offset for each prototype. The offsets are computed from all images of a step, which a
device may process in chunks: given them, the targets of a chunk depend on no other chunk, and the targets of a step do
not depend on the chunking.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

T = TypeVar("T")


class Computed(Generic[T]):
    """Lazy sequence of `function` applied to each item; cached if there is one item, otherwise recomputed on access."""

    def __init__(self, function: Callable[[Any], T], items: "Parts[Any]") -> None:
        self.function, self.items = function, items
        self.kept = [function(items[0])] if len(items) == 1 else None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> T:
        return self.function(self.items[index]) if self.kept is None else self.kept[index]

    def __iter__(self) -> Iterator[T]:
        return (self[index] for index in range(len(self)))


Parts = Sequence[T] | Computed[T]  # chunks of a step on one device


def assign(logits: Tensor, temperature: float, offsets: Tensor) -> Tensor:
    """Targets (M, K) float32, rows summing to 1, from logits (M, K) and the offsets (K,) of `sinkhorn` or a centre."""
    return F.softmax(logits.float() / temperature + offsets, dim=1)


def sinkhorn(parts: Parts[Tensor], temperature: float, iterations: int = 3) -> Tensor:
    """Sinkhorn-Knopp offsets that assign the samples of all chunks on all devices evenly to the prototypes.

    Columns are normalised to equal prototype weights and rows to sample weight 1, in turn. Only the scaling factors of
    rows and columns are updated, never the matrix itself, so an iteration is two matrix-vector products.

    Args:
        parts: logits (M, K) of this device; M may vary and may be 0, but not for all chunks of all devices. Logits more
            than 80 temperatures below their row's maximum are treated as zero weight (cosines at 0.04: 50 at most).
        temperature: temperature of the teacher.
        iterations: number of iterations, 3 in DINOv2.

    Returns:
        Offsets (K,) float32. With enough iterations, the columns of `assign` over all devices sum to samples / K.
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
    # (M, K) with row maximum 1, so nothing overflows and no row vanishes; and the subtracted row maxima (M,).
    scaled = logits.float() / temperature
    top = scaled.amax(dim=1)
    return (scaled - top[:, None]).exp(), top


def _weights(shares: Tensor, top: Tensor, largest: Tensor, prototypes: Tensor | None) -> Tensor:
    # Total weight of each prototype (K,): of the unnormalised samples first, then of samples of weight 1.
    with torch.autocast(shares.device.type, enabled=False):
        samples = (top - largest).exp() if prototypes is None else 1 / (shares @ prototypes)
        return samples @ shares


class SinkhornTargets(nn.Module):
    """Sinkhorn-Knopp as a module without state, see `sinkhorn`."""

    def forward(self, parts: Parts[Tensor], temperature: float) -> Tensor:
        """Offsets (K,) from the logits (M, K) of each chunk of this step on this device."""
        return sinkhorn(parts, temperature)


class CentredTargets(nn.Module):
    """Centring: subtracts a moving average of the logits.

    Args:
        prototypes: number of prototypes K.
        momentum: momentum of the moving average.

    Attributes:
        centre: moving average (K,), part of the checkpoint.
    """

    centre: Tensor

    def __init__(self, prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(prototypes))

    def forward(self, parts: Parts[Tensor], temperature: float) -> Tensor:
        """Offsets (K,) from the centre of the previous steps, which is then updated with the mean over this step.

        Args:
            parts: logits (M, K) of each chunk of this step on this device.
            temperature: temperature of the teacher.
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
