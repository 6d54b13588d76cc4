"""Depth from frozen features by a linear head: DINOv2's NYU protocols "lin. 1" and "lin. 4".

Source: Oquab et al. 2023 (arXiv 2304.07193), section 7.4 and table 11; dinov2/eval/depth. At each patch a 1 × 1
convolution scores bins of depth, whose weighted mean is the depth (AdaBins, Bhat et al. 2021, with uniform bins). Two
differences, both in the record: the last head is tested, while the release selects the head with the best abs_rel on
test; and the loss is computed on pairs of images, whatever the number of devices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regvit_lightning import schedules
from regvit_lightning.data import nyu
from regvit_lightning.data.depth_pairs import Augmentation
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import Loading
from regvit_lightning.data.stream import Stream
from regvit_lightning.data.transforms import normalise
from regvit_lightning.figures import grids
from regvit_lightning.frozen import dense, kept
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.frozen.settings import TaskSettings
from regvit_lightning.frozen.trainer import Tester, fit
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.runtime import hardware, seeds
from regvit_lightning.settings import MISSING, check, from_resolved, number, resolved
from regvit_lightning.statistics import bootstrap
from regvit_lightning.tasks.depth_scores import SCORES, gradient_loss, scores, sig_loss
from regvit_lightning.work import ImageCounts, Pass, Work, landscape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {"rmse": Metric(better=-1, unit="m", decimals=3)}
READS = "depth"
TRAINS_HEAD = True
FOOTNOTE = ("view", "train_view", "flip", "eval_crop", "range_in_metres", "averaging")

# Blocks, numbered from 1, whose features "lin. 4" uses, by the depth of the model (dinov2/hub/depthers.py).
FOUR_BLOCKS = {12: (3, 6, 9, 12), 24: (5, 12, 18, 24), 40: (10, 20, 30, 40)}

UPSAMPLING = 4
OFFSET = 0.1  # added to the rectified scores of the bins, so that their sum is not 0
DECODED = 2  # images whose scores are upsampled at once: few, to save memory
WARMUP_RATIO, FINAL_RATIO = 1e-3, 1e-8  # learning rate relative to lr, at the first step and at the end
MOMENTUM, LOWEST_MOMENTUM = 0.95, 0.85  # beta 1 of AdamW, over one cycle
NATIVE_SIDE = 480  # short side of NYU's images


@dataclass
class DepthSettings(TaskSettings):
    """Settings of the depth head.

    Attributes:
        steps: optimiser steps.
        batch_size: images per step over all devices.
        loss_images: images whose valid pixels form one value of the loss; a step averages over such groups.
        lr: base learning rate of AdamW, scaled by the warm-up and the cosine.
        weight_decay: weight decay of AdamW.
        warmup_steps: steps of the linear warm-up of the learning rate.
        clip: maximum gradient norm.
        sig_warmup: initial steps in which SigLoss is its second term alone.
        gradient_weight: weight of the gradient loss; 0 disables it.
        blocks: number of blocks that provide features: 1 for the last, or 4 over the depth.
        cls: concatenate the CLS of the same block to each patch.
        final_norm: apply the final norm to the features of every block.
        bins: number of uniform depth bins.
        min_depth, max_depth: metres; first and last bin, and open interval of the scored depths.
        crop: height and width of the training crops.
        short_side: short side in pixels to which whole images are resized; 0 keeps their size.
        border_crop: crop the border of NYU's images in training.
        rotation: maximum rotation angle in training, degrees.
        flip_test: average with the prediction for the mirrored image.
        eigen_crop: evaluate inside the Eigen crop only.
        augment: augment the training images, as published; otherwise the middle crop of each is used, whose features
            are computed once.
    """

    steps: int = number("[1, 1e9]")
    batch_size: int = number("[1, 1e5]")
    loss_images: int = number("[1, 1e5]")
    lr: float = number("(0, 1e3]")
    weight_decay: float = number("[0, 100]")
    warmup_steps: int = number("[0, 1e9]")
    clip: float = number("(0, 1e9]")
    sig_warmup: int = number("[0, 1e9]")
    gradient_weight: float = number("[0, 1e6]")
    blocks: int = number("[1, 4]")
    cls: bool = MISSING
    final_norm: bool = MISSING
    bins: int = number("[2, 1e5]")
    min_depth: float = number("(0, 1e6]")
    max_depth: float = number("(0, 1e6]")
    crop: list[int] = number("[1, 1e4]")
    short_side: int = number("[0, 1e4]")
    border_crop: bool = MISSING
    rotation: float = number("[0, 180]")
    flip_test: bool = MISSING
    eigen_crop: bool = MISSING
    augment: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.blocks in (1, 4), f"blocks={self.blocks}: expected 1 or 4")
        ends = f"min_depth={self.min_depth}, max_depth={self.max_depth}"
        check(self.min_depth < self.max_depth, f"{ends}: expected min_depth < max_depth")
        check(len(self.crop) == 2, f"crop={self.crop}: expected [rows,columns] such as [416,544]")

    @property
    def depth_range(self) -> tuple[float, float]:
        """Minimum and maximum depth, metres."""
        return self.min_depth, self.max_depth


SETTINGS = DepthSettings


# ---------------------------------------------------------------------------------------------------------- head


def feature_blocks(depth: int, blocks: int) -> list[int]:
    """Indices from 0 of the blocks that provide features in a model of `depth` blocks.

    Four blocks are the published ones, or evenly spread for a depth without published ones.

    Raises:
        SettingsError: the model has fewer.
    """
    check(depth >= blocks, f"blocks={blocks}: the model has {depth}; give fewer, such as blocks=1")
    if blocks == 1:
        return [depth - 1]
    return [block - 1 for block in FOUR_BLOCKS.get(depth, [round(depth * part / 4) for part in (1, 2, 3, 4)])]


def inputs(tokens: Sequence[Tokens], cls: bool) -> Tensor:
    """Head input of every patch: its features block by block, each followed by the CLS of that block.

    Returns:
        (B, h, w, C), C = blocks * D, or blocks * 2 D with `cls`.
    """
    parts = []
    for block in tokens:
        parts.append(block.patches)
        if cls:
            assert block.cls is not None, "a backbone without CLS"
            parts.append(block.cls[:, None, None].expand_as(block.patches))
    return torch.cat(parts, dim=-1)


def expectation(logits: Tensor, centres: Tensor) -> Tensor:
    """Depth as the mean of the bin centres, weighted by ReLU(logits) + 0.1.

    Args:
        logits: (B, K, h, w).
        centres: (K,), metres.

    Returns:
        (B, h, w), metres.
    """
    sums = torch.einsum("bkhw,nk->nbhw", logits.relu(), torch.stack([centres, torch.ones_like(centres)]))
    return (sums[0] + OFFSET * centres.sum()) / (sums[1] + OFFSET * len(centres))


def decode(logits: Tensor, centres: Tensor) -> Tensor:
    """Depth (B, 4 h, 4 w) in metres from the bin scores of each patch, (B, K, h, w)."""
    parts = [
        expectation(F.interpolate(part, scale_factor=UPSAMPLING, mode="bilinear", align_corners=False), centres)
        for part in logits.split(DECODED)
    ]
    return torch.cat(parts)


# -------------------------------------------------------------------------------------------------------- module


class DepthHead(FrozenModule):
    """Linear depth head on a frozen backbone.

    Args:
        backbone: source of the features.
        settings: settings of the task, or the output of `settings.resolved` for them.
        seed: seed of the random numbers in training.

    Attributes:
        feature_blocks: indices from 0 of the blocks that provide features.
        cls: whether the CLS of a block is concatenated to its patches.
        head: the 1 × 1 convolution, as a linear map of each patch.
        seen: sum of depth in metres and number of valid pixels over all training batches so far, on all devices.
        scores, floor: (2, 9) by index of the test image: `SCORES` of the prediction and of the constant mean depth.
    """

    shares_passes = True
    centres: Tensor
    seen: Tensor

    def __init__(self, backbone: Backbone, settings: DepthSettings | Mapping[str, Any], seed: int = 0) -> None:
        settings = from_resolved(DepthSettings, settings)
        super().__init__(backbone, settings.precision, seed)
        self.save_hyperparameters({"settings": resolved(settings), "seed": seed}, logger=False)
        self.settings = settings
        self.feature_blocks = feature_blocks(backbone.depth, settings.blocks)
        self.cls = settings.cls and backbone.has_cls
        width = len(self.feature_blocks) * backbone.embed_dim * (1 + self.cls)
        self.head = nn.Linear(width, settings.bins)
        self.register_buffer("centres", torch.linspace(*settings.depth_range, settings.bins), persistent=False)
        self.register_buffer("seen", torch.zeros(2, dtype=torch.float64))
        self.scores: dict[int, Tensor] = {}

    @property
    def mean_depth(self) -> float:
        """Mean depth in metres of the training pixels seen so far."""
        total, count = self.seen.tolist()
        return total / max(count, 1)

    def features(self, images: Tensor) -> Tensor:
        """Head input of every patch (B, h, w, C) of uint8 images (B, 3, H, W)."""
        settings, normalised = self.settings, normalise(images, self.mean, self.std)
        tokens = dense.features(
            self.frozen, normalised, self.feature_blocks, settings.final_norm, settings.device_batch
        )
        return inputs(tokens, self.cls)

    def depth(self, images: Tensor, size: Sequence[int]) -> Tensor:
        """Depth in metres (B, *size) of uint8 images (B, 3, H, W)."""
        return self.depth_of(self.features(images), size)

    def depth_of(self, features: Tensor, size: Sequence[int]) -> Tensor:
        """Depth in metres (B, *size) from the head input of every patch (B, h, w, C)."""
        # Applied before the upsampling, with which a 1 × 1 convolution commutes: a sixteenth of the multiplications.
        logits = self.head(features).permute(0, 3, 1, 2)
        fine = decode(logits, self.centres)[:, None]
        return F.interpolate(fine, tuple(size), mode="bilinear", align_corners=False)[:, 0]

    def predict(self, images: Tensor, size: Sequence[int]) -> Tensor:
        """Test-time depth: averaged over the image and its mirror image, clamped to the range of the bins."""
        predicted = self.depth(images, size)
        if self.settings.flip_test:
            predicted = (predicted + self.depth(images.flip(-1), size).flip(-1)) / 2
        return predicted.clamp(*self.settings.depth_range)

    def samples(self, batch: list[dict[str, Tensor]]) -> list[kept.Sample]:
        """Head input of every patch and depth of each image, see `kept.Keeper`."""
        return [
            {"features": features, "depth": depth}
            for part in batch
            for features, depth in zip(self.features(part["image"]), part["depth"], strict=True)
        ]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        settings, truth = self.settings, batch["depth"]
        features = batch["features"] if "features" in batch else self.features(batch["image"])
        prediction = self.depth_of(features, truth.shape[1:])
        loss = sig_loss(prediction, truth, settings.loss_images, self.global_step < settings.sig_warmup)
        if settings.gradient_weight:
            loss = loss + settings.gradient_weight * gradient_loss(prediction, truth, settings.loss_images)
        valid = truth[truth > 0].double()
        # Summed over devices at every step, so that the process that writes the checkpoint has the total.
        sums = torch.stack([valid.sum(), valid.new_tensor(valid.numel())])
        self.seen += self.trainer.strategy.reduce(sums, reduce_op="sum")
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.AdamW:
        return torch.optim.AdamW(self.head.parameters(), self.settings.lr, weight_decay=self.settings.weight_decay)

    def schedule(self, step: int) -> dict[str, float]:
        beta1 = schedules.one_cycle(step, self.settings.steps, MOMENTUM, LOWEST_MOMENTUM)
        return {"lr": learning_rate(step, self.settings), "beta1": beta1}

    def set_options(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        super().set_options(optimizer, step)
        for group in optimizer.param_groups:
            group["betas"] = (self.schedule(step)["beta1"], group["betas"][1])

    @torch.inference_mode()
    def example(self, image: Tensor, truth: Tensor) -> tuple[npt.NDArray[Any], ...]:
        """Image (H, W, 3) at the size of the truth, truth and prediction (H, W), of an image uint8 (3, h, w)."""
        prediction = self.predict(image[None].to(self.device), truth.shape)[0]
        large = F.interpolate(image[None].float(), tuple(truth.shape), mode="bilinear", align_corners=False)[0]
        return tuple(part.cpu().numpy() for part in (large.round().byte().permute(1, 2, 0), truth, prediction))

    def test_step(self, batch: list[dict[str, Tensor]], batch_idx: int) -> Any:
        measured = dict[int, Tensor]()
        for part in batch:
            image, truth, mask = part["image"], part["depth"], part["mask"]
            prediction = self.predict(image, truth.shape[1:])
            constant = torch.full_like(truth, self.mean_depth).clamp(*self.settings.depth_range)
            rows = torch.stack([scores(prediction, truth, mask), scores(constant, truth, mask)], dim=1).cpu()
            measured.update(zip(part["index"].tolist(), rows, strict=True))
        return measured

    def tested(self, measured: dict[int, Tensor]) -> None:
        self.scores |= measured


def learning_rate(step: int, settings: DepthSettings) -> float:
    """Learning rate of AdamW before update `step`: mmcv's cosine over the whole run with a linear warm-up."""
    warmup = schedules.linear_warmup(step, settings.warmup_steps, WARMUP_RATIO)
    return warmup * schedules.cosine(step, settings.steps, settings.lr, settings.lr * FINAL_RATIO)


