"""Single-token classification: linear probes of one token for the class of its image (Tables 1, 4 and 6).

Source: paper, section 2.2: logistic regression on CLS, on one normal or on one outlier patch of each image, drawn at
random. The regression is that of DINOv2's evaluations (dinov2/eval/log_regression.py): L2, C chosen from 45 powers of
ten on 10 % of train, then fitted on all of train. The paper does not say how it treats images without an outlier.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regvit_lightning.analysis.logistic import Linear, regressions
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.runtime import seeds
from regvit_lightning.settings import check, number

WITHOUT_OUTLIER = {
    "skip": "images without an outlier are left out of train and test of the outlier row",
    "largest": "the patch of largest norm stands in for the outlier in images without one",
}


@dataclass
class TokenSettings:
    """Settings of single-token classification.

    Attributes:
        draws: number of random draws of a token of each image.
        without_outlier: `skip` or `largest`, treatment of images without an outlier, see `WITHOUT_OUTLIER`.
        exponents: powers of ten, ascending: the values of C to choose from.
        held_out: share of train on which C is chosen.
        iterations: maximum number of solver iterations.
    """

    draws: int = number("[1, 1e4]", 5)
    without_outlier: str = "skip"
    exponents: list[float] = number("[-300, 300]", [-6 + 11 * step / 44 for step in range(45)])
    held_out: float = number("(0, 1)", 0.1)
    iterations: int = number("[1, 1e6]", 1000)

    def __post_init__(self) -> None:
        known = " or ".join(WITHOUT_OUTLIER)
        check(self.without_outlier in WITHOUT_OUTLIER, f"without_outlier={self.without_outlier}: expected {known}")
        check(len(self.exponents) > 0, "exponents: expected a list such as [-2,0,2]")


@dataclass(frozen=True)
class Features:
    """Features of one token of each image.

    Attributes:
        values: (draws, N, D) on the CPU; 1 draw for tokens that are not random.
        labels: (N,) class numbers.
    """

    values: Tensor
    labels: Tensor


@dataclass(frozen=True)
class ProbeScore:
    """Accuracy of one kind of token.

    Attributes:
        right: boolean (draws, N), correct predictions for the N test images with such a token, in order.
        C: inverse weight of the penalty, chosen on held-out train images with the first draw.
        train_images: number of train images with such a token.
    """

    right: Tensor
    C: float
    train_images: int

    @property
    def accuracies(self) -> list[float]:
        """Top-1 accuracy in percent of each draw."""
        return (100 * self.right.double().mean(dim=1)).tolist()

    @property
    def mean(self) -> float:
        """Top-1 accuracy in percent, mean over draws."""
        return statistics.fmean(self.accuracies)

    @property
    def spread(self) -> float:
        """Standard deviation of top-1 over draws; NaN for a single draw."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else math.nan

    def facts(self) -> dict[str, Any]:
        """The score for a record."""
        return {
            "top1": self.mean,
            "std_over_draws": self.spread,
            "C": self.C,
            "train_images": self.train_images,
            "test_images": self.right.shape[1],
        }


def single_tokens(
    tokens: Tokens, norms: Tensor, outliers: Tensor, labels: Tensor, first: int, settings: TokenSettings, seed: int = 0
) -> dict[str, Features]:
    """Draw tokens of a batch; a draw depends on the seed and the image's index, not on the batch.

    Args:
        tokens: tokens to classify, such as those after the final norm.
        norms: (B, h, w), which determine the largest patch.
        outliers: boolean (B, h, w).
        labels: (B,) class numbers.
        first: index of the first image of the batch among all images.

    Returns:
        By `CLS`, `normal`, `outlier`, `reg_0`, …; a kind that the model lacks is omitted, an image without a normal
        or an outlier patch is omitted from that kind.
    """
    outlier = outliers.flatten(1)
    candidates = {"normal": ~outlier, "outlier": outlier}
    if settings.without_outlier == "largest":
        largest = torch.zeros_like(outlier).scatter_(1, norms.flatten(1).argmax(dim=1, keepdim=True), True)
        candidates["outlier"] = outlier | (largest & ~outlier.any(dim=1, keepdim=True))
    drawn = _draw(candidates, tokens.patches.flatten(1, 2), labels, first, settings.draws, seed)
    whole = {} if tokens.cls is None else {"CLS": Features(_stored(tokens.cls[None]), labels.cpu())}
    registers = {
        f"reg_{index}": Features(_stored(register[None]), labels.cpu())
        for index, register in enumerate(tokens.registers.unbind(dim=1))
    }
    return {**whole, **drawn, **registers}


