"""The memory rows of `benchmarks.speed`: the largest part of every task at real shapes, with random features.

The defaults are the sizes of ImageNet, ADE20k, NYU, 518 px and a ViT-g. The estimates are those of `make plan`:
formulas of the sizes in `regvit_lightning/tasks/footprint/pieces.py`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.speed.footprints import measured
from benchmarks.speed.timing import Measurement
from regvit_lightning import settings, statistics
from regvit_lightning.analysis import local_probes, outliers, positions, probes
from regvit_lightning.analysis.local_probes import Patches
from regvit_lightning.analysis.norms import Norms
from regvit_lightning.analysis.outliers import Rules
from regvit_lightning.analysis.probes import Features, TokenSettings
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


# ------------------------------------------------------------------------------------------------ classification


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


# -------------------------------------------------------------------------------------------------------- dense


def segmentation_step(batch: int = 16, width: int = WIDTH, side: int = 518, classes: int = 150) -> Measurement:
    """Training step of the linear head on maps of 518 px crops: logits at the size of the crop, with their gradient."""
    from regvit_lightning.data import mmsegmentation

    mmsegmentation.prepare()
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    from regvit_lightning.tasks.segmentor import BNHead

    device, grid = hardware.accelerator(), side // 14
    head = BNHead(in_channels=width, in_index=0, num_classes=classes, ignore_index=255).to(device)

    def work() -> None:
        samples = []
        for labels in torch.randint(classes, (batch, 1, side, side), device=device):
            samples.append(SegDataSample(gt_sem_seg=PixelData(data=labels)))
        maps = torch.randn(batch, grid, grid, width, device=device).permute(0, 3, 1, 2)  # as tokens lie in memory
        head.loss_by_feat(head([maps]), samples)["loss_ce"].backward()

    estimate = pieces.segmentation_step(batch, width, grid**2, side**2, classes)
    return measured(f"segmentation, step of {batch} × {side} px, {classes} classes", estimate, work)


def segmentation_image(height: int = 1024, width: int = 2048, classes: int = 150) -> Measurement:
    """Logits of one large test image, from windows of 512 px in batches of 16."""
    from regvit_lightning.frozen import dense
    from regvit_lightning.models.sources import load_backbone
    from regvit_lightning.tasks.segmentation import Segmenter

    chosen = settings.load_settings("tasks", "ade20k_linear", words=["precision=32-true"])[1]
    module = Segmenter(load_backbone("random-vitn_reg4"), chosen, classes).eval().to(hardware.accelerator())

    @torch.inference_mode()
    def work() -> None:
        image = torch.randn(1, 3, height, width, device=hardware.accelerator())
        module.model.slide_inference(image, []).argmax(dim=1)

    high, wide = min(chosen.crop, height), min(chosen.crop, width)
    windows = len(dense.window_starts(height, high, chosen.stride)) * len(
        dense.window_starts(width, wide, chosen.stride)
    )
    images, vit = min(windows, chosen.device_batch), module.frozen.backbone
    tokens = images * -(-high // vit.patch_size) * -(-wide // vit.patch_size)
    forward = pieces.forward(tokens, vit.embed_dim, 4 * vit.embed_dim, images * high * wide, False)
    pixels, window = height * width, high * wide
    estimate = pieces.sliding_windows(pixels, windows, window, chosen.device_batch, classes, forward)
    return measured(f"segmentation, image of {height} × {width}, {classes} classes", estimate, work)


def depth_step(batch: int = 16, width: int = WIDTH, rows: int = 416, columns: int = 544) -> Measurement:
    """Training step of "lin. 4" with CLS: features of four blocks, joined, and the scores of 256 bins."""
    from regvit_lightning.tasks import depth
    from regvit_lightning.tasks.depth_scores import sig_loss

    device = hardware.accelerator()
    chosen = settings.load_settings("tasks", "nyud_linear4", words=["precision=32-true"])[1]
    head = nn.Linear(8 * width, chosen.bins).to(device)
    centres = torch.linspace(chosen.min_depth, chosen.max_depth, chosen.bins, device=device)
    grid = -(-rows // 14), -(-columns // 14)

    def work() -> None:
        joined = torch.randn(batch, *grid, 8 * width, device=device)
        fine = depth.decode(head(joined).permute(0, 3, 1, 2), centres)[:, None]
        prediction = F.interpolate(fine, (rows, columns), mode="bilinear", align_corners=False)[:, 0]
        truth = 10 * torch.rand(batch, rows, columns, device=device)
        sig_loss(prediction, truth, chosen.loss_images).backward()

    estimate = pieces.depth_step(batch, 8 * width, grid[0] * grid[1], chosen.bins)
    return measured(f"depth, step of {batch} × {rows} × {columns}, D 8 × {width}", estimate, work)


# -------------------------------------------------------------------------------------------- discovery, artifacts


def lost(images: int = 32, side: int = 37, width: int = WIDTH) -> Measurement:
    """LOST on a batch of maps of 518 px: the maps, and strips of Gram matrices."""
    from regvit_lightning.tasks.discovery.lost import LOST, Choice

    method = LOST([Choice("k", -1, False, False, 0.0)], 100)

    @torch.inference_mode()
    def work() -> None:
        method([torch.randn(images, side, side, width, device=hardware.accelerator())])

    estimate = pieces.lost(images, side**2, width, 0)
    return measured(f"LOST, batch of {images}, {side} × {side}, D {width}", estimate, work)


def token_cut(images: int = 16, side: int = 37, width: int = WIDTH) -> Measurement:
    """TokenCut on maps of 518 px: the graph of one image in float64, and its eigenvectors."""
    from regvit_lightning.tasks.discovery import normalised_cut

    chosen = settings.load_settings("tasks", "tokencut_voc07", words=["precision=32-true"])[1]

    @torch.inference_mode()
    def work() -> None:
        maps = torch.randn(images, side, side, width, device=hardware.accelerator())
        maps[:, : side // 2] += 1  # the upper half belongs together, so that there is something to cut
        normalised_cut.cut(maps, chosen.threshold, chosen.weak)

    estimate = pieces.token_cut(images, side**2, width)
    return measured(f"TokenCut, {images} images, {side} × {side}, D {width}", estimate, work)


def propagation(rows: int = 60, columns: int = 107, width: int = WIDTH, classes: int = 11) -> Measurement:
    """A frame of 960 × 1,712 px after eight others: their features, those near a part of them, and its cosines."""
    from regvit_lightning.tasks.video import label_propagation

    rule = settings.load_settings("tasks", "davis2017_dinov3")[1].rule()
    frames = rule.context + 1

    @torch.inference_mode()
    def work() -> None:
        maps = torch.randn(frames + 1, rows, columns, width, device=hardware.accelerator())
        labels = torch.rand(frames, rows, columns, classes, device=maps.device)
        keys = [label_propagation.Frame(n, F.normalize(maps[n], dim=-1), labels[n]) for n in range(frames)]
        label_propagation.propagate(rule, maps[-1], keys)

    estimate = pieces.propagation(frames, rows, columns, width, classes, rule.radius)
    return measured(f"label propagation, {frames} frames of {rows} × {columns}, D {width}", estimate, work)


def saliency(images: int = 32, side: int = 1000, grid: int = 62, blocks: int = 24, tokens: int = 5) -> Measurement:
    """Scores of a batch of images of 1,000 px: all attention maps as masks, and the curve of one of them."""
    from regvit_lightning.tasks.discovery import attention_boxes, saliency_scores

    count = images * blocks * tokens

    @torch.inference_mode()
    def work() -> None:
        maps = torch.rand(count, grid, grid, device=hardware.accelerator())
        masks = attention_boxes.foreground(maps, 0.6).unflatten(0, (images, -1))
        for own in masks:
            truth = torch.rand(side, side, device=maps.device) > 0.5
            scored = saliency_scores.patch_truth(truth, (grid, grid))
            saliency_scores.iou(own, scored)
        saliency_scores.f_curve(saliency_scores.scaled(maps[0]), scored)

    estimate = pieces.saliency(count, grid**2, side**2)
    return measured(f"saliency, {count:,} maps of {grid} × {grid}, {side} px", estimate, work)


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


def keypoint_matches(pairs: int = 4, side: int = 58, width: int = WIDTH, points: int = 30) -> Measurement:
    """A batch of pairs of 812 px: their features, and one more copy of those of a pair."""
    import numpy as np

    from regvit_lightning.data.keypoint_pair import Pair
    from regvit_lightning.tasks import correspondence

    places, box = np.full((2, points, 2), 100.0), np.array([0.0, 0.0, 400.0, 400.0])
    sizes = torch.full((2, 2), 500.0, dtype=torch.float64)

    @torch.inference_mode()
    def work() -> None:
        for features in torch.randn(pairs, 2, side, side, width, device=hardware.accelerator()):
            correspondence.match(Pair(("", ""), places, box, ""), features, torch.rand(2, side, side), sizes)

    estimate = pieces.keypoints(pairs, side * side, width)
    return measured(f"keypoints, {pairs} pairs of {side} × {side}, D {width}", estimate, work)


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


def shifted_content(images: int = 32, side: int = 16, width: int = WIDTH) -> Measurement:
    """A batch of position bias: two crops in float64, their cosines, and the normal equations of a probe."""
    from regvit_lightning.analysis import content_shift
    from regvit_lightning.analysis.position_probe import RidgeProbe

    @torch.inference_mode()
    def work() -> None:
        first, second = torch.randn(2, images, side, side, width)
        content_shift.match(first, second, 2)
        probe = RidgeProbe()
        for add in (probe.train, probe.held_out, probe.test):
            add(first)

    estimate = pieces.shifted_content(images, side**2, width)
    return measured(f"position bias, {images} × {side}² patches, D {width}", estimate, work)


def register_boxes(images: int = 32, blocks: int = 24, side: int = 37, registers: int = 4) -> Measurement:
    """Boxes of the maps of registers and CLS in all blocks of a batch: a few arrays of the size of the maps."""
    from regvit_lightning.tasks.discovery import attention_boxes

    maps = images * blocks * (registers + 1)

    def work() -> None:
        attention_boxes.boxes(torch.rand(maps, side, side, device=hardware.accelerator()), 0.6)

    return measured(f"boxes of {maps:,} maps of {side} × {side}", pieces.map_boxes(maps, side**2), work)


def norms(images: int = 1000, depth: int = 40, side: int = 37) -> Measurement:
    """Outliers of the artifact report by all rules, after every block: norms, and a few masks of each rule."""
    grid, stages = (side, side), depth + 1

    def work() -> None:
        measured_ = Norms(
            patches=1 + torch.rand(images, stages, *grid),
            registers=torch.rand(images, stages, 4),
            cls=torch.rand(images, stages),
            embedded=1 + torch.rand(images, *grid),
            neighbours=torch.rand(images, *grid),
            largest=torch.rand(images, stages, 3),
            median=torch.rand(images, stages),
            kurtosis=torch.rand(images, stages),
        )
        outliers.find(measured_, Rules())

    estimate = pieces.outliers(images, stages, side**2)
    return measured(f"outliers, {images:,} × {depth} blocks × {side} × {side}", estimate, work)


def single_token(
    images: int = 10_000, width: int = WIDTH, classes: int = 1000, iterations: int = pieces.HISTORY
) -> Measurement:
    """Single-token probe of all classes for one C: features in float64, logits, and what L-BFGS remembers."""
    chosen = TokenSettings(draws=1, exponents=[0.0], iterations=iterations)
    labels = torch.arange(images) % classes

    def work() -> None:
        features = Features(torch.randn(1, images, width), labels)
        probes.classify(features, features, chosen)

    estimate = 4 * images * width + pieces.regression(images, width, classes, iterations)
    return measured(f"single-token probe, {images:,} × {width}, {classes} classes", estimate, work)


def several_classes(images: int = 5011, width: int = WIDTH, classes: int = 20) -> Measurement:
    """VOC's regressions of one token for two C, and the interval of the mAP: float64 features, resampled sets."""
    from regvit_lightning.analysis import class_measures
    from regvit_lightning.analysis.logistic import regressions

    features, targets = torch.randn(images, width), (torch.rand(images, classes) < 0.1).float()

    def work() -> None:
        model = regressions(features, targets, classes, [0.1, 1.0], iterations=5)[-1]
        class_measures.interval("map", model(features), targets)

    estimate = pieces.regression(images, width, classes, 5, 2)
    return measured(f"several classes, {images:,} × {width} features, {classes} classes", estimate, work)


