"""Memory rows of dense tasks, discovery, videos and pairs at real shapes, see `real_shapes`."""

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.speed.footprints import measured
from benchmarks.speed.real_shapes import WIDTH
from benchmarks.speed.timing import Measurement
from regvit_lightning import settings
from regvit_lightning.runtime import hardware
from regvit_lightning.tasks.footprint import pieces


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


def register_boxes(images: int = 32, blocks: int = 24, side: int = 37, registers: int = 4) -> Measurement:
    """Boxes of the maps of registers and CLS in all blocks of a batch: a few arrays of the size of the maps."""
    from regvit_lightning.tasks.discovery import attention_boxes

    maps = images * blocks * (registers + 1)

    def work() -> None:
        attention_boxes.boxes(torch.rand(maps, side, side, device=hardware.accelerator()), 0.6)

    return measured(f"boxes of {maps:,} maps of {side} × {side}", pieces.map_boxes(maps, side**2), work)


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
