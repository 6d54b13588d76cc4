"""Scores of saliency maps: IoU, accuracy and the F_β curve of maps of patches against a mask of pixels.

Source: Wang et al. 2022 (TokenCut, arXiv 2202.11539, section 4.2) and metric.py of its repository. A pixel has the
value of the patch that it lies in (nearest upsampling); the scores of an image are therefore sums over patches,
weighted by their pixels, and equal those over pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

BETA_SQUARED = 0.3
THRESHOLDS = 255  # at 0, 1/255, …, 254/255: a pixel is foreground where its value is above


@dataclass(frozen=True)
class PatchTruth:
    """Pixels of the patches of one image, float64.

    Attributes:
        foreground: (h, w) pixels of the true foreground in each patch.
        pixels: (h, w) pixels in each patch; 0 where a patch is smaller than a pixel.
    """

    foreground: Tensor
    pixels: Tensor

    @property
    def share(self) -> float:
        """Share of the pixels that is foreground."""
        return float(self.foreground.sum() / self.pixels.sum())


def patch_truth(truth: Tensor, grid: tuple[int, int]) -> PatchTruth:
    """Count the pixels of each patch of a grid (h, w) over a mask (H, W) bool, which need not be divisible by it."""
    rows, columns = (
        torch.arange(side, device=truth.device) * cells // side for side, cells in zip(truth.shape, grid, strict=True)
    )
    patches = (rows[:, None] * grid[1] + columns).flatten()
    cells = grid[0] * grid[1]
    every, inside = (one.bincount(minlength=cells).double().view(grid) for one in (patches, patches[truth.flatten()]))
    return PatchTruth(inside, every)


def iou(masks: Tensor, truth: PatchTruth) -> Tensor:
    """IoU (…) in percent of masks (…, h, w) bool; 100 where neither has a pixel, as they then agree."""
    both, predicted = _sums(masks, truth)
    union = predicted + truth.foreground.sum() - both
    return torch.where(union > 0, 100 * both / union.clamp(min=1), 100.0)


def accuracy(masks: Tensor, truth: PatchTruth) -> Tensor:
    """Share (…) in percent of the pixels that masks (…, h, w) bool have right."""
    both, predicted = _sums(masks, truth)
    wrong = predicted + truth.foreground.sum() - 2 * both
    return 100 * (1 - wrong / truth.pixels.sum())


def f_beta(masks: Tensor, truth: PatchTruth) -> Tensor:
    """F_β (…) in percent, β² = 0.3, of masks (…, h, w) bool."""
    return _f_beta(*_sums(masks, truth), truth)


def f_curve(values: Tensor, truth: PatchTruth) -> Tensor:
    """F_β (THRESHOLDS,) in percent of a map (h, w) of values in 0..1 at each threshold.

    The largest value of the mean of these curves over images is max F_β; a mask of 0 and 1 has a constant curve.
    """
    above = torch.arange(THRESHOLDS, device=values.device, dtype=torch.float64) / THRESHOLDS
    exceeded = torch.searchsorted(above, values.double().flatten())  # number of thresholds that a value is above
    both, predicted = (
        exceeded.bincount(weights.flatten(), minlength=THRESHOLDS + 1)[1:].flip(0).cumsum(0).flip(0)
        for weights in (truth.foreground, truth.pixels)
    )
    return _f_beta(both, predicted, truth)


def scaled(values: Tensor) -> Tensor:
    """A map (h, w) scaled linearly to 0..1; zeros where all of its values are equal."""
    values = values.double()
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)


def _sums(masks: Tensor, truth: PatchTruth) -> tuple[Tensor, Tensor]:
    """Pixels (…) in mask and truth, and in the mask."""
    weights = masks.double()
    return (weights * truth.foreground).sum(dim=(-2, -1)), (weights * truth.pixels).sum(dim=(-2, -1))


def _f_beta(both: Tensor, predicted: Tensor, truth: PatchTruth) -> Tensor:
    """F_β in percent; precision is 1 for an empty mask, recall 1 for an empty truth, and F 0 where both are 0."""
    true = truth.foreground.sum()
    precision = torch.where(predicted > 0, both / predicted.clamp(min=1), 1.0)
    recall = both / true if true > 0 else torch.ones_like(both)
    below = BETA_SQUARED * precision + recall
    return torch.where(below > 0, 100 * (1 + BETA_SQUARED) * precision * recall / below.clamp(min=1e-300), 0.0)
