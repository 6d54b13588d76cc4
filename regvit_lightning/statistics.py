"""Scores of single test images, kept beside a record: with them two models are compared on the same images.

The file is a zip archive of numpy arrays without a date, so that the same scores give the same bytes.
"""

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from regvit_lightning.errors import UserError, one_line

if TYPE_CHECKING:
    from torch import Tensor

Scores = npt.NDArray[Any]

DRAWS = 1000  # of the bootstrap
PART = 20  # of them at once, which bounds the memory
LEVELS = (0.025, 0.975)
SUFFIX = ".scores.npz"


def pack(scores: Mapping[str, Any]) -> bytes:
    """The file that holds scores by metric, each in the smallest type that keeps it (float32 for what is not whole).

    Args:
        scores: (N, …) per image, NaN for an image that is not scored.
    """
    file = io.BytesIO()
    np.savez_compressed(file, **{name: _small(np.asarray(values)) for name, values in scores.items()})  # type: ignore[arg-type]
    return file.getvalue()


def unpack(content: bytes, where: str) -> dict[str, Scores]:
    """What `pack` has packed, as float64.

    Raises:
        UserError: `where` is not such a file.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name].astype(np.float64) for name in arrays.files}
    except Exception as error:  # zipfile, zlib and numpy raise unrelated classes
        raise UserError(f"{where}: not readable as scores of images ({one_line(error)})") from None


def digest(content: bytes) -> str:
    """Of a file of scores, as the record names it."""
    return hashlib.sha256(content).hexdigest()[:16]


def _small(values: Scores) -> Scores:
    """Accuracies of 0 and 100 in a byte each, areas in as many bytes as the largest needs."""
    if np.isfinite(values).all() and (values == values.astype(np.int64)).all():
        whole = values.astype(np.int64)
        return whole.astype(np.result_type(np.min_scalar_type(whole.min()), np.min_scalar_type(whole.max())))
    return values.astype(np.float32)


# -------------------------------------------------------------------------------------------------------- intervals


def miou(areas: Scores) -> float:
    """mIoU in percent from mean areas (3, classes) of intersection, prediction and truth; absent classes left out."""
    both, predicted, labelled = areas
    united = predicted + labelled - both
    return float(100 * np.mean(both[united > 0] / united[united > 0]))


# From the mean over images to the metric, where it is not that mean itself.
STATISTICS: dict[str, Callable[[Scores], float]] = {"miou": miou}


def paired_interval(metric: str, pairs: Sequence[tuple[Scores, Scores]], draws: int = DRAWS) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the difference of a metric, second minus first.

    In every draw both sides have the same images; with several seeds the seeds are drawn, too, so that the interval
    tells how far training again would move the difference.

    Args:
        metric: its name, see `STATISTICS`.
        pairs: for each seed scores (N, …) of the first and of the second side, of the same images in the same order;
            images that are NaN on either side are left out.
        draws: number of them.
    """
    found = np.stack([_differences(metric, *pair, draws) for pair in pairs])  # (seeds, draws)
    if len(pairs) > 1:
        drawn = np.random.Generator(np.random.PCG64(1)).integers(len(pairs), size=found.shape)
        found = np.take_along_axis(found, drawn, axis=0)
    low, high = np.quantile(found.mean(axis=0), LEVELS)
    return float(low), float(high)


def _differences(metric: str, first: Scores, second: Scores, draws: int) -> Scores:
    """Difference of the metric in each draw of images: (draws,). The same draws for all pairs of N images."""
    both = np.stack([first, second], axis=1).reshape(len(first), -1)
    both = both[np.isfinite(both).all(axis=1)]
    generator, images = np.random.Generator(np.random.PCG64(0)), len(both)
    means = np.concatenate([_counts(generator, images, size) @ both for size in _sizes(draws)]) / images
    statistic = STATISTICS.get(metric, float)
    sides = means.reshape(draws, 2, *first.shape[1:])
    return np.array([statistic(new) - statistic(old) for old, new in sides])


def _sizes(draws: int) -> list[int]:
    """`draws` in parts of at most `PART`."""
    return [min(PART, draws - start) for start in range(0, draws, PART)]


def _counts(generator: np.random.Generator, images: int, draws: int) -> Scores:
    """How often each image is drawn, (draws, images)."""
    drawn = (np.bincount(generator.integers(images, size=images), minlength=images) for _ in range(draws))
    return np.stack(list(drawn)).astype(np.float64)


def unpaired_interval(
    first: float, of_first: tuple[float, float], second: float, of_second: tuple[float, float]
) -> tuple[float, float]:
    """95 % interval of `second - first` from the intervals of both, as of independent images.

    Source: the method of variance estimates recovery, Zou and Donner 2008 (Statistics in Medicine 27:1693).
    """
    difference = second - first
    below = np.hypot(second - of_second[0], of_first[1] - first)
    above = np.hypot(of_second[1] - second, first - of_first[0])
    return float(difference - below), float(difference + above)


def excludes_zero(interval: tuple[float, float] | None) -> bool:
    """Whether a difference with this interval is more than noise; never without an interval."""
    return interval is not None and (interval[0] > 0 or interval[1] < 0)


def accuracy(predictions: "Tensor", labels: "Tensor", classes: int) -> "Tensor":
    """Top-1 accuracy in percent of each column of `predictions` (N, M) against `labels` (N,): (M,)."""
    from torchmetrics.functional.classification import multiclass_accuracy

    target = labels.expand(predictions.shape[1], -1)
    return 100 * multiclass_accuracy(predictions.T, target, classes, average="micro", multidim_average="samplewise")


def bootstrap(
    scores: "Tensor",
    seed: int = 0,
    statistic: "Callable[[Tensor], Tensor | float] | None" = None,
    draws: int = 1000,
) -> tuple[float, float]:
    """95 % interval of a statistic of the mean over images, by resampling images (percentile bootstrap).

    Args:
        scores: (N, …) per image.
        seed: of the draws.
        statistic: number from the mean over images (…), such as an mIoU from mean areas; by default the mean itself.
        draws: number of resampled sets.
    """
    import torch

    from regvit_lightning.runtime import seeds

    statistic = statistic or torch.Tensor.mean
    flat = scores.double().cpu().flatten(1) if scores.dim() > 1 else scores.double().cpu()[:, None]
    generator, images = seeds.generator(seed, "bootstrap"), len(scores)
    drawn = [torch.randint(images, (images,), generator=generator) for _ in range(draws)]
    means = torch.stack([draw.bincount(minlength=images) for draw in drawn]).double() @ flat / images
    found = torch.tensor([float(statistic(mean.view(scores.shape[1:]))) for mean in means], dtype=torch.float64)
    low, high = torch.quantile(found, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
