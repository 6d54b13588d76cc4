"""k-means by Lloyd's iterations from the centres of k-means++, on any device and in bounded memory."""

import torch
from torch import Tensor

from regvit_lightning.runtime import seeds

AT_ONCE = 16384  # points whose distances to all centres are held at a time


def kmeans(points: Tensor, clusters: int, iterations: int, seed: int) -> Tensor:
    """Centres (clusters, D), float32, of points (N, D), N >= clusters.

    The first centres are those of k-means++. A cluster that loses all points keeps its centre.

    Source: Arthur and Vassilvitskii 2007 (SODA).

    Args:
        iterations: of Lloyd's algorithm at most; it ends where no point changes its cluster.
        seed: seed of the first centres.
    """
    centres, before = first_centres(points, clusters, seed), None
    for _ in range(iterations):
        index = assigned(points, centres)
        if before is not None and torch.equal(index, before):
            break
        centres, before = _means(points, index, centres), index
    return centres


def first_centres(points: Tensor, clusters: int, seed: int) -> Tensor:
    """Centres (clusters, D) drawn from points (N, D): each with a probability in proportion to the squared distance to
    the nearest one before it; where all distances are 0, any point."""
    generator = seeds.generator(seed, "k-means")
    chosen = [int(torch.randint(len(points), (), generator=generator))]
    nearest = _squared_distances(points, points[chosen[0]])
    for draw in torch.rand(clusters - 1, generator=generator, dtype=torch.float64).tolist():
        sums = nearest.double().cumsum(dim=0)
        weight = sums[-1].item()
        found = torch.searchsorted(sums, draw * weight, right=True).item() if weight > 0 else draw * len(points)
        chosen.append(min(int(found), len(points) - 1))
        nearest = torch.minimum(nearest, _squared_distances(points, points[chosen[-1]]))
    return points[chosen].clone()


def _squared_distances(points: Tensor, centre: Tensor) -> Tensor:
    """Squared distance (N,) of each point (N, D) to one centre (D,)."""
    return torch.cat([(part - centre).square().sum(dim=1) for part in points.split(AT_ONCE)])


def assigned(points: Tensor, centres: Tensor) -> Tensor:
    """Index (N,) of the centre (K, D) nearest to each point (N, D); of equally near ones the first."""
    half = centres.square().sum(dim=1) / 2
    return torch.cat([(part @ centres.T - half).argmax(dim=1) for part in points.split(AT_ONCE)])


def _means(points: Tensor, index: Tensor, centres: Tensor) -> Tensor:
    counts = index.bincount(minlength=len(centres))[:, None]
    sums = torch.zeros(centres.shape, dtype=torch.float64, device=points.device)
    for part, own in zip(points.split(AT_ONCE), index.split(AT_ONCE), strict=True):
        sums.index_add_(0, own, part.double())
    return torch.where(counts > 0, sums / counts.clamp(min=1), centres.double()).float()
