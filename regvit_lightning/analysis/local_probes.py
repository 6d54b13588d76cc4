"""Local probes of patch tokens: position and pixels, for normal and outlier tokens (Fig. 5b, Table 5).

Source: paper, section 2.2: one linear model predicts the position of a patch from its token, another its pixels. Loss,
optimiser, pixel scale and whether normal and outlier tokens share a model are not known; here the first is a softmax
regression, the second a ridge regression in closed form, and scale and sharing are settings.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from regvit_lightning.analysis.logistic import Linear, softmax_regression
from regvit_lightning.data.transforms import normalise
from regvit_lightning.errors import UserError
from regvit_lightning.settings import check

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
    """

    shared: bool = True
    pixels: str = "bytes"

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
        """The rows where the boolean `mask` (n,) is True."""
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


def position(train: Iterable[Patches], test: Iterable[Patches], shared: bool) -> dict[str, PositionScore | None]:
    """Predict the position of test patches by a linear model on their tokens; train features are held in memory.

    Returns:
        By `normal` and `outlier`; None for a kind without test patches, or, for separate models, without train patch.

    Raises:
        UserError: images of different grids.
    """
    trained, tested = _cat(train), _by_kind(_cat(test))
    trained_on = dict.fromkeys(tested, trained) if shared else _by_kind(trained)
    if trained.grid != tested["normal"].grid:
        raise UserError(f"positions need one grid: train has {trained.grid}, test {tested['normal'].grid} patches")
    fits: dict[int, Linear] = {}
    scores: dict[str, PositionScore | None] = {}
    for kind, rows in tested.items():
        source = trained_on[kind]
        usable = len(rows.positions) > 0 and len(source.positions) > 0
        if usable and id(source) not in fits:
            fits[id(source)] = _standardised_regression(source)
        scores[kind] = _position_score(fits[id(source)], rows) if usable else None
    return scores


def _cat(batches: Iterable[Patches]) -> Patches:
    parts = list(batches)
    grids = {part.grid for part in parts}
    if len(grids) != 1:
        raise UserError(f"positions need images of one size, got grids of {sorted(grids)} patches")
    return Patches(
        torch.cat([part.features for part in parts]),
        torch.cat([part.positions for part in parts]),
        torch.cat([part.pixels for part in parts]),
        torch.cat([part.outliers for part in parts]),
        parts[0].grid,
    )


def _standardised_regression(rows: Patches) -> Linear:
    """Softmax regression of positions on raw features; the penalty is on the weights of standardised features."""
    features = rows.features.double()
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0)
    std = std.where(std > 0, 1)
    classes = rows.grid[0] * rows.grid[1]
    model = softmax_regression((features - mean) / std, rows.positions, classes, POSITION_PENALTY, POSITION_STEPS)
    unscaled = model.weight / std[:, None]
    return Linear(unscaled, model.bias - mean @ unscaled)


def _position_score(model: Linear, rows: Patches) -> PositionScore:
    predicted, width = model(rows.features).argmax(dim=1), rows.grid[1]
    down = predicted // width - rows.positions // width
    across = predicted % width - rows.positions % width
    right = (predicted == rows.positions).float().mean()
    distance = torch.hypot(down.float(), across.float()).mean()
    return PositionScore(100.0 * right.item(), distance.item(), len(predicted))


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


def pixels(
    train: Iterable[Patches], held_out: Iterable[Patches], test: Iterable[Patches], shared: bool
) -> dict[str, PixelScore | None]:
    """Predict the pixels of test patches by a ridge regression on their tokens; batches are read once, not stored.

    The penalty is chosen on `held_out`, then the model is fitted on train and held-out patches together.

    Returns:
        By `normal` and `outlier`; None for a kind without test patches, or, with separate models, without train or
        held-out patches.
    """
    fitting, choosing = _equations(train, shared), _equations(held_out, shared)
    models = {kind: _fit(fitting[kind], choosing[kind]) for kind in fitting}
    errors: dict[str, list[Tensor]] = {kind: [] for kind in models}
    for batch in test:
        for kind, rows in _by_kind(batch).items():
            fitted = models[kind]
            if fitted is not None:
                errors[kind].append(_pixel_errors(fitted, rows))
    return {kind: _pixel_score(models[kind], errors[kind]) for kind in models}


def _equations(batches: Iterable[Patches], shared: bool) -> dict[str, NormalEquations]:
    equations = {"normal": NormalEquations(), "outlier": NormalEquations()}
    for batch in batches:
        for kind, rows in _by_kind(batch).items():
            if len(rows.features):
                equations[kind].add(rows.features, rows.pixels)
    return dict.fromkeys(equations, _sum(list(equations.values()))) if shared else equations


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
