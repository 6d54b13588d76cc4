"""Logistic regression by L-BFGS, as scikit-learn fits it, on the device of the features.

scikit-learn's own solver shares its cores badly: next to other processes it was measured thirty times slower.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

LOGITS = 1 << 20  # float64 logits at a time: 8 MiB, and several temporary arrays of that size


@dataclass(frozen=True)
class Linear:
    """Linear model features @ weight + bias, weight (D, K), bias (K,)."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        return features.to(self.weight) @ self.weight + self.bias


def regressions(
    features: Tensor, targets: Tensor, classes: int, grid: Sequence[float], iterations: int
) -> list[Linear]:
    """Regressions for each of scikit-learn's C in `grid`, ascending; each starts from the one before.

    Args:
        features, targets, classes, iterations: see `logistic_regression`.
    """
    fitted: list[Linear] = []
    for C in grid:
        penalty, start = 1 / (2 * len(targets) * C), fitted[-1] if fitted else None
        fitted.append(logistic_regression(features, targets, classes, penalty, iterations, start))
    return fitted


@torch.inference_mode(False)  # Lightning's test loop disables gradients, also of tensors created in it
@torch.enable_grad()
def logistic_regression(
    features: Tensor, targets: Tensor, classes: int, penalty: float, iterations: int, start: Linear | None = None
) -> Linear:
    """Minimise the mean loss over images + `penalty` × the sum of squared weights; the bias is not penalised.

    The loss is the cross-entropy of class indices; or, for images with several classes, the sum over classes of that of
    each class against all others, which makes as many independent regressions. scikit-learn's C is 1 / (2 N penalty).
    Memory is 8 N D bytes for the features in float64, and for some blocks of `LOGITS` logits; a step takes 6 N D K
    operations.

    Args:
        features: (N, D).
        targets: (N,), integers 0 to classes - 1; or (N, classes) of 1, 0, and NaN where it is not known.
        classes: number of classes K.
        penalty: factor of the squared weights.
        iterations: maximum number.
        start: initial model; zeros by default.
    """
    rows, wanted = features.to(torch.float64, copy=True), targets.clone()
    if start is None:
        start = Linear(rows.new_zeros(rows.shape[1], classes), rows.new_zeros(classes))
    weight, bias = (part.detach().clone().requires_grad_() for part in (start.weight, start.bias))
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=iterations, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )
    size = max(LOGITS // classes, 1)

    def loss() -> Tensor:
        optimiser.zero_grad()
        total = penalty * weight.square().sum()
        total.backward()
        for part, expected in zip(rows.split(size), wanted.split(size), strict=True):
            value = _summed_loss(part @ weight + bias, expected) / len(rows)
            value.backward()
            total = total.detach() + value.detach()
        return total

    optimiser.step(loss)  # type: ignore[arg-type]
    return Linear(weight.detach(), bias.detach())


def _summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    if not targets.is_floating_point():
        return F.cross_entropy(logits, targets, reduction="sum")
    known = ~targets.isnan()
    every = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num().to(logits), reduction="none")
    return (every * known).sum()