# ----------------------------------------------------------------------------------------------------------- run


def work(settings: DepthSettings, images: ImageCounts) -> Work:
    """Work: the crops of all steps, or of each train image once without augmentation; then whole test images, also
    mirrored with `flip_test`."""
    test = images["depth"][1] * (2 if settings.flip_test else 1)
    (rows, columns), (height, width) = settings.crop, landscape(settings.short_side or NATIVE_SIDE)
    crops = settings.steps * settings.batch_size if settings.augment else images["depth"][0]
    trained = Pass(crops, rows, columns)
    return Work([trained, Pass(test, height, width)])


def run(backbone: Backbone, data: DataSettings, settings: DepthSettings, how: RunOptions = RunOptions()) -> Outcome:  # noqa: B008
    """Train the head on train and evaluate it once on test.

    Raises:
        DataError: the data is missing, incomplete or unreadable, or does not fit the crops.
        SettingsError: the batch does not divide into the loss's groups, or the backbone has too few blocks.
    """
    wanted = how.devices * settings.loss_images
    groups = f"batch_size={settings.batch_size}: must be a multiple of {wanted}"
    check(settings.batch_size % wanted == 0, f"{groups}, loss_images={settings.loss_images} × {how.devices} devices")
    with seeds.drawn_from(how.seed, "head"):
        module = DepthHead(backbone, settings, how.seed)
    train, test = nyu.train_pairs(data), nyu.test_pairs(data)
    rows, columns = settings.crop
    view = Augmentation((rows, columns), settings.short_side, settings.border_crop, settings.rotation, settings.augment)
    stream = Stream(len(train), settings.batch_size, settings.steps, how.seed)
    ordered = nyu.OrderedPairs(test, settings.short_side, settings.depth_range, settings.eigen_crop)
    images = nyu.NYU(
        Loading(settings.workers, settings.batch_size, test_batch=settings.device_batch),
        stream,
        train=(train, view),
        test=ordered,
    )
    run_of = images if settings.augment else kept.drawn(kept.keep(module, images, how), stream)
    fit(module, run_of, settings.steps, how, gradient_clip_val=settings.clip)
    Tester(how).test(module, images, verbose=False)
    return _outcome(module, len(train), ordered, how.seed)


