"""Local probes of patch tokens: position and pixels, for normal and outlier tokens (Fig. 5b, Table 5).

Source: paper, section 2.2: one linear model predicts the position of a patch from its token, another its pixels. Loss,
optimiser, pixel scale and whether normal and outlier tokens share a model are not known; here the first is a softmax
regression, the second a ridge regression in closed form, and scale and sharing are settings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from regvit_lightning.analysis.logistic import Linear, logistic_regression
from regvit_lightning.data.transforms import normalise
from regvit_lightning.errors import UserError
from regvit_lightning.runtime import hardware, seeds
from regvit_lightning.settings import check, number

PIXEL_SCALES = {"bytes": "0..255", "normalised": "by the model's mean and std"}
PENALTIES = [10.0**exponent for exponent in range(-8, 1)]  # ridge penalties, in mean variances of the features
POSITION_PENALTY = 1e-4  # on squared weights of standardised features, relative to the mean cross-entropy
POSITION_STEPS = 200  # of L-BFGS, maximum


@dataclass
class LocalSettings:
    """Settings of the position and pixel probes.

    Attributes:
        shared: one model for normal and outlier tokens, trained on both and scored on each; otherwise one for each.
        pixels: `bytes` or `normalised`, the scale of the pixels, see `PIXEL_SCALES`.
        position_tokens: maximum number of train tokens of the position probe, drawn at random, as many of each image.
    """

    shared: bool = True
    pixels: str = "bytes"
    position_tokens: int = number("[1, 1e9]", 100_000)

    def __post_init__(self) -> None:
        check(self.pixels in PIXEL_SCALES, f"pixels={self.pixels}: expected {' or '.join(PIXEL_SCALES)}")


@dataclass(frozen=True)
class Patches:
    """Patch tokens of some images, one row per patch.

    Attributes:
        features: (n, D).
        positions: (n,), index in the grid, 0 to h w - 1.
        pixels: (n, 3 p p), pixels of the patch.
        outliers: boolean (n,).
        grid: (h, w).
    """

    features: Tensor
    positions: Tensor
    pixels: Tensor
    outliers: Tensor
    grid: tuple[int, int]

    def kept(self, mask: Tensor) -> "Patches":
        """The rows where the boolean `mask` (n,) is True, or those at the indices `mask`."""
        pixels, outliers = self.pixels[mask], self.outliers[mask]
        return Patches(self.features[mask], self.positions[mask], pixels, outliers, self.grid)


@dataclass(frozen=True)
class PositionScore:
    """Score of the predicted positions of the test patches of one kind.

    Attributes:
        top1: percent at the correct position.
        distance: mean distance to the correct position, in patches.
        patches: number of test patches.
    """

    top1: float
    distance: float
    patches: int


@dataclass(frozen=True)
class PixelScore:
    """Score of the predicted pixels of the test patches of one kind.

    Attributes:
        l2: mean over patches of the L2 norm of the error, in the units of the pixels.
        rms: root mean square error of a value, in the units of the pixels. Which of the two the paper means is not
            known: its 18.38 could be the first of normalised pixels, or the second of 0..255.
        l2_of_mean: `l2` of the constant prediction by the mean train patch.
        penalty: ridge penalty, in mean variances of the features.
        patches: number of test patches.
    """

    l2: float
    rms: float
    l2_of_mean: float
    penalty: float
    patches: int


def patches(tokens: Tensor, outliers: Tensor, images: Tensor, mean: Tensor, std: Tensor, pixels: str) -> Patches:
    """Patch tokens with the position and the pixels of their patches.

    Args:
        tokens: patch tokens (B, h, w, D).
        outliers: boolean (B, h, w).
        images: uint8 (B, 3, H, W), from which the tokens were computed.
        mean, std: normalisation of the model, (3,).
        pixels: `bytes` or `normalised`.
    """
    batch, rows, columns = tokens.shape[:3]
    scaled = normalise(images, mean, std) if pixels == "normalised" else images.float()
    cut = scaled.unflatten(3, (columns, -1)).unflatten(2, (rows, -1))  # (B, 3, h, p, w, p)
    positions = torch.arange(rows * columns, device=tokens.device).repeat(batch)
    return Patches(
        features=tokens.flatten(0, 2),
        positions=positions,
        pixels=cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(0, 2),
        outliers=outliers.flatten(),
        grid=(rows, columns),
    )


def _by_kind(batch: Patches) -> dict[str, Patches]:
    return {"normal": batch.kept(~batch.outliers), "outlier": batch.kept(batch.outliers)}


# ------------------------------------------------------------------------------------------------------- position


class PositionProbe:
    """Predicts the position of a patch by a linear model on its token: first all train images, then all test images.

    Train tokens are drawn at random, at most `tokens` and as many from each image, so that memory and work are bounded:
    at 518 px, 400 images have 547,600 tokens, whose logits of 1,369 positions are 6 GB.

    Args:
        shared: one model for normal and outlier tokens, or one for each.
        tokens: maximum number of train tokens.
        images: number of train images.
        seed: seed of the draw.
    """

    def __init__(self, shared: bool, tokens: int, images: int, seed: int = 0) -> None:
        self.shared, self.per_image, self.seed = shared, max(tokens // images, 1), seed
        self._train: list[Patches] = []
        self._fitted: dict[str, Linear | None] = {}
        self._errors: dict[str, list[Tensor]] = {"normal": [], "outlier": []}

    def train(self, image: Patches) -> None:
        """Add the patches of one train image.

        Raises:
            UserError: its grid is another than that of the images before.
        """
        self._check(image, "images of one size, got grids of {} and {} patches")
        light, patches = replace(image, pixels=image.pixels[:, :0]), len(image.positions)
        if self.per_image < patches:
            generator = seeds.generator(self.seed, "position", len(self._train))
            drawn = torch.randperm(patches, generator=generator)[: self.per_image].sort().values
            light = light.kept(drawn.to(image.positions.device))
        self._train.append(light)

    def test(self, image: Patches) -> None:
        """Score the patches of one test image; the first one fits the models.

        Raises:
            UserError: its grid is not that of train.
        """
        self._check(image, "one grid: train has {}, test {} patches")
        if not self._fitted:
            self._fitted = self._fit()
        for kind, rows in _by_kind(image).items():
            model = self._fitted[kind]
            if model is not None and len(rows.positions):
                self._errors[kind].append(_position_errors(model, rows))

    def scores(self) -> dict[str, PositionScore | None]:
        """By `normal` and `outlier`; None for a kind without test patches, or, with separate models, train patches."""
        return {kind: _position_score(torch.cat(parts)) if parts else None for kind, parts in self._errors.items()}

    def _check(self, image: Patches, wanted: str) -> None:
        if self._train and self._train[0].grid != image.grid:
            raise UserError(f"positions need {wanted.format(self._train[0].grid, image.grid)}")

    def _fit(self) -> dict[str, Linear | None]:
        whole = _cat(self._train)
        if self.shared:
            return dict.fromkeys(self._errors, _standardised_regression(whole))
        kinds = _by_kind(whole)
        return {kind: _standardised_regression(kinds[kind]) if len(kinds[kind].positions) else None for kind in kinds}


def _cat(parts: Sequence[Patches]) -> Patches:
    return Patches(
        torch.cat([part.features for part in parts]),
        torch.cat([part.positions for part in parts]),
        torch.cat([part.pixels for part in parts]),
        torch.cat([part.outliers for part in parts]),
        parts[0].grid,
    )


def _standardised_regression(rows: Patches) -> Linear:
    """Softmax regression of positions on raw features; the penalty is on the weights of standardised features."""
    device = hardware.accelerator()
    features = rows.features.to(device, torch.float64, copy=True)
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0)
    std = std.where(std > 0, 1)
    features.sub_(mean).div_(std)
    classes = rows.grid[0] * rows.grid[1]
    model = logistic_regression(features, rows.positions.to(device), classes, POSITION_PENALTY, POSITION_STEPS)
    unscaled = model.weight / std[:, None]
    return Linear(unscaled.cpu(), (model.bias - mean @ unscaled).cpu())


def _position_errors(model: Linear, rows: Patches) -> Tensor:
    """Rows and columns (n, 2) by which the prediction is off."""
    predicted, width = model.best(rows.features), rows.grid[1]
    down = predicted // width - rows.positions // width
    across = predicted % width - rows.positions % width
    return torch.stack([down, across], dim=1)


def _position_score(errors: Tensor) -> PositionScore:
    right = (errors == 0).all(dim=1).double().mean()
    return PositionScore(100.0 * right.item(), errors.double().norm(dim=1).mean().item(), len(errors))


# --------------------------------------------------------------------------------------------------------- pixels


class NormalEquations:
    """Sums over rows that give a ridge regression and its error: memory (D + K)^2 for any number of rows."""

    def __init__(self) -> None:
        self.rows, self.moments, self.features = 0, torch.zeros(0, 0, dtype=torch.float64), 0

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Add features (n, D) and targets (n, K)."""
        ones = features.new_ones(len(features), 1, dtype=torch.float64)
        both = torch.cat([ones, features.double(), targets.double()], dim=1)
        self.add_sums(len(features), both.T @ both, features.shape[1])

    def add_sums(self, rows: int, moments: Tensor, features: int) -> None:
        """Add `rows` rows by their sums of products (1 + D + K, 1 + D + K) of one, features and targets."""
        self.moments = self.moments + moments if self.rows else moments
        self.rows, self.features = self.rows + rows, features

    def solve(self, penalties: Sequence[float]) -> list[Linear]:
        """The ridge regression of each penalty, in mean variances of the features; the bias is not penalised."""
        mean = self.moments[0, 1:] / self.rows
        centred = self.moments[1:, 1:] / self.rows - torch.outer(mean, mean)
        covariance, cross = centred[: self.features, : self.features], centred[: self.features, self.features :]
        values, vectors = torch.linalg.eigh(covariance)
        scale = values.clamp(min=0).mean().clamp(min=torch.finfo(torch.float64).tiny)
        solved = []
        for penalty in penalties:
            weight = vectors @ ((vectors.T @ cross) / (values.clamp(min=0) + penalty * scale)[:, None])
            solved.append(Linear(weight, mean[self.features :] - mean[: self.features] @ weight))
        return solved

    def squared_error(self, model: Linear) -> float:
        """Sum over rows and targets of the squared error of `model`."""
        identity = torch.eye(model.bias.shape[0]).to(self.moments)
        residual = torch.cat([-model.bias[None], -model.weight, identity])
        return float((residual * (self.moments @ residual)).sum())


