"""The three losses of DINOv2 (Oquab et al. 2023, arXiv 2304.07193, section 4), weighted as in its released code.

Crops of a batch are ordered crop by crop, (crops, B, ...): the first crop of all images, then the second of all.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Cross-entropy over the last axis of logits (..., K) against targets (..., K) that sum to 1: (...) float32.

    Computed as logsumexp minus dot product, so that no matrix of log-probabilities is stored for the backward pass.
    """
    scaled = logits.float() / temperature
    return scaled.logsumexp(dim=-1) - (targets * scaled).sum(dim=-1)


def dino(local: Tensor, wide: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """DINO loss: cross-entropy of CLS between each student crop and each global teacher crop other than itself.

    It is the mean over all pairs of crops (with 8 local crops, 16 local and 2 global pairs) and over the batch.

    Args:
        local: (L, B, K) student logits of the local crops; L may be 0.
        wide: (2, B, K) student logits of the global crops.
        targets: (2, B, K) targets of the teacher.
        temperature: temperature of the student.

    Returns:
        The terms of the local and of the global pairs; their sum is the loss.
    """
    pairs, batch = 2 * len(local) + 2, wide.shape[1]
    # Both teacher crops share the student crop: the two cross-entropies sum to twice that with the mean target.
    near = 2 * cross_entropy(local, targets.mean(dim=0), temperature).sum()
    far = cross_entropy(wide, targets.flip(0), temperature).sum()
    return near / (pairs * batch), far / (pairs * batch)


def ibot(logits: Tensor, targets: Tensor, weights: Tensor, crops: int, temperature: float) -> Tensor:
    """iBOT loss: cross-entropy averaged over the masked patches of each crop, then over all crops, masked or not.

    Args:
        logits: (M, K) student logits of all masked patches.
        targets: (M, K) targets of the teacher, which sees these patches.
        weights: (M,), 1 / number of masked patches of the same crop.
        crops: number of global crops of the batch.
        temperature: temperature of the student.
    """
    return (cross_entropy(logits, targets, temperature) * weights).sum() / crops


def koleo(features: Tensor, group: int, eps: float = 1e-8) -> Tensor:
    """KoLeo regulariser: mean of -log of the distance to the nearest neighbour, which spreads features over the sphere.

    It uses the Kozachenko-Leonenko entropy estimator (Sablayrolles et al. 2018, arXiv 1806.03198). Neighbours are
    searched within a group of images, which in the released code is the batch of one GPU.

    Args:
        features: (B, D) CLS of one crop before the head, B a multiple of `group`.
        group: images per group, at least 2.
        eps: keeps the logarithm finite for identical features.
    """
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features.float(), dim=1, eps=eps).unflatten(0, (-1, group))
        cosine = (unit @ unit.mT).detach()
        cosine.diagonal(dim1=1, dim2=2).fill_(-2)
        nearest = unit.take_along_dim(cosine.argmax(dim=2)[..., None], dim=1)
        return -(F.pairwise_distance(unit, nearest, eps=eps) + eps).log().mean()
