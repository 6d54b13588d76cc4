"""Boxes from attention maps: the patches that hold most of the attention, connected to the one that holds the most.

The threshold at a share of the cumulative attention is that of DINO's figures (Caron et al. 2021, arXiv 2104.14294,
Fig. 1, and `visualize_attention.py`, which keeps 60 %); the component of the maximum and the box follow LOST.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from regvit_lightning.tasks.discovery.seed_expansion import connected_part, tight_boxes

ROUNDING = 1e-9  # relative, of a sum of shares


@dataclass(frozen=True)
class MapBoxes:
    """Boxes of M maps.

    Attributes:
        boxes: (M, 4) x1, y1, x2, y2 in patches, ends excluded.
        peaks: (M,) index of the maximum in the grid, row-major; the first of several.
        uniform: (M,) bool, where all patches have the same attention: the box is then the whole map.
    """

    boxes: Tensor
    peaks: Tensor
    uniform: Tensor


def foreground(maps: Tensor, mass: float) -> Tensor:
    """Smallest set of patches that holds `mass` of the attention of each map, with all that equal its lowest.

    Args:
        maps: (M, h, w), not negative.
        mass: share of the sum of a map, above 0 and at most 1.

    Returns:
        (M, h, w) bool, never empty.
    """
    flat = maps.flatten(1).double()
    ordered = flat.sort(dim=1, descending=True).values
    wanted = mass * flat.sum(dim=1, keepdim=True) * (1 - ROUNDING)
    needed = (ordered.cumsum(dim=1) < wanted).sum(dim=1, keepdim=True).clamp(max=flat.shape[1] - 1)
    return (flat >= ordered.gather(1, needed)).view_as(maps)


def boxes(maps: Tensor, mass: float) -> MapBoxes:
    """Box of each map (M, h, w): around the 4-connected part of its foreground that holds the maximum."""
    flat = maps.flatten(1)
    highest = flat.amax(dim=1, keepdim=True)
    peaks = (flat == highest).int().argmax(dim=1)
    parts, _ = connected_part(peaks, foreground(maps, mass))
    return MapBoxes(tight_boxes(parts), peaks, (flat == highest).all(dim=1))


def any_of(hits: Tensor, count: int) -> Tensor:
    """Probability (…) that a random subset of `count` of H boxes has a hit: what any-of-`count` is worth.

    It is 1 - C(misses, count) / C(H, count), without any drawing.

    Args:
        hits: (…, H) bool.
        count: of the boxes; all of them if they are fewer.
    """
    number = hits.shape[-1]
    misses, count = (~hits).sum(dim=-1), min(count, number)
    steps = torch.arange(count, device=hits.device)
    return 1 - ((misses[..., None] - steps).clamp(min=0) / (number - steps)).double().prod(dim=-1)


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    """Boxes (count, 4) float64 between two points drawn uniformly from an image, relative to its width and height."""
    ends = torch.rand(count, 2, 2, generator=generator, dtype=torch.float64)
    return torch.cat([ends.amin(dim=1), ends.amax(dim=1)], dim=1)
