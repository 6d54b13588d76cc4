"""KoLeo: a regulariser that spreads vectors over the sphere (Sablayrolles et al. 2018, arXiv 1806.03198)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def koleo(features: Tensor, group: int, eps: float = 1e-8) -> Tensor:
    """KoLeo regulariser: mean of -log of the distance to the nearest neighbour, which spreads features over the sphere.

    It uses the Kozachenko-Leonenko entropy estimator. Neighbours are searched within a group of vectors: for DINOv2 the
    images that its released code has on one GPU, for registers those of one image.

    Args:
        features: (B, D) vectors of any length, B a multiple of `group`; computed in float32, or float64 if they are.
        group: vectors per group, at least 2.
        eps: keeps the logarithm finite for identical features.
    """
    with torch.autocast(features.device.type, enabled=False):
        precise = features.to(torch.promote_types(features.dtype, torch.float32))
        unit = F.normalize(precise, dim=1, eps=eps).unflatten(0, (-1, group))
        cosine = (unit @ unit.mT).detach()
        cosine.diagonal(dim1=1, dim2=2).fill_(-2)
        nearest = unit.take_along_dim(cosine.argmax(dim=2)[..., None], dim=1)
        return -(F.pairwise_distance(unit, nearest, eps=eps) + eps).log().mean()
