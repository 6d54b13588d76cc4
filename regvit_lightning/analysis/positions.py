"""Positions of outliers: on the grid, by distance from the border, and similarity to their neighbours.

Sources: Darcet et al. 2023 (arXiv 2309.16588), figs. 5a and 10. They are compared with outliers
shuffled within their image: every image keeps its number of outliers, at uniformly random positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from regvit_lightning.runtime import seeds
from regvit_lightning.statistics import Scores, bootstrap

DRAWS = 999  # permutations: p-values are multiples of 1 / 1000


@dataclass(frozen=True)
class Placement:
    """Positions of the outliers of N images on a grid of h × w patches.

    Attributes:
        share: (h, w) share of the images with an outlier at each position.
        rings: (K,) share of outliers among the patches at distance 0..K-1 from the border, in patches.
        null_rings: (K, 2) 95 % interval of the shuffled shares.
        p_rings: (K,) two-sided p-value of each ring.
        gini: inequality of `share` over the grid: 0 if all positions are equal, towards 1 if one has all outliers.
        null_gini: mean of the shuffled Gini coefficients.
        p_gini: share of permutations that are at least as unequal.
    """

    share: Tensor
    rings: Tensor
    null_rings: Tensor
    p_rings: Tensor
    gini: float
    null_gini: float
    p_gini: float


def placement(mask: Tensor, seed: int = 0) -> Placement:
    """Test the positions of the outliers `mask` (N, h, w); without outliers every p-value is 1."""
    share, distance = mask.double().mean(dim=0), rings(*mask.shape[1:])
    null = _shuffled(mask, seed)
    measured_rings, null_rings = _by_ring(share[None], distance)[0], _by_ring(null, distance)
    null_gini, expected = gini(null), mask.double().mean()
    # Shares are multiples of 1/N: values that differ by rounding only count as equally extreme.
    farther = (null_rings - expected).abs() >= (measured_rings - expected).abs() - 1e-9
    return Placement(
        share=share,
        rings=measured_rings,
        null_rings=torch.quantile(null_rings, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0).T,
        p_rings=(1 + farther.double().sum(dim=0)) / (1 + DRAWS),
        gini=float(gini(share)),
        null_gini=float(null_gini.mean()),
        p_gini=(1 + int((null_gini >= gini(share) - 1e-9).sum())) / (1 + DRAWS),
    )


def rings(height: int, width: int) -> Tensor:
    """Distance (h, w) of each patch to the nearest border, in patches: 0 at the border."""
    rows, columns = torch.arange(height), torch.arange(width)
    down, right = torch.minimum(rows, height - 1 - rows), torch.minimum(columns, width - 1 - columns)
    return torch.minimum(down[:, None], right)


def gini(shares: Tensor) -> Tensor:
    """Gini coefficient over the last two axes of shares (…, h, w): mean difference over twice the mean; 0 for zeros."""
    ordered = shares.double().flatten(-2).sort(dim=-1).values
    positions = ordered.shape[-1]
    rank = 2 * torch.arange(1, positions + 1, dtype=torch.float64) - positions - 1
    return (ordered * rank).sum(-1) / (positions * ordered.sum(-1)).clamp(min=1e-12)


def _by_ring(shares: Tensor, distance: Tensor) -> Tensor:
    """Mean of shares (M, h, w) over each ring: (M, K)."""
    member = torch.nn.functional.one_hot(distance.flatten()).double()
    return shares.double().flatten(1) @ member / member.sum(dim=0)


def _shuffled(mask: Tensor, seed: int) -> Tensor:
    """Shares (DRAWS, h, w) by position of outliers shuffled within their image."""
    counts, positions = mask.flatten(1).sum(dim=1).cpu(), mask[0].numel()
    counts = counts[counts > 0]
    generator = seeds.generator(seed, "shuffle")
    drawn = torch.zeros(DRAWS, positions, dtype=torch.float64)
    for draw in drawn if len(counts) else ():
        most = int(counts.max())
        chosen = torch.rand(len(counts), positions, generator=generator).topk(most).indices
        draw += chosen[torch.arange(most) < counts[:, None]].bincount(minlength=positions)
    return drawn.view(DRAWS, *mask.shape[1:]) / len(mask)


@dataclass(frozen=True)
class Neighbours:
    """Cosine similarity of patches to their four neighbours right after the patch embedding.

    Attributes:
        outliers, normal: means over all patches of the kind; NaN for a kind that does not occur.
        difference: outliers - normal.
        interval: 95 % interval of the difference, by resampling the images that have an outlier.
    """

    outliers: float
    normal: float
    difference: float
    interval: tuple[float, float]


def compare_neighbours(similarity: Tensor, mask: Tensor, seed: int = 0) -> Neighbours:
    """Compare the similarity of outliers to their neighbours with that of other patches.

    Args:
        similarity: (N, h, w), `Norms.neighbours`.
        mask: (N, h, w) outliers.
        seed: seed of the bootstrap.
    """
    mask, similarity = mask.flatten(1), similarity.flatten(1).double()
    columns = (mask * similarity, mask, ~mask * similarity, ~mask)
    sums = torch.stack([column.double().sum(dim=1) for column in columns], dim=1)
    total = sums.mean(dim=0)
    having = mask.any(dim=1)
    others, count = sums[~having].sum(dim=0).numpy(), int(having.sum())
    measured = bootstrap(sums[having], seed, lambda mean: _difference(count * mean + others)) if count else None
    interval = measured or (float("nan"), float("nan"))
    return Neighbours(float(total[0] / total[1]), float(total[2] / total[3]), _difference(total), interval)


def _difference(sums: Tensor | Scores) -> float:
    return float(sums[0] / sums[1] - sums[2] / sums[3])
