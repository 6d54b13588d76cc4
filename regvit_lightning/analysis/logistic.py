"""Multinomial logistic regression by L-BFGS, as scikit-learn fits it, on the device of the features.

scikit-learn's own solver shares its cores badly: next to other processes it was measured thirty times slower.
"""

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


@torch.inference_mode(False)  # Lightning's test loop disables gradients, also of tensors created in it
@torch.enable_grad()
def softmax_regression(
    features: Tensor, labels: Tensor, classes: int, penalty: float, iterations: int, start: Linear | None = None
) -> Linear:
    """Minimise the mean cross-entropy + `penalty` × the sum of squared weights; the bias is not penalised.

    scikit-learn's C is 1 / (2 N penalty). Memory is 8 N D bytes for the features in float64, and for some blocks of
    `LOGITS` logits; a step takes 6 N D K operations.

    Args:
        features: (N, D).
        labels: (N,), 0 to classes - 1.
        penalty: factor of the squared weights.
        iterations: maximum number.
        start: initial model; zeros by default.
    """
    rows, targets = features.to(torch.float64, copy=True), labels.clone()
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
        for part, expected in zip(rows.split(size), targets.split(size), strict=True):
            value = F.cross_entropy(part @ weight + bias, expected, reduction="sum") / len(rows)
            value.backward()
            total = total.detach() + value.detach()
        return total

    optimiser.step(loss)  # type: ignore[arg-type]
    return Linear(weight.detach(), bias.detach())
