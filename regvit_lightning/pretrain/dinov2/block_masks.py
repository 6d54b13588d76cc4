"""Block-wise masks for iBOT (Zhou et al. 2022, arXiv 2111.07832; the blocks are BEiT's, arXiv 2106.08254).

Masks of a group of images are drawn jointly, as DINOv2 draws them for the batch of one GPU: a fraction of the crops is
masked, with ratios drawn from equal slices of the range, so that the number of masked patches hardly varies.
"""

import math

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

MIN_PATCHES = 4  # smallest block
MIN_ASPECT = 0.3  # smallest height / width; the largest is its inverse
ATTEMPTS = 10  # to add a block, before the mask is left as it is


def group_masks(
    rng: np.random.Generator, crops: int, grid: tuple[int, int], ratios: tuple[float, float], probability: float
) -> Mask:
    """Masks of the crops of one group.

    Args:
        rng: random generator of all draws.
        crops: number of crops C.
        grid: patches (h, w) of a crop.
        ratios: smallest and largest share of masked patches.
        probability: share of the crops that are masked.

    Returns:
        (C, h, w), True where masked; crops without a mask are all False.
    """
    masks = np.zeros((crops, *grid), dtype=bool)
    masked, patches = int(crops * probability), grid[0] * grid[1]
    edges = np.linspace(*ratios, masked + 1)
    indices = rng.permutation(crops)[:masked]
    for index, low, high in zip(indices, edges, edges[1:], strict=False):
        masks[index] = block_mask(rng, grid, int(patches * _between(rng, low, high)))
    return masks


def block_mask(rng: np.random.Generator, grid: tuple[int, int], target: int) -> Mask:
    """Mask (h, w) of `target` patches, or fewer if ten attempts to add another block have failed."""
    mask, largest = np.zeros(grid, dtype=bool), grid[0] * grid[1] / 2
    while (left := target - int(mask.sum())) > 0:
        if not _add_block(rng, mask, min(left, largest)):
            break
    return mask


def block_shape(rng: np.random.Generator, largest: float) -> tuple[int, int]:
    """Block size (h, w) in patches, rounded: area uniform from `MIN_PATCHES` to `largest`, aspect log-uniform."""
    area = _between(rng, MIN_PATCHES, largest)
    aspect = math.exp(_between(rng, math.log(MIN_ASPECT), -math.log(MIN_ASPECT)))
    return round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))


def _add_block(rng: np.random.Generator, mask: Mask, largest: float) -> bool:
    for _ in range(ATTEMPTS):
        height, width = block_shape(rng, largest)
        if height >= mask.shape[0] or width >= mask.shape[1]:
            continue
        top, left = (int(rng.integers(room + 1)) for room in (mask.shape[0] - height, mask.shape[1] - width))
        block = mask[top : top + height, left : left + width]
        if 0 < block.size - int(block.sum()) <= largest:
            block[:] = True
            return True
    return False


def _between(rng: np.random.Generator, start: float, end: float) -> float:
    # Not rng.uniform: when fewer than MIN_PATCHES patches are left, start is above end.
    return start + (end - start) * rng.random()
