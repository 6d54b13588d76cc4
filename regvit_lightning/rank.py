"""Effective rank of features: the number of directions that they effectively use."""

import torch
from torch import Tensor
from torch.nn import functional as F


def effective_rank(patches: Tensor, keep: Tensor) -> Tensor:
    """Exponential of the entropy of the singular values over their sum (Roy and Vetterli 2007), without centring.

    The same measure on features of many images is RankMe (Garrido et al. 2023, arXiv 2210.02885).

    Args:
        patches: (B, n, D).
        keep: boolean (B, n).

    Returns:
        (B,) float64; NaN for an image whose patches are all zero, or not all finite.
    """
    kept = patches.double() * keep[..., None]
    kept = kept.where(kept.isfinite().all(dim=(1, 2), keepdim=True), 0)  # or the eigenvalues of all images fail
    tall = patches.shape[1] > patches.shape[2]
    gram = kept.mT @ kept if tall else kept @ kept.mT
    # The Gram matrix squares the singular values: anything below the square root of float64's precision is rounding.
    squares = torch.linalg.eigvalsh(gram)
    squares = squares.where(squares > 1e-14 * squares.amax(dim=1, keepdim=True), 0)
    share = F.normalize(squares.sqrt(), p=1, dim=1, eps=0.0)
    return torch.special.entr(share).sum(dim=1).exp()
