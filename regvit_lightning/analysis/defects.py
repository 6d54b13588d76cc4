"""Singular defects: the direction that the blocks amplify most, and how far patches point along it.

Source: SINDER (Wang et al. 2024, arXiv 2407.16826). The direction after block b is the leading left singular vector of
the product of the linearised blocks 1..b. A patch is a defect if its |cosine| to that direction lies more than `SIGMAS`
standard deviations above the mean over the patches of its image.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.errors import UserError
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.tokens import Tokens

SIGMAS = 4.0


@torch.no_grad()
def directions(matrices: Iterable[Tensor]) -> Tensor:
    """Unit vectors (depth, D): the leading left singular vector of the product of the first b matrices (D, D)."""
    product, found = torch.tensor(1.0), []
    for matrix in matrices:
        product = matrix @ product if product.ndim else matrix
        product = product / product.norm()
        found.append(torch.linalg.eigh(product @ product.mT).eigenvectors[:, -1])
    return torch.stack(found)


@dataclass(frozen=True)
class Defects:
    """Cosines of the patches of N images to the singular direction after each block 1..depth.

    Attributes:
        cosines: (N, depth, h, w), absolute values.
    """

    cosines: Tensor

    @property
    def masks(self) -> Tensor:
        """Patches detected as defects, boolean (N, depth, h, w)."""
        flat = self.cosines.flatten(2).double()
        cutoff = flat.mean(dim=2) + SIGMAS * flat.std(dim=2)
        return self.cosines > cutoff[..., None, None]

    def shares(self) -> list[float]:
        """Share of patches detected after each block."""
        shares: list[float] = self.masks.double().mean(dim=(0, 2, 3)).tolist()
        return shares

    def mean_cosines(self, high: Tensor) -> tuple[list[float], list[float]]:
        """Mean |cosine| after each block of the patches in a mask (N, depth, h, w), and of the others; NaN for none."""
        counts = high.sum(dim=(0, 2, 3)), (~high).sum(dim=(0, 2, 3))
        inside, outside = ((self.cosines.double() * mask).sum(dim=(0, 2, 3)) for mask in (high, ~high))
        return (inside / counts[0]).tolist(), (outside / counts[1]).tolist()


class DefectCosines:
    """Collects `Defects` from the tokens of a walk through the blocks, batch by batch, see `Backbone.walk`.

    Attributes:
        why_not: the reason where the blocks of the model are not linearised, one line; empty otherwise.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.why_not, self._directions = "", torch.zeros(0)
        try:
            self._directions = directions(backbone.linearised_blocks())
        except UserError as error:
            self.why_not = str(error)
        self._cosines: dict[int, list[Tensor]] = {}

    def add(self, stage: int, tokens: Tokens) -> None:
        """Add the tokens of a batch after a block 1..depth; other stages are left out."""
        if not 1 <= stage <= len(self._directions):
            return
        patches = tokens.patches.float()
        direction = self._directions[stage - 1].to(patches.device)
        self._cosines.setdefault(stage, []).append((F.normalize(patches, dim=-1) @ direction).abs().cpu())

    def defects(self) -> Defects | None:
        """Cosines of all images added; None where the blocks are not linearised."""
        if self.why_not:
            return None
        return Defects(torch.stack([torch.cat(self._cosines[stage]) for stage in sorted(self._cosines)], dim=1))