def _patches(images: int, side: int, width: int) -> Iterator[Patches]:
    positions_ = torch.arange(side**2)
    for _ in range(images):
        pixels_ = 255 * torch.rand(side**2, 3 * 14 * 14)
        yield Patches(torch.randn(side**2, width), positions_, pixels_, torch.rand(side**2) < 0.02, (side, side))


def position(images: int = 400, side: int = 37, width: int = WIDTH, tokens: int = 100_000) -> Measurement:
    """Position probe at 518 px: the drawn tokens, joined and in float64 twice. One step of L-BFGS instead of 200."""
    probe = local_probes.PositionProbe(True, tokens, images)

    def work() -> None:
        for image in _patches(images, side, width):
            probe.train(image)
        kept, local_probes.POSITION_STEPS = local_probes.POSITION_STEPS, 1
        try:
            for image in _patches(2, side, width):
                probe.test(image)
        finally:
            local_probes.POSITION_STEPS = kept

    estimate = pieces.position_probe(min(tokens, images * side**2), width, side**2, 1)
    return measured(f"position probe, {images} images of {side} × {side}, D {width}", estimate, work)


def pixels(images: int = 20, side: int = 37, width: int = WIDTH) -> Measurement:
    """Pixel probe at 518 px: sums of products of features and pixels, whatever the number of images."""
    probe = local_probes.PixelProbe(True)

    def work() -> None:
        for number, image in enumerate(_patches(images, side, width)):
            (probe.held_out if number % 10 == 9 else probe.train)(image)
        for image in _patches(2, side, width):
            probe.test(image)

    estimate = pieces.pixel_probe(side**2, width, 3 * 14 * 14)
    return measured(f"pixel probe, {side} × {side}, D {width}", estimate, work)


def placement(images: int = 1000, side: int = 37) -> Measurement:
    """Positions of outliers of 1,000 images of 518 px against 999 permutations."""

    def work() -> None:
        positions.placement(torch.rand(images, side, side) < 0.02)

    estimate = pieces.placement(images, side**2)
    return measured(f"positions of outliers, {images:,} × {side} × {side}", estimate, work)
