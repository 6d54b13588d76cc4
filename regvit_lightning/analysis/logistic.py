"""Logistic regression to the optimum that scikit-learn finds, on the device of the features.

L-BFGS in coordinates in which the loss is about as curved in every direction: along the principal axes of the features,
each scaled by the curvature of the loss there. Tokens of a ViT vary thousands of times more along some axes than along
others; on such features plain L-BFGS still moves after hundreds of steps, this one has converged after some tens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.runtime import hardware

LOGITS = 1 << 20  # float64 logits at a time: 8 MiB, and several temporary arrays of that size
HISTORY = 20  # steps that L-BFGS remembers, each two arrays of the size of the model
PRODUCTS = 10**7  # of a step for each thread, about 10 ms: with less, threads wait for each other most of the time


@dataclass(frozen=True)
class Linear:
    """Linear model features @ weight + bias, weight (D, K), bias (K,)."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        return features.to(self.weight) @ self.weight + self.bias

    def best(self, features: Tensor) -> Tensor:
        """Index (N,) of the largest output for features (N, D), in blocks of rows."""
        rows = max(LOGITS // max(self.weight.shape), 1)
        return torch.cat([self(part).argmax(dim=1) for part in features.split(rows)])


def regressions(
    features: Tensor, targets: Tensor, classes: int, grid: Sequence[float], iterations: int
) -> list[Linear]:
    """Regressions for each of scikit-learn's C in `grid`, ascending; each starts from the one before.

    Args:
        features, targets, classes, iterations: see `logistic_regression`.
    """
    return _regressions(features, targets, classes, [1 / (2 * len(targets) * C) for C in grid], iterations)


def logistic_regression(features: Tensor, targets: Tensor, classes: int, penalty: float, iterations: int) -> Linear:
    """Minimise the mean loss over images + `penalty` × the sum of squared weights; the bias is not penalised.

    The loss is the cross-entropy of class indices; or, for images with several classes, the sum over classes of that of
    each class against all others, which makes as many independent regressions. scikit-learn's C is 1 / (2 N penalty).
    Memory is 8 N D bytes for the features in float64, some blocks of `LOGITS` logits, and 16 D K bytes for each of
    `HISTORY` steps; a step takes 4 N D K operations, and the axes take 4 N D² once.

    Args:
        features: (N, D).
        targets: (N,), integers 0 to classes - 1; or (N, classes) of 1, 0, and NaN where it is not known.
        classes: number of classes K.
        penalty: factor of the squared weights.
        iterations: maximum number.
    """
    return _regressions(features, targets, classes, [penalty], iterations)[0]


@torch.inference_mode(False)  # Lightning's test loop is in it, whose tensors an optimiser refuses
@torch.no_grad()
def _regressions(
    features: Tensor, targets: Tensor, classes: int, penalties: Sequence[float], iterations: int
) -> list[Linear]:
    rows, targets = features.to(torch.float64, copy=True), targets.clone()
    fitted = []
    with hardware.threads(rows.numel() * classes // PRODUCTS):
        mean, axes, variances = _turn(rows)
        model = Linear(rows.new_zeros(rows.shape[1], classes), rows.new_zeros(classes))
        for penalty in penalties:
            model = _minimum(_Loss(rows, targets, penalty), model, variances, iterations)
            weight = axes @ model.weight
            fitted.append(Linear(weight, model.bias - mean @ weight))
    return fitted


def _turn(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre the rows (N, D) and turn them to their principal axes, in place: their mean, the axes, their variances."""
    mean = rows.mean(dim=0)
    rows -= mean
    variances, axes = torch.linalg.eigh(rows.T @ rows / len(rows))
    for part in rows.split(max(LOGITS // rows.shape[1], 1)):
        part.copy_(part @ axes)
    return mean, axes, variances.clamp(min=0)


def _minimum(loss: "_Loss", start: Linear, variances: Tensor, iterations: int) -> Linear:
    """Model of least loss, by L-BFGS from `start`, for features along axes of these variances (D,)."""
    curvature = loss.curvature(start)
    scale = torch.cat([curvature * variances + 2 * loss.penalty, curvature[None]]).rsqrt()[:, None]
    scaled = torch.cat([start.weight, start.bias[None]]).div_(scale).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [scaled],
        max_iter=iterations,
        history_size=HISTORY,
        tolerance_grad=1e-8,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def evaluate() -> Tensor:
        value, gradient = loss(_model(scaled.detach() * scale))
        scaled.grad = gradient.mul_(scale)
        return value

    optimiser.step(evaluate)  # type: ignore[arg-type]
    return _model(scaled.detach() * scale)


def _model(both: Tensor) -> Linear:
    return Linear(both[:-1], both[-1])


@dataclass(frozen=True)
class _Loss:
    """The loss of `logistic_regression`, in blocks of rows."""

    rows: Tensor
    targets: Tensor
    penalty: float

    def __call__(self, model: Linear) -> tuple[Tensor, Tensor]:
        """Loss of a model, and its gradient (D + 1, K), that of the bias in the last row."""
        total = self.penalty * model.weight.square().sum()
        gradient = torch.cat([2 * self.penalty * model.weight, torch.zeros_like(model.bias)[None]])
        for rows, targets in self._blocks(model):
            value, residuals = _summed_loss(model(rows), targets)
            total += value / len(self.rows)
            gradient[:-1].addmm_(rows.T, residuals, alpha=1 / len(self.rows))
            gradient[-1].add_(residuals.sum(dim=0), alpha=1 / len(self.rows))
        return total, gradient

    def curvature(self, model: Linear) -> Tensor:
        """Second derivative of the loss of an image by a logit, p (1 - p), mean over images and classes."""
        total = model.bias.new_zeros(())
        for rows, targets in self._blocks(model):
            shares = model(rows).sigmoid() if targets.is_floating_point() else model(rows).softmax(dim=1)
            total += (shares * (1 - shares)).sum()
        return (total / (len(self.rows) * len(model.bias))).clamp(min=torch.finfo(torch.float64).eps)

    def _blocks(self, model: Linear) -> Iterable[tuple[Tensor, Tensor]]:
        size = max(LOGITS // len(model.bias), 1)
        return zip(self.rows.split(size), self.targets.split(size), strict=True)


def _summed_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the loss over images and classes, and its gradient by the logits (N, K), which are overwritten."""
    if targets.is_floating_point():
        known = ~targets.isnan()
        wanted = targets.nan_to_num().to(logits)
        every = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return (every * known).sum(), logits.sigmoid_().sub_(wanted).mul_(known)
    chosen = targets[:, None]
    log_shares = logits.log_softmax(dim=1)
    value = -log_shares.gather(1, chosen).sum()
    return value, log_shares.exp_().scatter_add_(1, chosen, logits.new_full(chosen.shape, -1.0))
