"""(b) The step of the linear probe's 52 heads, beside its matrix products and beside a loop over single heads."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.speed.timing import Measurement, seconds
from regvit_lightning import settings
from regvit_lightning.runtime import hardware
from regvit_lightning.tasks.linear import Heads


def probe_step(batch: int = 256, width: int = 768, classes: int = 1000) -> list[Measurement]:
    """(b) Time of a step of the 52 heads on given features over its matrix products, and over 52 `nn.Linear`."""
    device = hardware.accelerator()
    rates = torch.tensor(settings.load_settings("tasks", "imagenet_linear")[1].learning_rates, device=device)
    features = [torch.randn(batch, width * blocks, device=device) for blocks in (1, 2, 4, 5)]
    labels = torch.randint(classes, (batch,), device=device)
    batched = seconds(batched_heads(features, labels, rates, classes))
    bare = seconds(_matrix_products(features, len(rates) * classes))
    looped = seconds(_single_heads(features, labels, len(rates), classes))
    on_gpu = device == "cuda"
    return [
        Measurement(
            "(b) 52-head step / its matrix products",
            batched / bare,
            "" if on_gpu else "≤ 1.5",
            f"{1e3 * batched:.0f} ms step, {1e3 * bare:.0f} ms products",
        ),
        Measurement(
            "(b) loop over 52 nn.Linear / 52-head step",
            looped / batched,
            "≥ 3" if on_gpu else "",
            f"{1e3 * looped:.0f} ms loop, {1e3 * batched:.0f} ms step",
        ),
    ]


def batched_heads(features: list[Any], labels: Any, rates: Any, classes: int) -> Callable[[], None]:
    """Training step of the linear probe."""
    groups = [Heads(x.shape[1], len(rates), classes).to(x.device) for x in features]
    optimiser = torch.optim.SGD([p for heads in groups for p in heads.parameters()], lr=1.0, momentum=0.9, fused=True)

    def step() -> None:
        losses = [heads.loss(x, labels, rates) for heads, x in zip(groups, features, strict=True)]
        optimiser.zero_grad()
        torch.stack(losses).sum().backward()
        optimiser.step()

    return step


def _matrix_products(features: list[Any], outputs: int) -> Callable[[], None]:
    """Matrix products for the logits and the gradient of the weights, which no implementation can avoid."""
    pairs = [(x, torch.randn(outputs, x.shape[1]).to(x), torch.randn(len(x), outputs).to(x)) for x in features]

    def products() -> None:
        for x, weight, gradient in pairs:
            torch.mm(x, weight.T)
            torch.mm(gradient.T, x)

    return products


def _single_heads(features: list[Any], labels: Any, rates: int, classes: int) -> Callable[[], None]:
    """Training step as a plain loop over `nn.Linear`s with one optimiser each."""
    inputs = [x for x in features for _ in range(rates)]
    singles = [torch.nn.Linear(x.shape[1], classes).to(x.device) for x in inputs]
    optimisers = [torch.optim.SGD(single.parameters(), lr=0.1, momentum=0.9) for single in singles]

    def loop() -> None:
        for x, single, optimiser in zip(inputs, singles, optimisers, strict=True):
            optimiser.zero_grad()
            F.cross_entropy(single(x), labels).backward()
            optimiser.step()

    return loop
