"""Per-image scores and the statistics derived from them: metrics, intervals over images and seeds, comparisons.

Scores are stored beside a record, so that two models can be compared on the same images. The file is a zip archive
of numpy arrays without timestamps, so that the same scores give the same bytes.
"""

import hashlib
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import NormalDist, fmean
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
INDEPENDENT = 1_000_000  # degrees of freedom of a variance that is known
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
    """Mean of `ious` over the classes that occur, as in mmsegmentation; NaN where none does.

    Args:
        areas: (3, classes) as for `ious`, or (runs, 3, classes), whose mIoUs are averaged.
    """
    if np.ndim(areas) == 3:
        return float(np.mean([miou(run) for run in areas]))
    return nanmean(ious(areas))


def nanmean(values: Scores) -> float:
    """Mean of the values that are not NaN; NaN, without numpy's warning, where all are."""
    return float(np.nanmean(values)) if not np.isnan(values).all() else np.nan


def pooled(part_and_whole: Scores) -> float:
    """Ratio of part and whole (2,), summed or averaged over images that count by their whole; NaN where that is 0."""
    part, whole = part_and_whole
    return float(part / whole) if whole else np.nan


def highest(curve: Scores) -> float:
    """Largest value of a curve over thresholds (T,), averaged over images."""
    return float(np.max(curve))


# Metrics that are a function of the mean per-image scores, not that mean itself.
STATISTICS: dict[str, Statistic] = {
    "miou": miou,
    "miou_resized": miou,
    **dict.fromkeys(("max_f_cls", "max_f_register"), highest),
    **dict.fromkeys(("jf", "j", "f", "outlier_keys", "pck", "outlier_matches"), pooled),
}


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


def constant_accuracy(labels: "Tensor") -> float:
    """Top-1 accuracy in percent of the class that is most frequent among labels (N,): the best without an image."""
    return 100 * int(labels.bincount().max()) / len(labels)


def accuracy_by_class(right: "Tensor", labels: "Tensor", classes: Sequence[str]) -> dict[str, float | None]:
    """Top-1 accuracy in percent on the images of each class by name; None for a class without an image.

    Args:
        right: (N,) per image, 0 or 100.
        labels: (N,) class indices.
        classes: names of the classes.
    """
    import torch

    images = torch.bincount(labels.cpu(), minlength=len(classes)).tolist()
    total = torch.bincount(labels.cpu(), weights=right.double().cpu(), minlength=len(classes)).tolist()
    pairs = zip(total, images, strict=True)
    return dict(zip(classes, (part / count if count else None for part, count in pairs), strict=True))


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


# ------------------------------------------------------------------------------------------------------ comparisons


@dataclass(frozen=True)
class Comparison:
    """Difference of a metric between two sides, second minus first.

    Attributes:
        value: difference of the means over seeds.
        interval: its 95 % interval, None if nothing is known about the noise.
        p: two-sided p-value of no difference, in 0..1; None without an interval.
        over_seeds: whether the interval covers the variation between trainings, for which both sides need at least two
            seeds; else it covers the choice of the test images alone.
        paired: whether the interval compares the same images on both sides.
    """

    value: float
    interval: tuple[float, float] | None = None
    p: float | None = None
    over_seeds: bool = False
    paired: bool = False

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval excludes zero; False without an interval."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def compare(metric: str, first: Sequence[Scores], second: Sequence[Scores]) -> Comparison:
    """Compare two sides by their scores on the same images: a t interval over images and, if both sides have several
    seeds, over seeds.

    Images are shared by all seeds of both sides, and seeds differ by training. The variance of the difference is
    therefore that over images of the differences of the seeds' means, plus for each side that over its seeds of the
    images' mean; what seeds and images have in common is in both and taken off once. The degrees of freedom are
    Satterthwaite's. With one seed this is the paired t test over images; with scores that do not differ between images
    it is Welch's test over seeds. A metric that is not a mean over images is compared by its jackknife pseudo-values.
    Two images are added to scores that are all 0 or 100, one for each direction, so that few images that agree are not
    taken as certain.

    Two equal recipes are called different in 3 to 7 % of cases with 2 to 5 seeds on each side; in 8 % with 2 seeds on
    one side and 5 on the other.

    Source: Welch 1947 (Biometrika 34:28), Satterthwaite 1946 (Biometrics Bulletin 2:110), Tukey 1958 (Annals of
    Mathematical Statistics 29:614) for the pseudo-values, Bonett and Price 2012 (Journal of Educational and Behavioral
    Statistics 37:479) for the two images.

    Args:
        metric: metric name, see `STATISTICS`.
        first: scores (N, …) of each seed of the first side, for the same images in the same order; images that are NaN
            in any of the arrays are left out.
        second: those of the second side; its seeds need not be as many.

    Returns:
        The comparison; without an interval if fewer than two images have scores on both sides.
    """
    complete = np.all([np.isfinite(one).reshape(len(one), -1).all(axis=1) for one in (*first, *second)], axis=0)
    sides = [np.stack([_by_image(metric, one[complete]) for one in side]) for side in (first, second)]
    values = [fmean(_metric(metric, one[complete]) for one in side) for side in (first, second)]
    value = values[1] - values[0]
    if complete.sum() < 2:
        return Comparison(value, paired=True)
    differences = sides[1].mean(axis=0) - sides[0].mean(axis=0)
    centre = value
    if all(np.isin(side, (0, 100)).all() for side in sides) and any(side.any() for side in sides):
        centre = value * len(differences) / (len(differences) + 2)
        differences = np.append(differences, [-100.0, 100.0])
    parts = [(float(differences.var(ddof=1)) / len(differences), len(differences) - 1)]
    over_seeds = min(len(side) for side in sides) > 1
    if over_seeds:
        parts += [part for side in sides for part in _over_seeds(side)]
    return _t_comparison(value, centre, parts, over_seeds, paired=True)


