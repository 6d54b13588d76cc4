"""Per-image scores and the statistics derived from them: metrics, intervals over images and seeds, comparisons.

Scores are stored beside a record, so that two models can be compared on the same images. The file is a zip archive
of numpy arrays without timestamps, so that the same scores give the same bytes.
"""

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from regvit_lightning.errors import UserError, one_line

if TYPE_CHECKING:
    from torch import Tensor

Scores = npt.NDArray[Any]

Statistic = Callable[[Scores], float]  # from the mean of the per-image scores (…) to a metric

DRAWS = 1000  # resampled image sets of the bootstrap
AT_ONCE = 20  # resampled sets at a time, which bounds the memory
LEVELS = (0.025, 0.975)
SUFFIX = ".scores.npz"


def pack(scores: Mapping[str, Any]) -> bytes:
    """Serialise scores by metric, each in the smallest lossless type (float32 for values that are not whole numbers).

    Args:
        scores: (N, …) per image, NaN for an image without a score.
    """
    file = io.BytesIO()
    np.savez_compressed(file, **{name: _small(np.asarray(values)) for name, values in scores.items()})  # type: ignore[arg-type]
    return file.getvalue()


def unpack(content: bytes, where: str) -> dict[str, Scores]:
    """Deserialise the output of `pack`, as float64.

    Raises:
        UserError: `where` is not such a file.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name].astype(np.float64) for name in arrays.files}
    except Exception as error:  # zipfile, zlib and numpy raise unrelated classes
        raise UserError(f"{where}: not readable as scores of images ({one_line(error)})") from None


def digest(content: bytes) -> str:
    """Digest of a file of scores, as stored in the record."""
    return hashlib.sha256(content).hexdigest()[:16]


def _small(values: Scores) -> Scores:
    """Store accuracies of 0 and 100 in one byte each, areas in as many bytes as the largest needs."""
    if np.isfinite(values).all() and (values == values.astype(np.int64)).all():
        whole = values.astype(np.int64)
        return whole.astype(np.result_type(np.min_scalar_type(whole.min()), np.min_scalar_type(whole.max())))
    return values.astype(np.float32)


# ------------------------------------------------------------------------------------------------------ metrics


def accuracy(predictions: "Tensor", labels: "Tensor") -> "Tensor":
    """Top-1 accuracy in percent of each column of `predictions` (N, M) against `labels` (N,): (M,), float64.

    Memory is 9 N M bytes, whatever the number of classes.
    """
    return 100 * (predictions == labels[:, None]).double().mean(dim=0)


def ious(areas: Scores) -> Scores:
    """IoU in percent of each class (classes,); NaN for a class that occurs neither in predictions nor in ground truth.

    Args:
        areas: (3, classes) pixels in the intersection, the prediction and the ground truth, summed or averaged over
            images.
    """
    both, predicted, labelled = np.asarray(areas, np.float64)
    return percent(both, predicted + labelled - both)


def percent(part: Scores, whole: Scores) -> Scores:
    """100 × `part` / `whole`, both of one shape; NaN where the whole is 0."""
    return np.divide(100 * part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def miou(areas: Scores) -> float:
    """Mean of `ious` over the classes that occur, as in mmsegmentation; NaN where none does."""
    return nanmean(ious(areas))


def nanmean(values: Scores) -> float:
    """Mean of the values that are not NaN; NaN, without numpy's warning, where all are."""
    return float(np.nanmean(values)) if not np.isnan(values).all() else np.nan


# Metrics that are a function of the mean per-image scores, not that mean itself.
STATISTICS: dict[str, Statistic] = {"miou": miou}


# -------------------------------------------------------------------------------------------------------- intervals


def bootstrap(
    scores: "Tensor", seed: int = 0, statistic: Statistic = np.mean, draws: int = DRAWS
) -> tuple[float, float]:
    """95 % interval of a statistic of the mean over images, by resampling images (percentile bootstrap).

    Resampled sets in which the statistic is undefined (no pixel with a label) are left out.

    Args:
        scores: (N, …) per image.
        seed: seed of the draws.
        statistic: function of the mean scores, such as `miou` for areas; by default the mean itself.
        draws: number of resampled sets.
    """
    import torch

    from regvit_lightning.runtime import seeds

    values = scores.double().cpu().numpy()
    images, generator = len(values), seeds.generator(seed, "bootstrap")
    sets = (torch.randint(images, (images,), generator=generator).numpy() for _ in range(draws))
    drawn = np.array([statistic(mean) for mean in _resampled(values, sets)])
    return _percentiles(drawn[~np.isnan(drawn)] if not np.isnan(drawn).all() else drawn)


