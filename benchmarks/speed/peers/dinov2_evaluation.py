"""DINOv2's kNN and linear evaluation on given features: `KnnModule` and `AllClassifiers` of facebookresearch/dinov2."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.speed.heads import batched_heads
from benchmarks.speed.peers import pairs
from benchmarks.speed.real_shapes import RandomTokens
from benchmarks.speed.timing import Measurement
from regvit_lightning import settings
from regvit_lightning.models.foreign import ForeignBackbone
from regvit_lightning.runtime import hardware

WIDTH, CLASSES = 384, 1000


def rows(checkouts: Path) -> list[Measurement]:
    """Classification of queries by all values of k, and a step of the grid of heads."""
    if hardware.accelerator() == "cpu":
        for kind in (torch.Tensor, torch.nn.Module):
            kind.cuda = lambda self, *_, **__: self  # type: ignore[assignment,method-assign]
    pairs.without("fvcore.common.checkpoint", "iopath.common.file_io")
    return [nearest(), linear()]


def nearest(images: int = 100_000, queries: int = 512) -> Measurement:
    """kNN with a bank of random unit vectors; the share of queries with the same class for the same k is shown."""
    from dinov2.eval.knn import KnnModule

    from regvit_lightning.tasks.knn import KNN

    device = hardware.accelerator()
    chosen = settings.load_settings("tasks", "imagenet_knn", words=["precision=32-true"])[1]
    bank, asked = (F.normalize(torch.randn(count, WIDTH, device=device), dim=1) for count in (images, queries))
    labels = torch.randint(CLASSES, (images,), device=device)
    ours = KNN(ForeignBackbone(RandomTokens(WIDTH), "random"), chosen, CLASSES, images).to(device)
    ours.bank, ours.bank_labels = bank, labels
    pairs.one_process()
    theirs = KnnModule(bank, labels, list(chosen.neighbours), chosen.temperature, torch.device(device), CLASSES)
    with torch.inference_mode():
        found = ours.classify(asked)[0]
        expected = torch.stack([scores.argmax(dim=1) for scores in theirs(asked).values()], dim=1)
        same = (found == expected).double().mean().item()
        return pairs.beside(
            f"kNN / DINOv2's KnnModule, {images:,} × {WIDTH}, {queries} queries",
            lambda: ours.classify(asked),
            lambda: theirs(asked),
            "≥ 1",
            f"{same:.1%} of the predictions are the same",
        )


def linear(batch: int = 128) -> Measurement:
    """A training step of 52 heads on the tokens of the last four blocks, whose mean patch is computed beforehand."""
    device = hardware.accelerator()
    rates = torch.tensor(settings.load_settings("tasks", "imagenet_linear")[1].learning_rates, device=device)
    features = [torch.randn(batch, WIDTH * blocks, device=device) for blocks in (1, 2, 4, 5)]
    labels = torch.randint(CLASSES, (batch,), device=device)
    ours = batched_heads(features, labels, rates, CLASSES)
    name = f"linear probe, step of 52 heads / DINOv2's AllClassifiers, D {WIDTH}, batch {batch}"
    return pairs.beside(name, ours, their_heads(batch, labels, rates.tolist()), "≥ 1")


def their_heads(batch: int, labels: torch.Tensor, rates: list[float]) -> Callable[[], None]:
    """Their step: every head joins its own input from the tokens (patches (B, 1, D) and CLS (B, D)) of four blocks."""
    from dinov2.eval.linear import setup_linear_classifiers

    tokens: Any = [
        (torch.randn(batch, 1, WIDTH).to(labels.device), torch.randn(batch, WIDTH).to(labels.device)) for _ in range(4)
    ]
    heads, groups = setup_linear_classifiers(tokens, [1, 4], rates, batch, CLASSES)
    optimiser = torch.optim.SGD(groups, momentum=0.9, weight_decay=0)

    def step() -> None:
        loss = torch.stack([F.cross_entropy(logits, labels) for logits in heads(tokens).values()]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step
