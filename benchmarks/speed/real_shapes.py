"""The memory rows of `benchmarks.speed`: the largest part of every task at real shapes, with random features.

The defaults are the sizes of ImageNet, ADE20k, NYU, 518 px and a ViT-g. The estimates are those of `make plan`:
formulas of the sizes in `regvit_lightning/tasks/footprint/pieces.py`.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.speed.footprints import measured
from benchmarks.speed.timing import Measurement
from regvit_lightning import settings, statistics
from regvit_lightning.models.foreign import ForeignBackbone
from regvit_lightning.runtime import hardware
from regvit_lightning.tasks.footprint import pieces

if TYPE_CHECKING:
    from regvit_lightning.tasks.knn import KNN
    from regvit_lightning.tasks.linear import LinearProbe

WIDTH = 1536  # of a ViT-g


class RandomTokens(nn.Module):
    """Backbone that looks at no image: random tokens of a 2 × 2 grid."""

    image_size, mean, std = 2, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Random `cls` and `patches` for images (B, 3, 2, 2)."""
        random = torch.randn(len(images), 5, self.width, device=images.device)
        return {"cls": random[:, 0], "patches": random[:, 1:].unflatten(1, (2, 2))}


def knn(images: int = 1_281_167, width: int = WIDTH, queries: int = 256) -> Measurement:
    """Bank of all train features, and the choice of k for `queries` of them: the bank once, and one chunk."""
    from regvit_lightning.tasks.knn import KNN

    device = hardware.accelerator()
    chosen = settings.load_settings("tasks", "imagenet_knn", words=["precision=32-true"])[1]
    module = KNN(ForeignBackbone(RandomTokens(width), "random"), chosen, 1000, images).to(device)

    def work() -> None:
        fill_bank(module)
        module.held_out_accuracy(torch.arange(queries, device=device))

    estimate = pieces.knn(images, width, queries, chosen.bank_chunk)
    return measured(f"kNN, {images:,} × {width} bank, {queries} queries", estimate, work)


def fill_bank(module: "KNN") -> None:
    """Fill the bank of a kNN pass with random unit vectors and labels."""
    module.on_validation_start()
    for rows in torch.arange(len(module.bank), device=module.bank.device).split(4096):
        module.bank[rows] = F.normalize(torch.randn(len(rows), module.bank.shape[1], device=module.bank.device), dim=1)
    module.bank_labels.random_(module.classes)


def _probe(width: int, classes: int) -> "LinearProbe":
    from regvit_lightning.tasks.linear import LinearProbe

    chosen = settings.load_settings("tasks", "imagenet_linear", words=["precision=32-true"])[1]
    return LinearProbe(ForeignBackbone(RandomTokens(width), "random"), chosen, classes).to(hardware.accelerator())


def linear_choice(held_out: int = 128_117, test: int = 50_000, classes: int = 1000) -> Measurement:
    """Choice of one of 52 heads and their test accuracies: predictions as float32 and int64, in no one-hot form."""
    from regvit_lightning.tasks import linear

    module = _probe(8, classes)
    heads, names = len(module.grid), [f"class {number}" for number in range(classes)]

    def collected(images: int) -> tuple[Tensor, Tensor]:
        for indices in torch.arange(images).split(128):
            module.keep(torch.randint(classes, (len(indices), heads)), indices % classes)
        return module._collect()

    def work() -> None:
        module.held_out, module.test = collected(held_out), collected(test)
        linear._outcome(module, 1_281_167 - held_out, names, 0)

    estimate = pieces.head_choice(heads, held_out, test)
    return measured(f"linear probe, {heads} heads × {classes} classes × {held_out:,} images", estimate, work)


def linear_step(batch: int = 128, width: int = WIDTH, classes: int = 1000) -> Measurement:
    """Training step of the 52 heads: weights, gradients and momenta, and the logits of one batch."""
    device = hardware.accelerator()

    def work() -> None:
        module = _probe(width, classes)
        optimiser = module.configure_optimizers()
        labels = torch.randint(classes, (batch,), device=device)
        features = [torch.randn(batch, heads.linear.in_features, device=device) for heads in module.heads]
        for _ in range(2):
            losses = [heads.loss(x, labels, module.rates) for heads, x in zip(module.heads, features, strict=True)]
            optimiser.zero_grad()
            torch.stack(losses).sum().backward()
            optimiser.step()

    inputs = 12 * width  # CLS of a block, of four, each of them also with the mean patch
    estimate = pieces.linear_step(batch, inputs, 13, classes, 4)
    return measured(f"linear probe, step of 52 heads × {classes} classes, D {width}", estimate, work)


