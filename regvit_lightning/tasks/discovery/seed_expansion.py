"""LOST: the patch that resembles the fewest others is the seed, and what resembles it and its like is the object.

Source: Siméoni et al. 2021 (arXiv 2109.14279), section 3, and valeoai/LOST, object_discovery.py, here for a batch of
images of one size and any number of biases at once. The bias that the registers paper adds to the Gram matrix moves
the threshold under which two patches do not resemble each other from 0 to -bias.

The Gram matrix is nearly all of the work. It is symmetric, so one half of it is made, in strips that stay in the
cache and are counted at once: neither the whole of it nor the memory for it is ever needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

# Four neighbours in a map, none in the maps before and after it: one call labels a whole batch.
NEIGHBOURS = np.zeros((3, 3), bool), scipy.ndimage.generate_binary_structure(2, 1), np.zeros((3, 3), bool)

STRIP = 256  # rows: fewer are slow to multiply, more take more of the other half
ELEMENTS = {"cpu": 2**21, "cuda": 2**27}  # compared at once: what fits into the cache of a CPU, or keeps a GPU busy


@dataclass(frozen=True)
class Expansion:
    """What LOST finds in B images with J biases, step by step.

    Attributes:
        degrees: (B, J, h, w) with how many other patches each patch has a positive similarity.
        seeds: (B, J) indices in the grid, row by row.
        similarity: (B, J, h, w) of each patch to the seed, bias included; positive is similar.
        scores: (B, J, h, w) summed similarity to the seed and its like; positive is foreground.
        objects: (B, J, h, w) bool, the connected foreground that holds the seed.
        fallback: (B, J) bool, the seed is background itself: the object is then the seed alone.
        boxes: (B, J, 4) x1, y1, x2, y2 in patches, ends excluded.
    """

    degrees: Tensor
    seeds: Tensor
    similarity: Tensor
    scores: Tensor
    objects: Tensor
    fallback: Tensor
    boxes: Tensor


def degrees(features: Tensor, biases: Sequence[float] = (0.0,), l2_biases: Sequence[float] = ()) -> Tensor:
    """With how many other patches each patch has a positive similarity, for every bias.

    Args:
        features: (B, N, D) float32.
        biases: added to the dot products of the features.
        l2_biases: added to the dot products of the L2-normalised features.

    Returns:
        (B, J, N) int64, for `biases` and then for `l2_biases`.
    """
    images, patches, _ = features.shape
    raw, l2 = (features.new_tensor(values) for values in (biases, l2_biases))
    counts = features.new_zeros(images, len(raw) + len(l2), patches)  # exact: whole numbers below 2^24
    at_once = max(ELEMENTS[features.device.type] // (min(STRIP, patches) * patches * counts.shape[1]), 1)
    for own, total in zip(features.split(at_once), counts.split(at_once), strict=True):
        norms = own.norm(dim=2).clamp(min=1e-12)
        for first in range(0, patches, STRIP):
            rows = slice(first, first + STRIP)
            strip = own[:, rows] @ own[:, first:].mT
            strip.diagonal(dim1=1, dim2=2).fill_(-torch.inf)  # a patch is not its own neighbour
            _count(strip, -raw, total[:, : len(raw), first:])
            if len(l2):
                strip.div_(norms[:, rows, None]).div_(norms[:, None, first:])
                _count(strip, -l2, total[:, len(raw) :, first:])
    return counts.long()


def _count(strip: Tensor, thresholds: Tensor, total: Tensor) -> None:
    """Adds what is above each threshold, for the rows of the strip and, but for its first square, for its columns.

    Args:
        strip: (B, rows, N).
        thresholds: (J,).
        total: (B, J, N).
    """
    rows, at_once = strip.shape[1], max(ELEMENTS[strip.device.type] // strip.numel(), 1)
    for some, counts in zip(thresholds.split(at_once), total.split(at_once, dim=1), strict=True):
        above = strip.new_empty(len(strip), len(some), *strip.shape[1:])  # floats, whose sums are the fastest
        torch.gt(strip[:, None], some[:, None, None], out=above)
        counts[..., :rows] += above.sum(dim=3)
        counts[..., rows:] += above[..., rows:].sum(dim=2)


def expand(features: Tensor, degrees: Tensor, biases: Sequence[float], k: int) -> Expansion:
    """Seed, seed expansion and box for every bias.

    Args:
        features: (B, h, w, D) float32, normalised where the biases are for normalised ones.
        degrees: (B, J, h w) of the same features and biases; the lower index comes first among equals.
        biases: J.
        k: how many patches of lowest degree may join the seed.

    Sums over the similar patches are taken of their features, not of rows of the Gram matrix: it is the same.
    """
    grid, flat = features.shape[1:3], features.flatten(1, 2)
    patches, bias = flat.shape[1], flat.new_tensor(biases)[:, None]
    ranks = degrees * patches + torch.arange(patches, device=degrees.device)  # all different
    lowest = ranks.topk(min(k, patches), dim=2, largest=False).indices
    seeds = lowest[..., 0]
    similarity = _rows(flat, seeds) @ flat.mT + bias
    similar = torch.zeros_like(similarity).scatter_(2, lowest, (similarity.gather(2, lowest) > 0).float())
    scores = similar @ flat @ flat.mT + similar.sum(dim=2, keepdim=True) * bias
    foreground = (scores > 0).flatten(0, 1).unflatten(1, grid)
    objects, fallback = connected_part(seeds.flatten(), foreground)
    return Expansion(
        degrees=degrees.unflatten(2, grid),
        seeds=seeds,
        similarity=similarity.unflatten(2, grid),
        scores=scores.unflatten(2, grid),
        objects=objects.unflatten(0, seeds.shape),
        fallback=fallback.unflatten(0, seeds.shape),
        boxes=tight_boxes(objects).unflatten(0, seeds.shape),
    )


def _rows(features: Tensor, indices: Tensor) -> Tensor:
    """(B, J, D): the features (B, N, D) at indices (B, J)."""
    return features.gather(1, indices[..., None].expand(-1, -1, features.shape[2]))


# -------------------------------------------------------------- from a foreground to a box, in TokenCut as in LOST


def connected_part(seeds: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor]:
    """The 4-connected part of each foreground that holds the seed; the seed alone where it lies in the background.

    Args:
        seeds: (B,) indices in the grid, row by row.
        foreground: (B, h, w) bool.

    Returns:
        Parts (B, h, w) bool, and where the seed lies in the background (B,) bool.
    """
    labels, _ = scipy.ndimage.label(foreground.cpu().numpy(), np.stack(NEIGHBOURS))
    parts = torch.from_numpy(labels).to(foreground.device).flatten(1)
    own = parts.gather(1, seeds[:, None])
    alone = torch.zeros_like(parts, dtype=torch.bool).scatter_(1, seeds[:, None], True)
    return torch.where(own > 0, parts == own, alone).view_as(foreground), own[:, 0] == 0


def tight_boxes(parts: Tensor) -> Tensor:
    """The tight box (B, 4) of each part (B, h, w) bool, none empty: x1, y1, x2, y2 in patches, ends excluded."""
    ends = [_ends(parts.any(dim=dim)) for dim in (1, 2)]
    return torch.stack([ends[0][0], ends[1][0], ends[0][1], ends[1][1]], dim=1)


def _ends(line: Tensor) -> tuple[Tensor, Tensor]:
    """First true and last true + 1 of each row (B, n)."""
    return line.int().argmax(dim=1), line.shape[1] - line.int().flip(1).argmax(dim=1)