class PixelProbe:
    """Predicts the pixels of a patch by ridge regression on its token: first train and held-out images, then test.

    The penalty is chosen on held-out images, then the model is fitted on train and held-out images together. No image
    is stored: memory is that of `NormalEquations`.

    Args:
        shared: one model for normal and outlier tokens, or one for each.
    """

    def __init__(self, shared: bool) -> None:
        self.shared = shared
        self._train, self._held_out = _no_equations(), _no_equations()
        self._fitted: dict[str, _Fitted | None] = {}
        self._errors: dict[str, list[Tensor]] = {"normal": [], "outlier": []}

    def train(self, image: Patches) -> None:
        """Add the patches of a train image."""
        _add(self._train, image)

    def held_out(self, image: Patches) -> None:
        """Add the patches of a held-out train image."""
        _add(self._held_out, image)

    def test(self, image: Patches) -> None:
        """Score the patches of a test image; the first one fits the models."""
        if not self._fitted:
            train, held_out = (_shared(part) if self.shared else part for part in (self._train, self._held_out))
            self._fitted = {kind: _fit(train[kind], held_out[kind]) for kind in train}
        for kind, rows in _by_kind(image).items():
            fitted = self._fitted[kind]
            if fitted is not None and len(rows.features):
                self._errors[kind].append(_pixel_errors(fitted, rows))

    def scores(self) -> dict[str, PixelScore | None]:
        """By `normal` and `outlier`; None for a kind without test patches, or without train or held-out patches."""
        return {kind: _pixel_score(self._fitted.get(kind), errors) for kind, errors in self._errors.items()}


