"""Block-wise masks for iBOT (Zhou et al. 2022, arXiv 2111.07832; the blocks are BEiT's, arXiv 2106.08254).

Masks of a group of images are drawn together, as DINOv2 draws them for the batch of a GPU: a share of the crops has
one, and their ratios are spread over equal slices of the range, so that the number of masked patches hardly varies.
"""

import math

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

MIN_PATCHES = 4  # of a block
MIN_ASPECT = 0.3  # height over width lies between this and its inverse
ATTEMPTS = 10  # at a block, before the mask stays as it is


def group_masks(
    rng: np.random.Generator, crops: int, grid: tuple[int, int], ratios: tuple[float, float], probability: float
) -> Mask:
    """Masks of the crops of one group.

    Args:
        rng: gives every draw.
        crops: C.
        grid: patches (h, w) of a crop.
        ratios: smallest and largest share of masked patches.
        probability: share of the crops that have a mask.

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
    """A mask (h, w) of at most `target` patches, and fewer only where ten attempts at a further block did not fit."""
    mask, largest = np.zeros(grid, dtype=bool), grid[0] * grid[1] / 2
    while (left := target - int(mask.sum())) > 0:
        if not _add_block(rng, mask, min(left, largest)):
            break
    return mask


def block_shape(rng: np.random.Generator, largest: float) -> tuple[int, int]:
    """Height and width in patches: area uniform from `MIN_PATCHES` to `largest`, aspect log-uniform, both rounded."""
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
    # Not rng.uniform: a block may be smaller than MIN_PATCHES when fewer are left, and then the ends are reversed.
    return start + (end - start) * rng.random()
