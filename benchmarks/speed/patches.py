"""Rows of `benchmarks.speed` for labels of patches: seconds an image, and memory over a stated bound."""

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.speed.footprints import measured
from benchmarks.speed.real_shapes import WIDTH, RandomTokens
from benchmarks.speed.timing import Measurement, seconds
from regvit_lightning import settings
from regvit_lightning.models.foreign import ForeignBackbone
from regvit_lightning.runtime import hardware
from regvit_lightning.tasks.footprint import pieces
from regvit_lightning.tasks.patches import kmeans
from regvit_lightning.tasks.patches.hummingbird import InContext
from regvit_lightning.tasks.patches.memory import PatchMemory
from regvit_lightning.tasks.patches.patch_knn import Candidate, PatchKNN

PATCH, CLASSES = 16, 150
GRID = 224 // PATCH
MOST_SECONDS = 1.0  # an image on two cores, for 100,000 patches of a ViT-S


def filled(rows: int, width: int) -> PatchMemory:
    """A memory of random L2-normalised patches, every one with four classes."""
    device = hardware.accelerator()
    bank = PatchMemory(rows, width, PATCH**2, torch.device(device))
    for part in torch.arange(rows, device=device).split(16384):
        labels = torch.randint(CLASSES, (len(part), 4), dtype=torch.uint8, device=device)
        bank.add(_unit(len(part), width), labels.repeat_interleave(PATCH**2 // 4, dim=1), 0)
    return bank


def _unit(rows: int, width: int) -> Tensor:
    return F.normalize(torch.randn(rows, width, device=hardware.accelerator()), dim=1)


def _module(kind: type[InContext] | type[PatchKNN], task: str, bank: PatchMemory, width: int) -> InContext | PatchKNN:
    chosen = settings.load_settings("tasks", task, words=["precision=32-true"])[1]
    backbone = ForeignBackbone(RandomTokens(width), "random")
    module = kind(backbone, chosen, CLASSES, 1, 224, 0).to(hardware.accelerator())
    module.memory = bank
    return module


def times(patches: int = 100_000, width: int = 384) -> list[Measurement]:
    """(m) Seconds to label one image of 224 px, without its forward pass: search, vote and upsampling to 512 × 683."""
    module = _module(InContext, "hummingbird_ade20k", filled(patches, width), width)
    copied = _module(PatchKNN, "patch_knn_ade20k", filled(patches, width), width)
    assert isinstance(module, InContext), "by its class"
    assert isinstance(copied, PatchKNN), "by its class"
    queries, mask = _unit(GRID**2, width), torch.zeros(512, 683)
    with torch.inference_mode():
        copied.standardise()

    @torch.inference_mode()
    def in_context() -> None:
        module.from_shares(module.shares(queries).view(GRID, GRID, -1), mask, 224)

    @torch.inference_mode()
    def by_mode() -> None:
        copied.labels(queries, [Candidate(30, "l2")])

    size = f"{patches:,} × {width}, {GRID**2} patches"
    measured_ = {"hummingbird": seconds(in_context, 3), "patch_knn": seconds(by_mode, 3)}
    return [
        Measurement(f"(m) seconds an image, {name}, memory {size}", taken, f"≤ {MOST_SECONDS:g}", f"{taken:.2f} s")
        for name, taken in measured_.items()
    ]


def clusters(points: int = 128_000, width: int = WIDTH, k: int = 500) -> Measurement:
    """(j) k-means of the patches that overclustering draws: their distances in parts; two iterations."""

    @torch.inference_mode()
    def work() -> None:
        kmeans.kmeans(torch.randn(points, width, device=hardware.accelerator()), k, 2, 0)

    return measured(f"k-means, {points:,} × {width}, k {k}", pieces.kmeans(points, width, k), work)


def patch_memory(patches: int = 1_024_000, width: int = 384, images: int = 32) -> Measurement:
    """(j) A memory that is filled and searched by a batch: features and labels once, products of a chunk."""

    def work() -> None:
        module = _module(InContext, "hummingbird_ade20k", filled(patches, width), width)
        assert isinstance(module, InContext), "by its class"
        with torch.inference_mode():
            module.shares(_unit(images * GRID**2, width))

    chosen = settings.load_settings("tasks", "hummingbird_ade20k")[1]
    estimate = pieces.patch_memory(patches, width, PATCH**2, images * GRID**2, chosen.neighbours, chosen.bank_chunk)
    name = f"memory of patches, {patches:,} × {width}, {images} × {GRID**2} queries"
    return measured(name, estimate, work)