def _no_equations() -> dict[str, NormalEquations]:
    return {"normal": NormalEquations(), "outlier": NormalEquations()}


def _add(equations: dict[str, NormalEquations], image: Patches) -> None:
    for kind, rows in _by_kind(image).items():
        if len(rows.features):
            equations[kind].add(rows.features, rows.pixels)


def _shared(equations: dict[str, NormalEquations]) -> dict[str, NormalEquations]:
    return dict.fromkeys(equations, _sum(list(equations.values())))


def _sum(parts: Sequence[NormalEquations]) -> NormalEquations:
    total = NormalEquations()
    for part in parts:
        if part.rows:
            total.add_sums(part.rows, part.moments, part.features)
    return total


@dataclass(frozen=True)
class _Fitted:
    model: Linear
    mean: Tensor  # (K,), mean of the train pixels
    penalty: float


def _fit(train: NormalEquations, held_out: NormalEquations) -> _Fitted | None:
    if not train.rows or not held_out.rows:
        return None
    errors = [held_out.squared_error(model) for model in train.solve(PENALTIES)]
    penalty = PENALTIES[errors.index(min(errors))]
    both = _sum([train, held_out])
    return _Fitted(both.solve([penalty])[0], both.moments[0, 1 + both.features :] / both.rows, penalty)


def _pixel_errors(fitted: _Fitted, rows: Patches) -> Tensor:
    """Squared error (n, 2) of each patch by the model and by the mean patch."""
    targets = rows.pixels.double()
    return torch.stack(
        [(guess - targets).square().sum(dim=1) for guess in (fitted.model(rows.features), fitted.mean)], 1
    )


def _pixel_score(fitted: _Fitted | None, errors: Sequence[Tensor]) -> PixelScore | None:
    squared = torch.cat(list(errors)) if errors else torch.empty(0, 2)
    if fitted is None or not len(squared):
        return None
    l2, l2_of_mean = squared.sqrt().mean(dim=0).tolist()
    rms = math.sqrt(squared[:, 0].mean().item() / len(fitted.mean))
    return PixelScore(l2, rms, l2_of_mean, fitted.penalty, len(squared))
