"""Labels of patches: from the pixels of a square to its patches, and from maps of patches to pixels."""

import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.data.image_sets import IGNORED


def pixels_of_patches(labels: Tensor, patch_size: int) -> Tensor:
    """Labels (B, h, w, P²) of the pixels of each patch, row-major, from labels (B, h P, w P)."""
    batch, height, width = labels.shape
    grid = labels.view(batch, height // patch_size, patch_size, width // patch_size, patch_size)
    return grid.permute(0, 1, 3, 2, 4).flatten(3)


def labels_of_pixels(pixels: Tensor) -> Tensor:
    """The inverse of `pixels_of_patches`: labels (B, h P, w P) from (B, h, w, P²)."""
    batch, h, w, area = pixels.shape
    side = round(area**0.5)
    return pixels.view(batch, h, w, side, side).permute(0, 1, 3, 2, 4).reshape(batch, h * side, w * side)


def class_counts(pixels: Tensor, classes: int) -> Tensor:
    """Number of pixels of each class (N, classes), int64, from labels (N, A); 255 counts for no class."""
    index = pixels.long().clamp(max=classes)  # 255 becomes one class more, which is left out
    counts = torch.zeros(len(pixels), classes + 1, dtype=torch.long, device=pixels.device)
    return counts.scatter_add_(1, index, torch.ones_like(index))[:, :classes]


def class_shares(pixels: Tensor, classes: int) -> Tensor:
    """Share of each class (N, classes) among the labelled pixels of patches (N, A); zeros where none is labelled."""
    counts = class_counts(pixels, classes).float()
    return counts / counts.sum(dim=1, keepdim=True).clamp(min=1)


def upsampled(scores: Tensor, height: int, width: int) -> Tensor:
    """Class index (height, width), uint8, of the largest of the bilinearly upsampled scores; of equals the lowest.

    Takes one class at a time, and only those that occur: memory is a few maps of pixels, whatever the number of
    classes.

    Args:
        scores: (h, w, classes), at least 0.
    """
    best = torch.full((height, width), -1.0, device=scores.device)
    index = torch.zeros(height, width, dtype=torch.uint8, device=scores.device)
    for number in scores.flatten(0, 1).any(dim=0).nonzero().flatten().tolist():
        one = F.interpolate(scores[None, None, :, :, number], (height, width), mode="bilinear")[0, 0]
        larger = one > best
        best, index = torch.where(larger, one, best), index.masked_fill_(larger, number)
    return index


def upsampled_ids(ids: Tensor, height: int, width: int) -> Tensor:
    """Index (height, width) of the largest of the bilinearly upsampled indicators of ids (h, w); of equals the lowest.

    What `upsampled` gives for the indicator of each id, whatever their number: a pixel has at most four.
    """
    h, w = ids.shape
    above, below, down = _neighbours(h, height, ids.device)
    left, right, along = _neighbours(w, width, ids.device)
    down, along = down[:, None], along[None]
    corners = torch.stack([ids[row][:, column] for row in (above, below) for column in (left, right)])
    weights = torch.stack([(1 - down) * (1 - along), (1 - down) * along, down * (1 - along), down * along])
    equal = corners[:, None] == corners[None]
    votes = (equal * weights[None]).sum(dim=1)
    largest = votes.max(dim=0).values
    return corners.where(votes >= largest - 1e-6, corners.max() + 1).min(dim=0).values


def _neighbours(length: int, wanted: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For `wanted` pixels along a side of `length` patches: the patch before each, the one after it, and its weight."""
    centres = ((torch.arange(wanted, device=device) + 0.5) * (length / wanted) - 0.5).clamp(0, length - 1)
    before = centres.floor().long()
    return before, (before + 1).clamp(max=length - 1), centres - before


def resized(labels: Tensor, height: int, width: int) -> Tensor:
    """Labels (height, width) from labels (H, W), the nearest pixel by its centre."""
    return F.interpolate(labels[None, None].float(), (height, width), mode="nearest-exact")[0, 0].to(labels.dtype)


def modes(pixels: Tensor, otherwise: int) -> Tensor:
    """Most frequent label (Q, A) of k neighbours pixel by pixel, from their labels (Q, k, A).

    Of equally frequent labels the lowest; 255 does not vote, and `otherwise` stands where nothing votes.
    """
    known, index = pixels.unique(return_inverse=True)
    counts = torch.zeros(len(pixels), pixels.shape[2], len(known), dtype=torch.int32, device=pixels.device)
    index = index.transpose(1, 2)
    counts.scatter_add_(2, index, torch.ones_like(index, dtype=torch.int32))
    counts[..., known == IGNORED] = 0
    most = counts.max(dim=2)
    return torch.where(most.values > 0, known[most.indices], otherwise).to(pixels.dtype)
