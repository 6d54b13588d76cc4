"""From a foreground on the grid of patches to a box: the connected part that holds the seed, and the box around it."""

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

# Four neighbours in a map, none in the maps before and after it: one call labels a whole batch.
NEIGHBOURS = np.zeros((3, 3), bool), scipy.ndimage.generate_binary_structure(2, 1), np.zeros((3, 3), bool)


def holding(seeds: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor]:
    """The 4-connected part of each foreground that holds the seed; the seed alone where it lies in the background.

    Args:
        seeds: (B,) places in the grid, row by row.
        foreground: (B, h, w) bool.

    Returns:
        Parts (B, h, w) bool, and where the seed lies in the background (B,) bool.
    """
    labels, _ = scipy.ndimage.label(foreground.cpu().numpy(), np.stack(NEIGHBOURS))
    parts = torch.from_numpy(labels).to(foreground.device).flatten(1)
    own = parts.gather(1, seeds[:, None])
    alone = torch.zeros_like(parts, dtype=torch.bool).scatter_(1, seeds[:, None], True)
    return torch.where(own > 0, parts == own, alone).view_as(foreground), own[:, 0] == 0


def boxes(parts: Tensor) -> Tensor:
    """The tight box (B, 4) of each part (B, h, w) bool, none empty: x1, y1, x2, y2 in patches, ends excluded."""
    ends = [_ends(parts.any(dim=dim)) for dim in (1, 2)]
    return torch.stack([ends[0][0], ends[1][0], ends[0][1], ends[1][1]], dim=1)


def _ends(line: Tensor) -> tuple[Tensor, Tensor]:
    """First true and last true + 1 of each row (B, n)."""
    return line.int().argmax(dim=1), line.shape[1] - line.int().flip(1).argmax(dim=1)