def _draw(
    candidates: dict[str, Tensor], patches: Tensor, labels: Tensor, first: int, draws: int, seed: int
) -> dict[str, Features]:
    """Draw one of the candidates (B, n) among the patches (B, n, D) for each draw and image."""
    shape = draws, patches.shape[1]
    generators = [seeds.generator(seed, "single token", first + image) for image in range(len(patches))]
    lots = torch.stack([torch.rand(shape, generator=generator) for generator in generators]).to(patches.device)
    features = {}
    for name, mask in candidates.items():
        indices = lots.masked_fill(~mask[:, None], -1).argmax(dim=2)
        values = patches.gather(1, indices[..., None].expand(-1, -1, patches.shape[2]))
        has = mask.any(dim=1)
        features[name] = Features(_stored(values[has].transpose(0, 1)), labels.cpu()[has.cpu()])
    return features


def _stored(values: Tensor) -> Tensor:
    return values.to("cpu", copy=True)


def joined(batches: Sequence[dict[str, Features]]) -> dict[str, Features]:
    """Concatenate the features of all batches by name."""
    return {
        name: Features(
            torch.cat([batch[name].values for batch in batches], dim=1),
            torch.cat([batch[name].labels for batch in batches]),
        )
        for name in batches[0]
    }


def classify(train: Features, test: Features, settings: TokenSettings, seed: int = 0) -> ProbeScore | None:
    """Logistic regression of the class from one kind of token.

    Args:
        seed: seed of the held-out split.

    Returns:
        The score, or None if train has fewer than two classes or test has no image with such a token.
    """
    chosen = choose(train, settings, seed)
    if chosen is None or len(test.labels) == 0:
        return None
    scores = [
        right(regression(fitted, train.labels, chosen, settings), tested, test.labels)
        for fitted, tested in zip(train.values, test.values, strict=True)
    ]
    return ProbeScore(torch.stack(scores), chosen, len(train.labels))


def choose(train: Features, settings: TokenSettings, seed: int = 0) -> float | None:
    """Choose the value of C that is best on held-out images with the first draw; the smallest of equals.

    Returns:
        None if the rest of train has fewer than two classes.
    """
    order = torch.randperm(len(train.labels), generator=seeds.generator(seed, "held out"))
    held_out, kept = order.tensor_split([max(round(settings.held_out * len(order)), 1)])
    features, labels = train.values[0], train.labels
    if len(labels[kept].unique()) < 2:
        return None
    grid = [10.0**exponent for exponent in settings.exponents]
    if len(grid) == 1:
        return grid[0]
    fitted = _fit(features[kept], labels[kept], grid, settings)
    reached = [int(right(model, features[held_out], labels[held_out]).sum()) for model in fitted]
    return grid[reached.index(max(reached))]


def regression(features: Tensor, labels: Tensor, C: float, settings: TokenSettings) -> Linear:
    """Logistic regression of labels (N,) from features (N, D)."""
    return _fit(features, labels, [C], settings)[0]


def right(model: Linear, features: Tensor, labels: Tensor) -> Tensor:
    """Correctness of the prediction for each image, boolean (N,)."""
    return model.best(features) == labels


def _fit(features: Tensor, labels: Tensor, grid: Sequence[float], settings: TokenSettings) -> list[Linear]:
    """Regressions for each C, ascending; each is warm-started from the previous one."""
    return regressions(features, labels, int(labels.max()) + 1, grid, settings.iterations)