def _outcome(module: DepthHead, train_images: int, test: nyu.OrderedPairs, seed: int) -> Outcome:
    predicted = torch.stack([module.scores[index] for index in sorted(module.scores)])
    metrics, floor = (dict(zip(SCORES, row.tolist(), strict=True)) for row in predicted.mean(dim=0))
    column = {name: predicted[:, 0, number] for number, name in enumerate(SCORES)}
    return Outcome(
        metrics=metrics,
        images=len(predicted),
        intervals={name: bootstrap(scores, seed) for name, scores in column.items()},
        scores={name: column[name] for name in METRICS},
        protocol=_protocol(module, train_images),
        floors={"mean depth": floor},
        picture=_picture(module, test, column["rmse"]),
    )


def _picture(module: DepthHead, test: nyu.OrderedPairs, rmse: Tensor) -> "Figure":
    """Picture of the test images with the worst, median and best rmse."""
    chosen = dense.by_score(rmse.tolist(), better=-1)
    module.to(hardware.accelerator()).eval()
    samples = [test[index] for index in chosen.values()]
    shown = [module.example(sample["image"], sample["depth"]) for sample in samples]
    texts = [f"{name} of {len(rmse):,}: rmse {rmse[index]:.2f} m" for name, index in chosen.items()]
    images, truths, predictions = zip(*shown, strict=True)
    return grids.depth_examples(images, truths, predictions, module.settings.max_depth, texts)