def accuracy_interval(right: "Tensor", seed: int = 0) -> tuple[float, float]:
    """95 % interval in percent of an accuracy: exact where it is 0 or 100, which resampling takes for certain.

    Args:
        right: (N,) per image, 0 or 100.
        seed: seed of the bootstrap.
    """
    share, images = float(right.double().mean()) / 100, len(right)
    if share not in (0, 1):
        return bootstrap(right, seed)
    low, high = binomial_interval(round(share) * images, images)
    return 100 * low, 100 * high


def binomial_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share, in 0..1, that is exact for any number of trials, also for 0 and for all successes.

    Source: Clopper and Pearson 1934 (Biometrika 26:404).
    """
    from scipy.special import betaincinv

    low = betaincinv(successes, trials - successes + 1, LEVELS[0]) if successes else 0.0
    high = betaincinv(successes + 1, trials - successes, LEVELS[1]) if successes < trials else 1.0
    return float(low), float(high)


def paired_interval(metric: str, pairs: Sequence[tuple[Scores, Scores]], draws: int = DRAWS) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the difference of a metric, second minus first.

    Every draw uses the same images on both sides; with several seeds, the seeds are resampled as well, so that the
    interval covers the variation between training runs.

    Args:
        metric: metric name, see `STATISTICS`.
        pairs: for each seed, scores (N, …) of the first and of the second side, for the same images in the same order;
            images that are NaN on either side are left out.
        draws: number of resampled sets.
    """
    differences = np.stack([_differences(metric, *pair, draws) for pair in pairs])  # (seeds, draws)
    if len(pairs) > 1:
        drawn = np.random.Generator(np.random.PCG64(1)).integers(len(pairs), size=differences.shape)
        differences = np.take_along_axis(differences, drawn, axis=0)
    return _percentiles(differences.mean(axis=0))


def _differences(metric: str, first: Scores, second: Scores, draws: int) -> Scores:
    """Difference of the metric in each resampled set (draws,), with the same sets for all pairs of N images."""
    both = np.stack([first, second], axis=1)
    both = both[np.isfinite(both).reshape(len(both), -1).all(axis=1)]
    images, generator = len(both), np.random.Generator(np.random.PCG64(0))
    sets = (generator.integers(images, size=images) for _ in range(draws))
    statistic = STATISTICS.get(metric, float)
    return np.array([statistic(new) - statistic(old) for old, new in _resampled(both, sets)])


def _resampled(scores: Scores, sets: Iterable[Scores]) -> Iterator[Scores]:
    """The mean (…) of scores (N, …) over each set of images, given as N indices with repeats."""
    flat = scores.reshape(len(scores), -1)
    counts = (np.bincount(indices, minlength=len(flat)) for indices in sets)
    while part := list(islice(counts, AT_ONCE)):
        for mean in np.stack(part).astype(np.float64) @ flat / len(flat):
            yield mean.reshape(scores.shape[1:])


def _percentiles(values: Sequence[float] | Scores) -> tuple[float, float]:
    low, high = np.quantile(values, LEVELS)
    return float(low), float(high)


def unpaired_interval(
    first: float, of_first: tuple[float, float], second: float, of_second: tuple[float, float]
) -> tuple[float, float]:
    """95 % interval of `second - first` from the intervals of both, treated as independent.

    Source: the method of variance estimates recovery, Zou and Donner 2008 (Statistics in Medicine 27:1693).
    """
    difference = second - first
    below = np.hypot(second - of_second[0], of_first[1] - first)
    above = np.hypot(of_second[1] - second, first - of_first[0])
    return float(difference - below), float(difference + above)


def excludes_zero(interval: tuple[float, float] | None) -> bool:
    """Whether the interval of a difference excludes zero; False without an interval."""
    return interval is not None and (interval[0] > 0 or interval[1] < 0)
