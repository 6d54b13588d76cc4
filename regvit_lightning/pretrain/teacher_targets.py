"""From the teacher's logits to the student's targets: Sinkhorn-Knopp over all devices, or moving-average centring.

Sources: Caron et al. 2020 (arXiv 2006.09882, Sinkhorn-Knopp), Caron et al. 2021 (arXiv 2104.14294, centring), Oquab et
al. 2023 (arXiv 2304.07193, section 4: the first replaces the second).
"""

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F


def sinkhorn(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Assign the samples of all devices to prototypes that share them evenly.

    Alternately, each prototype is given the same weight, then each sample the weight 1. The matrix itself is never
    changed, only the factors of its rows and columns, so an iteration is two products of a matrix with a vector.

    Args:
        logits: (M, K) of this device; M may differ between devices and may be 0, but not on all. What lies more than
            80 temperatures below the largest of its row counts as nothing (cosines at 0.04: 50 at most).
        temperature: of the teacher.
        iterations: 3 in DINOv2.

    Returns:
        (M, K) float32; rows sum to 1 and, with enough iterations, the columns of all devices to samples / K.
    """
    with torch.autocast(logits.device.type, enabled=False):
        scaled = logits.float() / temperature
        top = scaled.amax(dim=1, keepdim=True)
        shares = (scaled - top).exp()  # at most 1: no overflow, and every sample has a prototype that counts
        samples = (top - _largest(top)).exp()
        for _ in range(iterations):
            weights = _summed(shares.mT @ samples)
            prototypes = weights.mean() / weights.clamp_min(1e-37 * weights.mean())
            samples = 1 / (shares @ prototypes)
        return shares * prototypes.mT * samples


class SinkhornTargets(nn.Module):
    """`sinkhorn` as a module without state."""

    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """Targets (M, K) for logits (M, K)."""
        return sinkhorn(logits, temperature)

    def step(self) -> None:
        """Nothing is kept from step to step."""


class CentredTargets(nn.Module):
    """Softmax of the logits above their moving average.

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
        self.sum: Tensor | None = None  # of the logits of this step; no buffer, as DDP would overwrite it
        self.count = 0

    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """Targets (M, K) float32 for logits (M, K), by the centre of the steps before."""
        logits = logits.float()
        found = logits.sum(dim=0)
        self.sum, self.count = found if self.sum is None else self.sum + found, self.count + len(logits)
        return F.softmax((logits - self.centre) / temperature, dim=1)

    def step(self) -> None:
        """Move the centre to the mean of the logits of this step, over all devices and micro-batches."""
        assert self.sum is not None, "a step has logits"
        total = _summed(torch.cat([self.sum, self.sum.new_tensor([self.count])]))
        self.centre.lerp_(total[:-1] / total[-1].clamp_min(1), 1 - self.momentum)
        self.sum, self.count = None, 0


def _summed(values: Tensor) -> Tensor:
    if distributed.is_initialized():
        distributed.all_reduce(values)
    return values


def _largest(values: Tensor) -> Tensor:
    largest = values.amax() if len(values) else values.new_full((), -torch.inf)
    if distributed.is_initialized():
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return largest
