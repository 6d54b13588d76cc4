"""Locality of patches after every block: what they share with their image, with CLS, and with their position.

- Cosine of the patches to the mean patch of their image, and to CLS: both rise where patches hold the image instead of
  their own content (DINOv3, Siméoni et al. 2025, arXiv 2508.10104, for CLS).
- Shares of variance. The variance of a hidden dimension over images and positions splits exactly into that of the mean
  over images (position), that of the mean over positions (image), and the rest, which belongs to one patch alone.
  Without any effect of the position, its share is about 1 / N for N images.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.models.tokens import Tokens


@dataclass(frozen=True)
class Locality:
    """Locality of N images at S stages: after each block 1..depth before the final norm, and after the final norm.

    Attributes:
        mean_cosine: (N, S), cosine to the mean patch of the image, mean over the patches.
        cls_cosine: (N, S), cosine to CLS, mean over the patches; None for a model without CLS.
        position: (S, D), share of the variance by position, η²(p) = Var_p(E_image f) / Var(f), 0 to 1; NaN for a
            dimension that does not vary.
        image: (S, D), share of the variance by image, Var_image(E_p f) / Var(f).
        variance: (S, D), Var(f) over images and positions.
    """

    mean_cosine: Tensor
    cls_cosine: Tensor | None
    position: Tensor
    image: Tensor
    variance: Tensor

    def shares(self) -> dict[str, Tensor]:
        """Shares (S,) of the variance of all dimensions together, by `position`, `image` and `patch`; they sum to 1."""
        position, image = (self._together(part) for part in (self.position, self.image))
        return {"position": position, "image": image, "patch": 1 - position - image}

    def _together(self, share: Tensor) -> Tensor:
        return (share.nan_to_num() * self.variance).sum(dim=1) / self.variance.sum(dim=1)


class LocalitySums:
    """Collects `Locality` from the tokens of a walk through the blocks, batch by batch, see `Backbone.walk`.

    Memory is 8 D bytes per position and stage, whatever the number of images.
    """

    def __init__(self) -> None:
        self._cosines: dict[int, list[Tensor]] = {}
        self._of_cls: dict[int, list[Tensor]] = {}
        self._origin: dict[int, Tensor] = {}  # subtracted from every patch, so that squares lose no digits
        self._by_position: dict[int, Tensor] = {}  # sums over images (P, D)
        self._squares: dict[int, Tensor] = {}  # sums over images and positions, and over images of squared means (2, D)
        self._images: dict[int, int] = {}

    def add(self, stage: int, tokens: Tokens) -> None:
        """Add the tokens of a batch at a stage 1..depth + 1; those of the patch embedding, stage 0, are left out."""
        if stage == 0:
            return
        patches = tokens.patches.flatten(1, 2).double()
        cosine = F.cosine_similarity(patches, patches.mean(dim=1, keepdim=True), dim=2).mean(dim=1)
        self._cosines.setdefault(stage, []).append(cosine.cpu())
        if tokens.cls is not None:
            to_cls = F.cosine_similarity(patches, tokens.cls.double()[:, None], dim=2).mean(dim=1)
            self._of_cls.setdefault(stage, []).append(to_cls.cpu())
        centred = patches - self._origin.setdefault(stage, patches.mean(dim=(0, 1)))
        squares = torch.stack([centred.square().sum(dim=(0, 1)), centred.mean(dim=1).square().sum(dim=0)])
        positions = centred.sum(dim=0)
        first = stage not in self._squares
        self._by_position[stage] = positions if first else self._by_position[stage] + positions
        self._squares[stage] = squares if first else self._squares[stage] + squares
        self._images[stage] = self._images.get(stage, 0) + len(patches)

    def locality(self) -> Locality:
        """Locality of all images added."""
        stages = sorted(self._squares)
        position, image, variance = zip(*(self._split(stage) for stage in stages), strict=True)
        cosines = torch.stack([torch.cat(self._cosines[stage]) for stage in stages], dim=1)
        of_cls = [torch.cat(self._of_cls[stage]) for stage in stages if stage in self._of_cls]
        return Locality(
            mean_cosine=cosines,
            cls_cosine=torch.stack(of_cls, dim=1) if of_cls else None,
            position=torch.stack(position).cpu(),
            image=torch.stack(image).cpu(),
            variance=torch.stack(variance).cpu(),
        )

    def _split(self, stage: int) -> tuple[Tensor, Tensor, Tensor]:
        """Shares by position and by image, and the variance, of one stage, each (D,)."""
        images, by_position = self._images[stage], self._by_position[stage] / self._images[stage]
        mean = by_position.mean(dim=0)
        total, of_images = self._squares[stage]
        variance = total / images / len(by_position) - mean.square()
        scale = (mean.square() + variance).clamp(min=torch.finfo(torch.float64).tiny)
        varies = variance > 1e-12 * scale  # rounding errors only, otherwise
        shares = by_position.var(dim=0, correction=0), of_images / images - mean.square()
        position, image = ((part / variance).clamp(0, 1).where(varies, torch.nan) for part in shares)
        return position, image, variance.where(varies, 0)
