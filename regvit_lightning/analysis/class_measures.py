"""How well images are classified, as each set's field counts: top-1, mean over classes, 11-point average precision.

Sources: Kornblith et al. 2019 (arXiv 1805.08974) for which set has which measure; Everingham et al. 2010 (PASCAL VOC,
IJCV 88:303), section 4.1, for the average precision at 11 levels of recall.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from regvit_lightning.runtime import seeds
from regvit_lightning.statistics import DRAWS, LEVELS, accuracy_interval, nanmean

RECALLS = np.linspace(0, 1, 11)
AT_ONCE = 20  # resampled sets at a time, which bounds the memory
ROUNDING = 1e-9  # a recall of 3/10 reaches the level 0.3

Array = npt.NDArray[np.float64]


def image_scores(measure: str, logits: Tensor, targets: Tensor) -> Tensor:
    """Scores (N,) of images whose mean is the measure in percent, float64.

    For `mean_per_class` a right image counts N / (K × images of its class), where K classes have images.

    Args:
        measure: `top1` or `mean_per_class`.
        logits: (N, classes).
        targets: (N,) class indices.
    """
    right = 100.0 * (logits.argmax(dim=1).cpu() == targets.cpu()).double()
    if measure == "top1":
        return right
    counts = torch.bincount(targets.cpu())
    return right * len(targets) / (counts > 0).sum() / counts[targets.cpu()]


def value(measure: str, logits: Tensor, targets: Tensor) -> float:
    """The measure in percent: the mean of `image_scores`, or for `map` that of `average_precisions`."""
    if measure != "map":
        return float(image_scores(measure, logits, targets).mean())
    return nanmean(average_precisions(logits, targets))


def interval(measure: str, logits: Tensor, targets: Tensor, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the measure by resampling images; where all images are right, or none is, that of top-1."""
    if measure != "map":
        right = image_scores("top1", logits, targets)
        alike = bool((right == right[0]).all())
        return accuracy_interval(right, seed) if measure == "top1" or alike else _of_classes(right, targets.cpu(), seed)
    images, generator = len(targets), seeds.generator(seed, "bootstrap")
    drawn: list[float] = []
    while len(drawn) < DRAWS:
        sets = [torch.randint(images, (images,), generator=generator).numpy() for _ in range(AT_ONCE)]
        weights = np.stack([np.bincount(one, minlength=images) for one in sets]).astype(np.float64)
        drawn += map(nanmean, average_precisions(logits, targets, weights))
    low, high = np.nanquantile(drawn, LEVELS)
    return float(low), float(high)


def _of_classes(right: Tensor, targets: Tensor, seed: int) -> tuple[float, float]:
    """95 % interval of the mean over classes, those of each resampled set by their images in it."""
    images, generator = len(targets), seeds.generator(seed, "bootstrap")
    drawn = []
    for _ in range(DRAWS):
        chosen = torch.randint(images, (images,), generator=generator)
        counts, sums = torch.bincount(targets[chosen]), torch.bincount(targets[chosen], right[chosen])
        drawn.append(float((sums[counts > 0] / counts[counts > 0]).mean()))
    low, high = np.quantile(drawn, LEVELS)
    return float(low), float(high)


def average_precisions(logits: Tensor, targets: Tensor, weights: Array | None = None) -> Array:
    """11-point average precision of each class in percent; NaN for a class without a positive image.

    It is the mean over recalls 0, 0.1, …, 1 of the largest precision at that recall or above.

    Args:
        logits: (N, K), higher for images that have the class.
        targets: (N, K) of 1, 0, and NaN for images that do not count for a class.
        weights: (sets, N), how often each image is in each resampled set.

    Returns:
        (K,), or (sets, K) with weights.
    """
    scores, truths = logits.double().cpu().numpy(), targets.double().cpu().numpy()
    counts = np.ones((1, len(scores))) if weights is None else weights
    found = np.stack([_average_precision(*one, counts) for one in zip(scores.T, truths.T, strict=True)], axis=1)
    return found[0] if weights is None else found


def _average_precision(scores: Array, truth: Array, weights: Array) -> Array:
    """Average precision (sets,) of one class; equal scores are taken together."""
    known = np.flatnonzero(~np.isnan(truth))
    if not len(known):
        return np.full(len(weights), np.nan)
    order = known[np.argsort(-scores[known], kind="stable")]
    last = np.append(np.diff(scores[order]) != 0, True)  # of those with equal scores
    counts = weights[:, order]
    hits, seen = (np.cumsum(part, axis=1)[:, last] for part in (counts * truth[order], counts))
    total = hits[:, -1:]
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # at this recall or above
    reached = [(hits < (level - ROUNDING) * total).sum(axis=1) for level in RECALLS]
    at = [np.take_along_axis(best, np.minimum(one, best.shape[1] - 1)[:, None], axis=1)[:, 0] for one in reached]
    return np.where(total[:, 0] > 0, 100 * np.mean(at, axis=0), np.nan)
