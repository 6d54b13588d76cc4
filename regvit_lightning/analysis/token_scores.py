"""One kind of token for the classes of a set: logistic regression by DINOv2's protocol (the paper's Tables 1 and 6).

Source: Oquab et al. 2023 (arXiv 2304.07193), section 7.2, and dinov2/eval/log_regression.py: L2, C chosen among 45
powers of ten on the held-out split of the set's authors, or on 10 % of train where they have none, then fitted on both.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regvit_lightning.analysis import class_measures
from regvit_lightning.analysis.logistic import Linear, regressions
from regvit_lightning.analysis.probes import TokenSettings
from regvit_lightning.runtime import hardware, seeds


@dataclass(frozen=True)
class Labelled:
    """Features of one kind of token of some images.

    Attributes:
        values: (draws, N, D); 1 draw for tokens that are not random.
        targets: (N,) class indices, or (N, K) for images with several classes.
    """

    values: Tensor
    targets: Tensor

    def subset(self, keep: Tensor) -> "Labelled":
        """The images at the indices `keep`."""
        return Labelled(self.values[:, keep], self.targets[keep])


@dataclass(frozen=True)
class TokenScore:
    """Score of one kind of token on the test images that have it.

    Attributes:
        values: the measure in percent for each draw.
        logits: (N, K) of the first draw.
        targets: of the N test images.
        image_scores: (N,), mean over draws of the scores of images; None for `map`, which is no mean over images.
        C: inverse weight of the penalty, chosen on held-out images with the first draw.
        fitted_on: number of images of the final regression: train and held-out ones.
    """

    values: list[float]
    logits: Tensor
    targets: Tensor
    image_scores: Tensor | None
    C: float
    fitted_on: int

    @property
    def mean(self) -> float:
        """The measure in percent, mean over draws."""
        return statistics.fmean(self.values)

    def facts(self) -> dict[str, Any]:
        """The score for a record."""
        return {
            "score": self.mean,
            "std_over_draws": statistics.stdev(self.values) if len(self.values) > 1 else None,
            "C": self.C,
            "train_images": self.fitted_on,
            "test_images": len(self.targets),
        }


def score(
    train: Labelled,
    held_out: Labelled | None,
    test: Labelled,
    measure: str,
    classes: int,
    settings: TokenSettings,
    seed: int,
) -> TokenScore | None:
    """Choose C, fit on all train and held-out images, and score the test images, for each draw.

    Args:
        held_out: images on which C is chosen; None takes a share of train.
        measure: a key of `classified_set.MEASURES`.
        classes: number of classes.
        settings: C, draws, held-out share, iterations.
        seed: seed of the held-out share.

    Returns:
        The score, or None where fewer than two classes are left to learn, held-out images have none of them, or no test
        image has such a token.
    """
    if held_out is None:
        order = torch.randperm(len(train.targets), generator=seeds.generator(seed, "held out"))
        chosen, kept = order.tensor_split([max(round(settings.held_out * len(order)), 1)])
        train, held_out = train.subset(kept), train.subset(chosen)
    if not len(test.targets) or not len(held_out.targets) or _known_classes(train.targets) < 2:
        return None
    C = _choose(train, held_out, measure, classes, settings)
    if C is None:
        return None
    every = torch.cat([train.values, held_out.values], dim=1), torch.cat([train.targets, held_out.targets])
    fitted = [_fit(one, every[1], classes, [C], settings)[0] for one in every[0]]
    logits = [model(tested).cpu() for model, tested in zip(fitted, test.values, strict=True)]
    return TokenScore(
        [class_measures.value(measure, one, test.targets) for one in logits],
        logits[0],
        test.targets,
        _image_scores(measure, logits, test.targets),
        C,
        len(every[1]),
    )


def _known_classes(targets: Tensor) -> int:
    """Number of classes with an image."""
    return len(targets.unique()) if targets.ndim == 1 else int((targets == 1).any(dim=0).sum())


def _choose(train: Labelled, held_out: Labelled, measure: str, classes: int, settings: TokenSettings) -> float | None:
    """The C that is best on held-out images with the first draw, the smallest of equals; None if none can be scored."""
    grid = [10.0**exponent for exponent in settings.exponents]
    if len(grid) == 1:
        return grid[0]
    fitted = _fit(train.values[0], train.targets, classes, grid, settings)
    reached = [class_measures.value(measure, model(held_out.values[0]), held_out.targets) for model in fitted]
    known = [one for one in reached if not math.isnan(one)]
    return grid[reached.index(max(known))] if known else None


def _fit(
    features: Tensor, targets: Tensor, classes: int, grid: Sequence[float], settings: TokenSettings
) -> list[Linear]:
    """Regressions on the accelerator, if there is one."""
    device = hardware.accelerator()
    return regressions(features.to(device), targets.to(device), classes, grid, settings.iterations)


def _image_scores(measure: str, logits: Sequence[Tensor], targets: Tensor) -> Tensor | None:
    if measure == "map":
        return None
    return torch.stack([class_measures.image_scores(measure, one, targets) for one in logits]).mean(dim=0)
