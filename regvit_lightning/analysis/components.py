"""Principal components of the patches of an image as colours, and the cosine of every patch to one of them.

Source of the colours: Oquab et al. 2023 (DINOv2, arXiv 2304.07193, section 7.6 and fig. 1): the first component of all
patches parts foreground from background, and the first three components of the foreground become red, green and blue.
The paper picks the threshold for each set of images; here it is Otsu's (1979), and the foreground is the side that
holds less of the image's border. Every image stands alone: colours do not correspond across images or models.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

COLOURS = 3
CLIPPED = 0.01  # share of the patches at each end of a component that is clipped before it is stretched to 0..1


def colours(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Three principal components of the foreground of one image, as colours.

    Args:
        patches: (h, w, D).

    Returns:
        (h, w, 3) float32 in 0..1, NaN in the background; and the foreground, (h, w) bool. Without three components,
        as where all patches are equal, everything is background.
    """
    rows = patches.double().flatten(0, 1)
    foreground = _foreground(scores(rows, 1)[:, 0], patches.shape[:2])
    painted = torch.full((*patches.shape[:2], COLOURS), torch.nan)
    inside = rows[foreground.flatten()]
    if len(inside) <= COLOURS:
        return painted, torch.zeros_like(foreground)
    painted[foreground] = _stretched(scores(inside, COLOURS)).float()
    return painted, foreground


def scores(rows: Tensor, count: int) -> Tensor:
    """Coordinates of rows (n, D) along their first `count` principal components, as (n, count).

    The sign of a component is chosen so that the coordinate farthest from 0 is positive; where D or the rank is
    smaller than `count`, the remaining coordinates are 0.
    """
    centred = rows - rows.mean(dim=0)
    directions = torch.linalg.eigh(centred.mT @ centred).eigenvectors.flip(1)[:, :count]
    along = centred @ directions
    farthest = along.gather(0, along.abs().argmax(dim=0, keepdim=True))
    along = along * torch.where(farthest < 0, -1.0, 1.0)
    rounding = 1e-6 * rows.abs().amax().clamp(min=1e-30)
    along = along.where(along.abs().amax(dim=0) > rounding, 0.0)
    return F.pad(along, (0, count - along.shape[1]))


def _foreground(component: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Split of a component (n,) by Otsu's threshold, as (h, w): True on the side with less of the border."""
    if not component.any():
        return torch.zeros(grid, dtype=torch.bool)
    above = (component > otsu(component)).unflatten(0, grid)
    border = torch.ones(grid, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    shares = [float((side & border).sum() / side.sum().clamp(min=1)) for side in (above, ~above)]
    return above if shares[0] <= shares[1] else ~above


def otsu(values: Tensor) -> float:
    """Threshold between two values of (n,) that maximises the variance between the two sides (Otsu 1979)."""
    ordered = values.double().sort().values
    below = torch.arange(1, len(ordered), dtype=torch.double, device=ordered.device)
    above = len(ordered) - below
    total = ordered.cumsum(dim=0)
    difference = total[:-1] / below - (total[-1] - total[:-1]) / above
    cut = int((below * above * difference.square()).argmax())
    return float((ordered[cut] + ordered[cut + 1]) / 2)


def _stretched(along: Tensor) -> Tensor:
    """Each column of (n, count) from its quantiles `CLIPPED` and 1 - `CLIPPED` to 0 and 1; a constant one is 0.5."""
    low, high = along.quantile(CLIPPED, dim=0), along.quantile(1 - CLIPPED, dim=0)
    flat = high <= low
    return ((along - low) / torch.where(flat, 1.0, high - low)).clamp(0, 1).where(~flat, 0.5)


def similarity(patches: Tensor, row: int, column: int) -> Tensor:
    """Cosine (h, w) of every patch (h, w, D) to the one at `row` and `column`; -1 to 1."""
    return F.cosine_similarity(patches, patches[row, column], dim=-1)


def all_similarities(patches: Tensor) -> Tensor:
    """Cosines between all patches of (h, w, D), as (h, w, h, w): of each patch (first h, w) to each (last h, w)."""
    unit = F.normalize(patches.flatten(0, 1), dim=-1)
    return (unit @ unit.mT).unflatten(1, patches.shape[:2]).unflatten(0, patches.shape[:2])
