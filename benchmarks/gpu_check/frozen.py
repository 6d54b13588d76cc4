"""Pieces of the frozen evaluations on random features: the 52 heads of the linear probe, kNN, LOST."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from benchmarks.gpu_check.check import Check
from benchmarks.gpu_check.lines import BELOW, OK, Line, guarded
from benchmarks.speed.heads import probe_step
from benchmarks.speed.real_shapes import RandomTokens, fill_bank
from benchmarks.speed.timing import seconds
from regvit_lightning import settings
from regvit_lightning.models.foreign import ForeignBackbone

LEAST = 3.0  # times as fast as a loop, on a GPU


def frozen(check: Check) -> Iterator[Line]:
    """Lines of all pieces."""
    yield from guarded("52 heads", lambda: heads(check))
    yield from guarded("kNN", lambda: knn(check))
    yield from guarded("LOST", lambda: lost(check))


def heads(check: Check) -> Iterator[Line]:
    """A step of the 52 heads against its matrix products, and against a loop over 52 `nn.Linear`."""
    products, loop = probe_step(check.scale.queries, check.scale.width, check.scale.classes)
    yield Line("52-head step over its matrix products", products.value, source=products.parts)
    on_gpu = check.device == "cuda"
    state = BELOW if on_gpu and loop.value < LEAST else OK
    yield Line("loop over 52 heads / 52-head step", loop.value, aim=loop.target, state=state, source=loop.parts)


def knn(check: Check) -> Iterator[Line]:
    """Queries per second of the exact search and the votes against a bank of ImageNet's size."""
    from regvit_lightning.tasks.knn import KNN

    scale = check.scale
    chosen = settings.load_settings("tasks", "imagenet_knn", words=["precision=32-true"])[1]
    backbone = ForeignBackbone(RandomTokens(scale.width), "random")
    module = KNN(backbone, chosen, scale.classes, scale.bank).to(check.device)
    fill_bank(module)
    queries = F.normalize(torch.randn(scale.queries, scale.width, device=check.device), dim=1)
    with torch.inference_mode():
        rate = scale.queries / seconds(lambda: module.classify(queries), 5)
    source = f"bank of {scale.bank:,} × {scale.width}, exact; ImageNet's 50,000 test images in {50_000 / rate:.0f} s"
    yield Line("kNN", rate, "queries/s", source=source)


def lost(check: Check) -> Iterator[Line]:
    """Images per second of LOST on given features, beside the Gram matrices alone."""
    from regvit_lightning.tasks.discovery.lost import LOST, Choice

    side, images = check.scale.lost
    features = torch.randn(images, side, side, check.scale.width, device=check.device)
    flat, method = features.flatten(1, 2), LOST([Choice("k", -1, False, False, 0.0)], min(100, side**2))
    with torch.inference_mode():
        whole, gram = (seconds(work, 5) for work in (lambda: method([features]), lambda: flat @ flat.mT))
    source = f"{side} × {side} patches, D {check.scale.width}, batch {images}; {whole / gram:.1f} × its Gram matrices"
    yield Line("LOST", images / whole, "images/s", source=source)