def attentive_step(batch: int = 128, width: int = WIDTH, side: int = 16, classes: int = 1000) -> Measurement:
    """Training step of the 90 heads that read patches: their parameters, gradients and moments, and what they read."""
    from regvit_lightning.tasks.attentive.probe import AttentiveProbe

    device = hardware.accelerator()
    chosen = settings.load_settings("tasks", "imagenet_attentive", words=["precision=32-true"])[1]
    points, queries = (
        len(chosen.learning_rates) * len(chosen.weight_decays),
        (width // chosen.head_width, chosen.queries),
    )
    patches = side * side

    def work() -> None:
        module = AttentiveProbe(ForeignBackbone(RandomTokens(width), "random"), chosen, classes).to(device)
        tokens = torch.randn(batch, patches, width, device=device)
        labels = torch.randint(classes, (batch,), device=device)
        optimiser = module.configure_optimizers()
        for step in range(2):
            optimiser.zero_grad()
            module.training_step({"tokens": tokens, "label": labels}, step).backward()
            optimiser.step()

    parameters = points * pieces.attentive_parameters(width, classes, chosen.queries, 1)
    reads = [(own, patches) for own in queries]
    name = f"attentive probe, step of {3 * points} heads × {classes} classes, {patches} patches, D {width}"
    return measured(name, pieces.attentive_step(batch, width, points, reads, classes, parameters), work)


def zero_shot(classes: int = 1000, embed: int = 1024, images: int = 50_000) -> Measurement:
    """Class weights of 80 templates, and the ranks of all test images in batches."""
    from regvit_lightning.models.joint_space import JointSpace, TextArchitecture
    from regvit_lightning.tasks import zeroshot

    device, templates = hardware.accelerator(), zeroshot.TEMPLATES["openai"]()
    small = TextArchitecture(width=64, layers=1, heads=1, context_length=77, embed_dim=embed)

    class RandomSpace(JointSpace):
        def texts(self, tokens: Tensor) -> Tensor:
            return F.normalize(torch.randn(len(tokens), embed, device=tokens.device), dim=1)

    space = RandomSpace(small, 64).eval().to(device)

    def work() -> None:
        names = [f"class {number}" for number in range(classes)]
        weights = zeroshot.classifier(space, names, templates, 1024)
        for part in torch.arange(images, device=device).split(256):
            embedded = F.normalize(torch.randn(len(part), embed, device=device), dim=1)
            zeroshot.rank(embedded @ weights.T, part % classes)

    texts = classes * len(templates)
    return measured(f"zero-shot, {texts:,} texts, E {embed}", pieces.zero_shot(texts, embed, 77), work)


def intervals(images: int = 50_000, classes: int = 150) -> Measurement:
    """Bootstrap over test images: of an accuracy, and of the areas of ADE20k's 2,000 images."""

    def work() -> None:
        statistics.bootstrap(100.0 * (torch.rand(images) < 0.8))
        statistics.bootstrap(torch.randint(9999, (images // 25, 3, classes)), 0, statistics.miou)

    areas = pieces.intervals(images // 25, 3 * classes, statistics.AT_ONCE)
    estimate = max(pieces.intervals(images, 1, statistics.AT_ONCE), areas)
    return measured(f"intervals, {images:,} images, {images // 25:,} × {classes} classes", estimate, work)


def robustness(images: int = 50_000, batch: int = 128, width: int = WIDTH, classes: int = 1000) -> Measurement:
    """Two kept heads on a batch of CLS, four blocks and the mean patch, then what is right of all images."""
    from regvit_lightning.data import shifted
    from regvit_lightning.frozen.kept_heads import KeptHead
    from regvit_lightning.models.foreign import ForeignBackbone
    from regvit_lightning.tasks.robustness import KeptClassifiers

    facts = {"blocks": 1, "avgpool": True, "registers": False}
    accepted = [(index % classes, (index + 1) % classes) for index in range(images)]

    def work() -> None:
        every = {name: torch.randn(classes, 2 * width) for name in ("linear", "again")}
        heads = {name: KeptHead(weight, torch.zeros(classes), facts) for name, weight in every.items()}
        backbone = ForeignBackbone(RandomTokens(width), "random")
        module = KeptClassifiers(backbone, "32-true", range(classes), heads)
        module.test_step((torch.zeros(batch, 3, 2, 2, dtype=torch.uint8), torch.zeros(batch)), 0)
        shifted.right(torch.zeros(images, 2, dtype=torch.long).numpy(), accepted)

    estimate = pieces.robustness(batch, 4 * width, classes, images)
    return measured(f"robustness, {images:,} images of {classes:,} classes", estimate, work)


def rankings(queries: int = 70, images: int = 1_000_000, width: int = 384) -> Measurement:
    """Queries against a million distractors: cosines and their order, once each, and one ranking at a time."""
    import numpy as np

    from regvit_lightning.data.retrieval import Query
    from regvit_lightning.tasks import retrieval, retrieval_scores

    one = np.arange(5)
    query = Query("", None, one, one + 5, one + 10)

    @torch.inference_mode()
    def work() -> None:
        for order in retrieval.ranked(torch.randn(queries + images, width), queries):
            retrieval_scores.graded(order, query)

    estimate = pieces.ranking(queries, images, width)
    return measured(f"retrieval, {queries} queries, {images:,} × {width} images", estimate, work)


def label_free(images: int = 10_000, width: int = WIDTH, patches: int = 256) -> Measurement:
    """RankMe with its interval, and DSE of a group of images: float64 copies, Gram matrices and their eigenvectors."""
    from regvit_lightning.tasks.unlabelled import dense_structure, image_scores

    @torch.inference_mode()
    def work() -> None:
        image_scores.interval(image_scores.rankme, torch.randn(images, width), 0)
        dense_structure.StructureSums().add(torch.randn(dense_structure.IMAGES, patches, width))

    return measured(f"scores without labels, {images:,} × {width}", pieces.label_free(images, width), work)
