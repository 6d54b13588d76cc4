"""The same content at another place of the grid: are patches matched by what they show, or by where they are?

An image is cropped twice, the second crop some patches further to the right. A patch of the second crop shows what
another one of the first shows, at a different place of the grid; which patch of the first crop is the most similar to
it? Content and place are both known exactly. The crops end elsewhere, so that not even a model without positions is
perfect.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Matches:
    """Matches of the patches of B images between two crops, all (B,) float64.

    Attributes:
        content: share in percent whose nearest patch shows the same.
        position: share in percent whose nearest patch is at the same place of the grid.
        same_content, same_position, others: mean cosine to the patch of the same content, to that at the same place,
            and to all others.
    """

    content: Tensor
    position: Tensor
    same_content: Tensor
    same_position: Tensor
    others: Tensor


def match(first: Tensor, second: Tensor, shift: int) -> Matches:
    """Match the patches of the second crop, whose content the first has, to all patches of the first by the cosine.

    Args:
        first, second: (B, h, w, D) of crops of which the second lies `shift` patches further to the right.
        shift: 1 to w - 1.
    """
    height, width = first.shape[1:3]
    keys = F.normalize(first.double(), dim=-1).flatten(1, 2)
    queries = F.normalize(second.double(), dim=-1)[:, :, : width - shift].flatten(1, 2)
    places = torch.arange(height * width, device=first.device).view(height, width)[:, : width - shift].flatten()
    cosines = queries @ keys.mT  # (B, n, h w)
    nearest = cosines.argmax(dim=2)
    own, same = (_at(cosines, places + moved) for moved in (shift, 0))
    others = (cosines.sum(dim=2) - own - same) / (height * width - 2)
    return Matches(
        content=100 * (nearest == places + shift).double().mean(dim=1),
        position=100 * (nearest == places).double().mean(dim=1),
        same_content=own.mean(dim=1),
        same_position=same.mean(dim=1),
        others=others.mean(dim=1),
    )


def _at(cosines: Tensor, index: Tensor) -> Tensor:
    """Cosine (B, n) of each query to the key with its index (n,)."""
    return cosines.gather(2, index.expand(len(cosines), -1)[..., None])[..., 0]