def _protocol(module: DepthHead, train_images: int) -> dict[str, Any]:
    settings = module.settings
    size = f"short side {settings.short_side}" if settings.short_side else "whole images at their own size"
    return {
        "layers": [block + 1 for block in module.feature_blocks],
        "final_norm": settings.final_norm,
        "cls": _cls_in_words(module),
        "padding": "zeros around, to a multiple of the patch size; the prediction is resized with them",
        "bins": f"{settings.bins}, uniform",
        "range_in_metres": list(settings.depth_range),
        "decode": f"logits × {UPSAMPLING} bilinear, ReLU, + 0.1, normalised to sum 1, expectation",
        "train_view": _train_view(settings),
        "view": size,
        "flip": "average of the depths of the image and its mirror image" if settings.flip_test else "none",
        "eval_crop": "Eigen, rows 45:471, columns 41:601" if settings.eigen_crop else "none",
        "scored_at": "the ground truth's own size",
        "scored_pixels": f"{settings.min_depth} < depth < {settings.max_depth}",
        "averaging": "per image",
        "shares": "a1, a2, a3 in 0..1",
        "loss": (
            f"SigLoss over the valid pixels of {settings.loss_images} images, mean over such groups; "
            f"first {settings.sig_warmup} steps without the variance"
        ),
        "gradient_loss": _gradient_loss_in_words(settings),
        "batch_size": settings.batch_size,
        "steps": settings.steps,
        "checkpoint": "last; nothing chosen on test",
        "train_images": train_images,
    }


def _cls_in_words(module: DepthHead) -> str:
    if module.settings.cls and not module.cls:
        return "left out: the backbone has none"
    return "of the same block, beside each patch" if module.cls else "left out"


def _train_view(settings: DepthSettings) -> str:
    border = "rows 45:472, columns 43:608" if settings.border_crop else "no border crop"
    size = f"; frame resized to short side {settings.short_side}" if settings.short_side else ""
    crop = "{} × {}".format(*settings.crop)
    if not settings.augment:
        return f"{border}{size}; middle crop {crop}, no augmentation; {settings.steps} steps on features computed once"
    return f"{border}{size}; rotation ±{settings.rotation}°, flip, crop {crop}, colour"


def _gradient_loss_in_words(settings: DepthSettings) -> str:
    if not settings.gradient_weight:
        return "none; the released one is identically 0 for two images"
    return f"{settings.gradient_weight} ×, along rows and columns (the released one: batch and channel)"
