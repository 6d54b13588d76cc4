"""Collapse of the patch features of an image: effective rank and cosine similarities, reported with every norm.

Registers can make norms uniform and patches similar at the same time: with them the effective rank of the patches
of DINOv2 falls from 13.5 to 4.0 (arXiv 2604.14433), so a norm alone does not say that dense features are better.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.models.tokens import Tokens
from regvit_lightning.rank import effective_rank


@dataclass(frozen=True)
class Collapse:
    """Collapse measures of each image.

    Attributes:
        effective_rank: (B,), 1 to min(h w, D).
        patch_cosine: (B,), mean over pairs of different patches, -1 to 1.
        cls_cosine: (B,), mean over patches of the cosine to CLS; None for a model without CLS.
    """

    effective_rank: Tensor
    patch_cosine: Tensor
    cls_cosine: Tensor | None


def measure(tokens: Tokens, keep: Tensor | None = None) -> Collapse:
    """Effective rank and cosine similarities of the patches of each image.

    Args:
        tokens: tokens of one block.
        keep: boolean (B, h, w), patches to include, such as all but the outliers; None for all patches.
    """
    patches = tokens.patches.flatten(1, 2)
    counted = patches.new_ones(patches.shape[:2], dtype=torch.bool) if keep is None else keep.flatten(1)
    cls = None if tokens.cls is None else cls_cosine(tokens.cls, patches, counted)
    return Collapse(effective_rank(patches, counted), patch_cosine(patches, counted), cls)


def patch_cosine(patches: Tensor, keep: Tensor) -> Tensor:
    """Mean cosine over all pairs of different patches of an image.

    Args:
        patches: (B, n, D).
        keep: boolean (B, n).

    Returns:
        (B,) float64; NaN for an image with fewer than two patches.
    """
    unit = F.normalize(patches.double(), dim=2) * keep[..., None]
    lengths, counts = unit.square().sum(dim=(1, 2)), keep.sum(dim=1)
    return (unit.sum(dim=1).square().sum(dim=1) - lengths) / (counts * (counts - 1))


def cls_cosine(cls: Tensor, patches: Tensor, keep: Tensor) -> Tensor:
    """Mean over patches of the cosine to CLS, which rises where locality is lost (DINOv3, arXiv 2508.10104).

    Args:
        cls: (B, D).
        patches: (B, n, D).
        keep: boolean (B, n).

    Returns:
        (B,) float64; NaN for an image without a patch.
    """
    cosine = F.cosine_similarity(patches.double(), cls.double()[:, None], dim=2)
    return (cosine * keep).sum(dim=1) / keep.sum(dim=1)


def first_component(patches: Tensor) -> Tensor:
    """First principal component of the patches of each image, whitened (paper, Fig. 20).

    The paper does not say whether the PCA is per image or over all images; here it is per image. The sign is chosen so
    that the value farthest from 0 is positive.

    Args:
        patches: (B, h, w, D).

    Returns:
        (B, h, w) float64 with mean 0 and standard deviation 1; NaN for an image whose patches are all equal.
    """
    rows = patches.double().flatten(1, 2)
    rows = rows - rows.mean(dim=1, keepdim=True)
    component = torch.linalg.eigh(rows @ rows.mT).eigenvectors[..., -1]
    spread = rows.abs().amax(dim=(1, 2), keepdim=True)[..., 0]
    white = (component - component.mean(dim=1, keepdim=True)) * component.shape[1] ** 0.5
    farthest = white.gather(1, white.abs().argmax(dim=1, keepdim=True))
    return (white * farthest.sign()).where(spread > 0, torch.nan).unflatten(1, patches.shape[1:3])
