"""Stochastic depth (Huang et al. 2016, arXiv 1603.09382) that skips what it drops, as in DINOv2 (section 5).

Each residual branch is computed for a subset of the samples of fixed size alone, and scaled so that its expectation is
that of the whole batch. With rate 0.4, four tenths of the work of every block is never done.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor

from regvit_lightning.runtime import seeds

Rows = tuple[Tensor, Tensor]  # samples of the batch that keep the attention, and the MLP, of a block


class SkippingBlock(Block):
    """timm's block, whose branches may be computed for some samples of the batch alone."""

    def forward(self, x: Tensor, kept: Rows | None = None, **attention: Any) -> Tensor:  # type: ignore[override]
        """All tokens (B, T, D) after the block.

        Args:
            x: tokens (B, T, D).
            kept: indices of samples, (n,) each; None keeps all.
            attention: timm's own options.
        """
        if kept is None:
            return super().forward(x, **attention)
        x = add_branch(x, kept[0], lambda some: self.ls1(self.attn(self.norm1(some), **attention)))
        return add_branch(x, kept[1], lambda some: self.ls2(self.mlp(self.norm2(some))))


def add_branch(x: Tensor, rows: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
    """Add to x (B, T, D) the branch of the samples `rows` (n,), times B / n."""
    residual = branch(x[rows]).to(x.dtype)
    return torch.index_add(x, 0, rows, residual, alpha=len(x) / len(rows))


def draw(
    names: Sequence[Sequence[int | str]], crops: int, images: int, depth: int, rate: float, device: torch.device
) -> list[Rows] | None:
    """Samples that each block keeps, drawn for each group of images by itself.

    The draws belong to the images, so they are the same however many groups a device holds; every device has the same
    number of samples to compute.

    Args:
        names: what the draws of each group are derived from.
        crops: crops of each image, which stand crop by crop in the batch.
        images: in a group.
        depth: number of blocks.
        rate: share that is dropped, 0-1.
        device: of the result.

    Returns:
        For each block the kept rows of the batch of crops × groups × images samples; None for rate 0.
    """
    if rate == 0 or crops == 0:
        return None
    kept = max(int(crops * images * (1 - rate)), 1)
    rows = []
    for group, parts in enumerate(names):
        order = torch.rand(2 * depth, crops * images, generator=seeds.generator(*parts)).argsort(dim=1)[:, :kept]
        crop, image = order // images, order % images
        rows.append((crop * len(names) + group) * images + image)
    both = torch.cat(rows, dim=1).unflatten(0, (depth, 2)).to(device, non_blocking=True)
    return [(attention, mlp) for attention, mlp in both]
