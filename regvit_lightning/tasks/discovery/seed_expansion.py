"""LOST seed expansion: the seed is the patch similar to the fewest others, the object is what is similar to it.

Source: Siméoni et al. 2021 (arXiv 2109.14279), section 3, and valeoai/LOST, object_discovery.py, here for a batch of
images of one size and any number of biases at once. The bias that the registers paper adds to the Gram matrix moves
the threshold of similarity between two patches from 0 to -bias.

Among equal degrees, the patch of the lower row-major index comes first: the seed is the upper left of them. The source
leaves this to its sort. Where all degrees are equal, the seed depends on nothing else: such images are reported.

The Gram matrix dominates the cost. It is symmetric, so only one half of it is computed, in strips that stay in the
cache and are counted immediately: the full matrix is never stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

# Four neighbours within a map, none across maps: one call labels a whole batch.
NEIGHBOURS = np.zeros((3, 3), bool), scipy.ndimage.generate_binary_structure(2, 1), np.zeros((3, 3), bool)

STRIP = 256  # rows: fewer are slow to multiply, more compute more of the redundant half
ELEMENTS = {"cpu": 2**21, "cuda": 2**27}  # compared at once: fits the cache of a CPU, or keeps a GPU busy
SAMPLE = 512  # patches of an image whose products give the median product

Biases = Sequence[float] | Tensor
"""J biases for all images, or (B, J) with those of each image."""


@dataclass(frozen=True)
class Expansion:
    """Intermediate and final outputs of LOST for B images with J biases.

    Attributes:
        degrees: (B, J, h, w) number of other patches with a positive similarity to each patch.
        seeds: (B, J) indices in the grid, row-major.
        similarity: (B, J, h, w) similarity of each patch to the seed, including the bias; positive is similar.
        scores: (B, J, h, w) summed similarity to the expanded seed; positive is foreground.
        objects: (B, J, h, w) bool, the connected foreground that contains the seed.
        fallback: (B, J) bool, where the seed itself is background: the object is then the seed alone.
        constant: (B, J) bool, where all degrees are equal.
        tied: (B, J) bool, where several patches have the lowest degree.
        boxes: (B, J, 4) x1, y1, x2, y2 in patches, ends excluded.
    """

    degrees: Tensor
    seeds: Tensor
    similarity: Tensor
    scores: Tensor
    objects: Tensor
    fallback: Tensor
    constant: Tensor
    tied: Tensor
    boxes: Tensor


def images_at_once(features: Tensor) -> int:
    """Images of features (B, h, w, D) that are treated together: as many as stay in the cache, at least one."""
    return max(ELEMENTS[features.device.type] // features[0].numel(), 1)


def median_product(features: Tensor) -> Tensor:
    """Median absolute dot product (B,) between different patches of each image: the unit of a scaled bias.

    Args:
        features: (B, N, D) float32. Evenly spaced patches stand for those of an image with more than `SAMPLE`.

    Returns:
        Positive values; 1 where there is a single patch or the median is 0.
    """
    some = features[:, :: -(-features.shape[1] // SAMPLE)]
    count = some.shape[1]
    rows, columns = torch.triu_indices(count, count, offset=1, device=features.device)
    if not len(rows):
        return features.new_ones(len(features))
    pairs, middle = count * rows + columns, (len(rows) - 1) // 2
    medians = features.new_empty(len(features))
    for number, one in enumerate(some):
        products = (one @ one.T).flatten().index_select(0, pairs).abs_().cpu().numpy()
        medians[number] = np.partition(products, middle)[middle].item()
    return torch.where(medians > 0, medians, 1.0)


def _per_image(biases: Biases, features: Tensor) -> Tensor:
    """Biases (B, J) of each image of features (B, …)."""
    return torch.as_tensor(biases, dtype=features.dtype, device=features.device).expand(len(features), -1)


def degrees(features: Tensor, biases: Biases = (0.0,), l2_biases: Biases = ()) -> Tensor:
    """Degree of each patch for every bias: number of other patches with a positive similarity to it.

    Args:
        features: (B, N, D) float32.
        biases: biases added to the dot products of the features.
        l2_biases: biases added to the dot products of the L2-normalised features.

    Returns:
        (B, J, N) int64, for `biases` and then for `l2_biases`.
    """
    images, patches, _ = features.shape
    both = [_per_image(values, features) for values in (biases, l2_biases)]
    counts = features.new_zeros(images, both[0].shape[1] + both[1].shape[1], patches)  # exact: integers below 2^24
    at_once = max(ELEMENTS[features.device.type] // (min(STRIP, patches) * patches * counts.shape[1]), 1)
    parts = (part.split(at_once) for part in (features, *both, counts))
    for own, raw, l2, total in zip(*parts, strict=True):
        norms = own.norm(dim=2).clamp(min=1e-12)
        for first in range(0, patches, STRIP):
            rows = slice(first, first + STRIP)
            strip = own[:, rows] @ own[:, first:].mT
            strip.diagonal(dim1=1, dim2=2).fill_(-torch.inf)  # a patch is not its own neighbour
            _count(strip, -raw, total[:, : raw.shape[1], first:])
            if l2.shape[1]:
                strip.div_(norms[:, rows, None]).div_(norms[:, None, first:])
                _count(strip, -l2, total[:, raw.shape[1] :, first:])
    return counts.long()


def _count(strip: Tensor, thresholds: Tensor, total: Tensor) -> None:
    """Add counts above each threshold for the rows of a strip and, except in its first square, for its columns.

    Args:
        strip: (B, rows, N).
        thresholds: (B, J).
        total: (B, J, N).
    """
    rows, at_once = strip.shape[1], max(ELEMENTS[strip.device.type] // strip.numel(), 1)
    for some, counts in zip(thresholds.split(at_once, dim=1), total.split(at_once, dim=1), strict=True):
        above = strip.new_empty(*some.shape, *strip.shape[1:])  # floats, as their sums are fastest
        torch.gt(strip[:, None], some[..., None, None], out=above)
        counts[..., :rows] += above.sum(dim=3)
        counts[..., rows:] += above[..., rows:].sum(dim=2)


def expand(features: Tensor, degrees: Tensor, biases: Biases, k: int) -> Expansion:
    """Seed, seed expansion and box for every bias.

    Args:
        features: (B, h, w, D) float32, L2-normalised if the biases are for normalised features.
        degrees: (B, J, h w) for the same features and biases; ties go to the lower index.
        biases: as for `degrees`.
        k: how many patches of lowest degree may join the seed.

    Sums over similar patches are computed from their features instead of rows of the Gram matrix, which is equivalent.
    """
    grid, flat = features.shape[1:3], features.flatten(1, 2)
    patches, bias = flat.shape[1], _per_image(biases, flat)[..., None]
    ranks = degrees * patches + torch.arange(patches, device=degrees.device)  # unique
    lowest = ranks.topk(min(k, patches), dim=2, largest=False).indices
    seeds = lowest[..., 0]
    similarity = _rows(flat, seeds) @ flat.mT + bias
    similar = torch.zeros_like(similarity).scatter_(2, lowest, (similarity.gather(2, lowest) > 0).float())
    scores = similar @ flat @ flat.mT + similar.sum(dim=2, keepdim=True) * bias
    foreground = (scores > 0).flatten(0, 1).unflatten(1, grid)
    objects, fallback = connected_part(seeds.flatten(), foreground)
    least = degrees.amin(dim=2, keepdim=True)
    return Expansion(
        degrees=degrees.unflatten(2, grid),
        seeds=seeds,
        similarity=similarity.unflatten(2, grid),
        scores=scores.unflatten(2, grid),
        objects=objects.unflatten(0, seeds.shape),
        fallback=fallback.unflatten(0, seeds.shape),
        constant=degrees.amax(dim=2) == least[..., 0],
        tied=(degrees == least).sum(dim=2) > 1,
        boxes=tight_boxes(objects).unflatten(0, seeds.shape),
    )


def _rows(features: Tensor, indices: Tensor) -> Tensor:
    """Features (B, J, D) at indices (B, J) of features (B, N, D)."""
    return features.gather(1, indices[..., None].expand(-1, -1, features.shape[2]))


# -------------------------------------------------------------- from a foreground to a box, in TokenCut as in LOST


def connected_part(seeds: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor]:
    """4-connected part of each foreground that contains the seed; the seed alone if it lies in the background.

    Args:
        seeds: (B,) indices in the grid, row-major.
        foreground: (B, h, w) bool.

    Returns:
        Parts (B, h, w) bool, and (B,) bool, True where the seed lies in the background.
    """
    labels, _ = scipy.ndimage.label(foreground.cpu().numpy(), np.stack(NEIGHBOURS))
    parts = torch.from_numpy(labels).to(foreground.device).flatten(1)
    own = parts.gather(1, seeds[:, None])
    alone = torch.zeros_like(parts, dtype=torch.bool).scatter_(1, seeds[:, None], True)
    return torch.where(own > 0, parts == own, alone).view_as(foreground), own[:, 0] == 0


def tight_boxes(parts: Tensor) -> Tensor:
    """Tight box (B, 4) of each part (B, h, w) bool, none empty: x1, y1, x2, y2 in patches, ends excluded."""
    ends = [_ends(parts.any(dim=dim)) for dim in (1, 2)]
    return torch.stack([ends[0][0], ends[1][0], ends[0][1], ends[1][1]], dim=1)


def _ends(line: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the first True and last True + 1 in each row (B, n)."""
    return line.int().argmax(dim=1), line.shape[1] - line.int().flip(1).argmax(dim=1)