def _metric(metric: str, scores: Scores) -> float:
    """The metric of scores (N, …) of all images."""
    return STATISTICS.get(metric, float)(scores.mean(axis=0)) if len(scores) else float("nan")


def _by_image(metric: str, scores: Scores) -> Scores:
    """Scores (N,) whose mean varies over sets of images as the metric does: pseudo-values where it is not a mean."""
    if metric not in STATISTICS or len(scores) < 2:
        return scores.reshape(len(scores), -1).mean(axis=1)
    statistic, total, images = STATISTICS[metric], scores.sum(axis=0), len(scores)
    without = np.array([statistic((total - one) / (images - 1)) for one in scores])
    return images * statistic(total / images) - (images - 1) * without


def _over_seeds(side: Scores) -> list[tuple[float, int]]:
    """Variance of a side's mean over its seeds, less that of seeds × images, each with its degrees of freedom.

    Args:
        side: scores (S, N) of at least two seeds.
    """
    seeds, images = side.shape
    means = side.mean(axis=1)
    left = side - means[:, None] - side.mean(axis=0) + side.mean()
    freedom = (seeds - 1) * (images - 1)
    return [
        (float(means.var(ddof=1)) / seeds, seeds - 1),
        (-float(np.square(left).sum()) / freedom / side.size, freedom),
    ]


def compare_summaries(
    first: Sequence[float], of_first: tuple[float, float], second: Sequence[float], of_second: tuple[float, float]
) -> Comparison:
    """Compare two sides of which no scores of single images are known, as if their images were independent.

    Args:
        first: value of each seed of the first side.
        of_first: 95 % interval over images of one seed.
        second, of_second: those of the second side.
    """
    values, intervals = [fmean(first), fmean(second)], (of_first, of_second)
    normal = 2 * NormalDist().inv_cdf(LEVELS[1])
    parts = [(((high - low) / normal) ** 2, INDEPENDENT) for low, high in intervals]
    over_seeds = min(len(first), len(second)) > 1
    if over_seeds:
        parts += [(float(np.var(side, ddof=1)) / len(side), len(side) - 1) for side in (first, second)]
    value = values[1] - values[0]
    return _t_comparison(value, value, parts, over_seeds, paired=False)


def _t_comparison(
    value: float, centre: float, parts: Sequence[tuple[float, int]], over_seeds: bool, paired: bool
) -> Comparison:
    """Comparison from the parts of the variance of the difference, each with its degrees of freedom.

    The first part alone, that over images, is the least that the variance can be.
    """
    from scipy.special import stdtr, stdtrit

    total = max(sum(part for part, _ in parts), parts[0][0])
    if not total > 0:
        return Comparison(value, (value, value), 1.0 if value == 0 else 0.0, over_seeds, paired)
    freedom = max(total**2 / sum(part**2 / df for part, df in parts), 1.0) if total > parts[0][0] else parts[0][1]
    error = math.sqrt(total)
    reach = float(stdtrit(freedom, LEVELS[1])) * error
    p = 2 * float(stdtr(freedom, -abs(centre) / error))
    return Comparison(value, (centre - reach, centre + reach), p, over_seeds, paired)


def holm(p: Sequence[float]) -> list[float]:
    """P-values corrected for their number, such that the chance of any false alarm stays that of a single test.

    Source: Holm 1979 (Scandinavian Journal of Statistics 6:65).
    """
    corrected, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = largest
    return corrected
