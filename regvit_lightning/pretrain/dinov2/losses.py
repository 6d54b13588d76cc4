"""The losses of DINOv2 against its teacher (Oquab et al. 2023, arXiv 2304.07193, section 4), as in its released code.

The third loss, KoLeo, has no teacher and stands in `pretrain/koleo.py`.

Crops of a batch are ordered crop by crop, (crops, B, ...): the first crop of all images, then the second of all.
"""

from torch import Tensor


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
