"""Semantic segmentation on frozen patches: DINOv2's ADE20k protocols around mmsegmentation's `EncoderDecoder`.

Source: Oquab et al. 2023 (arXiv 2304.07193), section 7.4 and dinov2_vitl14_ade20k_{linear,ms}_config. The frozen
backbone is the encoder; the decode head is any of mmsegmentation's, named in the YAML, by default the published one,
batch normalisation and a 1 × 1 convolution. Scores are taken at the masks' own size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import isnan
from typing import Any

from regvit_lightning.data import ade20k  # isort: skip  # first: it makes mmseg importable

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.structures import PixelData
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import get_palette
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F

from regvit_lightning import schedules
from regvit_lightning.data.layout import IGNORED, DataSettings, Segmentation
from regvit_lightning.data.module import Loading
from regvit_lightning.data.stream import Stream
from regvit_lightning.errors import one_line
from regvit_lightning.figures import grids
from regvit_lightning.frozen import dense
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.frozen.module import Frozen, FrozenModule
from regvit_lightning.frozen.settings import TaskSettings
from regvit_lightning.frozen.trainer import fit, tester
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.runtime import seeds
from regvit_lightning.settings import MISSING, SettingsError, check, nearest
from regvit_lightning.statistics import Scores, bootstrap, ious, miou
from regvit_lightning.work import ImageCounts, Pass, Work, landscape

METRICS = {"miou": Metric()}
READS = "segmentation"
TRAINS_HEAD = True
FOOTNOTE = ("classes", "zero_label", "scored_at", "view", "test_views")

MMLogger.get_instance("mmengine", log_level="WARNING")  # it would print every weight that a head initialises


@dataclass
class SegmentationSettings(TaskSettings):
    """Settings of segmentation.

    Attributes:
        steps: optimiser steps.
        batch_size: images per step over all devices.
        lr: of AdamW, at the end of the warm-up.
        weight_decay: of AdamW.
        warmup_steps: linear from `warmup_ratio`, on top of the linear decay to 0.
        warmup_ratio: first learning rate over `lr`.
        crop: side of the training crops and of the test windows in pixels.
        short_side: of the images before cropping, in pixels, times a factor drawn from `ratio` in training.
        ratio: range of that factor.
        stride: of the test windows in pixels.
        test_scales: factors of `short_side` whose probabilities are averaged.
        test_flip: average with the mirrored image, too.
        blocks: how many last blocks give their patches to the head, after the final norm.
        decode_head: a decode head of mmsegmentation: its `type` and settings; classes and inputs are filled in.
    """

    steps: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    weight_decay: float = MISSING
    warmup_steps: int = MISSING
    warmup_ratio: float = MISSING
    crop: int = MISSING
    short_side: int = MISSING
    ratio: list[float] = MISSING
    stride: int = MISSING
    test_scales: list[float] = MISSING
    test_flip: bool = MISSING
    blocks: int = MISSING
    decode_head: dict[str, Any] = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "batch_size", "crop", "short_side", "stride", "blocks"):
            check(getattr(self, name) > 0, f"{name}={getattr(self, name)}: must be at least 1")
        check(self.stride <= self.crop, f"stride={self.stride}: above crop={self.crop}, so pixels would be left out")
        low_to_high = len(self.ratio) == 2 and 0 < self.ratio[0] <= self.ratio[1]
        check(low_to_high, f"ratio={self.ratio}: expected [low,high] such as [0.5,2.0]")
        positive = len(self.test_scales) > 0 and min(self.test_scales) > 0
        check(positive, f"test_scales={self.test_scales}: expected a list such as [1.0]")
        check("type" in self.decode_head, "decode_head: expected {type: <decode head of mmsegmentation>, …}")


SETTINGS = SegmentationSettings


# ------------------------------------------------------------------------------------------------------ network


class PatchMaps(nn.Module):
    """The frozen backbone as an encoder of mmsegmentation: the patches of the last blocks as maps.

    Args:
        frozen: the backbone.
        blocks: how many last blocks.
        device_batch: images at once.
    """

    def __init__(self, frozen: Frozen, blocks: int, device_batch: int) -> None:
        super().__init__()
        self.frozen, self.blocks, self.device_batch = frozen, blocks, device_batch

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, D, h, w) for each block, float32, of normalised images (B, 3, H, W)."""
        found = dense.features(self.frozen, images, range(-self.blocks, 0), True, self.device_batch)
        return [tokens.patches.permute(0, 3, 1, 2) for tokens in found]


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation by the statistics of the whole batch, over all devices.

    Unlike torch's SyncBatchNorm, also on CPUs.
    """

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return super().forward(features)
        count = features.numel() // features.shape[1] * _devices()
        mean = _over_devices(features.sum((0, 2, 3))) / count
        var = _over_devices((features - mean.view(-1, 1, 1)).square().sum((0, 2, 3))) / count
        for running, found in ((self.running_mean, mean), (self.running_var, var * count / max(count - 1, 1))):
            assert running is not None and self.momentum is not None  # noqa: PT018  # as BatchNorm2d makes them
            running.lerp_(found.detach(), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return torch.addcmul((self.bias - mean * scale).view(-1, 1, 1), features, scale.view(-1, 1, 1))


def _devices() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def _over_devices(sums: Tensor) -> Tensor:
    return all_reduce(sums) if _devices() > 1 else sums


def synchronise(module: nn.Module) -> None:
    """Replace every batch normalisation of maps inside `module` by `BatchNorm`."""
    for name, child in module.named_children():
        if isinstance(child, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            norm = BatchNorm(child.num_features, child.eps, child.momentum)
            norm.load_state_dict(child.state_dict())
            setattr(module, name, norm)
        else:
            synchronise(child)


class Segmentor(EncoderDecoder):
    """mmsegmentation's segmentor with the windows of an image in batches, instead of one after another.

    Args:
        device_batch: windows at once.
        parts: of `EncoderDecoder`.
    """

    def __init__(self, device_batch: int, **parts: Any) -> None:
        super().__init__(**parts)
        self.device_batch = device_batch

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict[str, Any]]) -> Tensor:
        """Mean logits of all windows over a pixel, (B, classes, H, W), of normalised images (B, 3, H, W).

        Windows stand `stride` apart; the last of a row or column is moved inwards to end with the image.
        """
        height, width = inputs.shape[-2:]
        (high, wide), strides = self.test_cfg["crop_size"], self.test_cfg["stride"]
        high, wide = min(high, height), min(wide, width)
        corners = list(product(_starts(height, high, strides[0]), _starts(width, wide, strides[1])))
        total = torch.zeros_like(inputs[:, :1]).expand(-1, self.out_channels, -1, -1)
        total = total.contiguous(memory_format=torch.channels_last)  # as the logits of a 1 × 1 convolution lie
        count = inputs.new_zeros(height, width)
        at_once = max(self.device_batch // len(inputs), 1)
        for part in (corners[first : first + at_once] for first in range(0, len(corners), at_once)):
            windows = torch.cat([inputs[..., y : y + high, x : x + wide] for y, x in part])
            logits = self.encode_decode(windows, [{"img_shape": windows.shape[-2:]}])
            for (y, x), window in zip(part, logits.split(len(inputs)), strict=True):
                total[..., y : y + high, x : x + wide] += window
                count[y : y + high, x : x + wide] += 1
        return total.div_(count)


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side, in the order of mmsegmentation."""
    return [min(start, length - window) for start in range(0, max(length - window + stride, 1), stride)]


@MODELS.register_module(force=True)
class BNHead(BaseDecodeHead):
    """DINOv2's linear head (dinov2/eval/segmentation/models/decode_heads/linear_head.py).

    Batch normalisation and a 1 × 1 convolution; maps of several blocks lie side by side. The loss is the pixel
    cross-entropy, so `loss_decode` is not taken.
    """

    def __init__(self, **settings: Any) -> None:
        if "loss_decode" in settings:
            raise ValueError("BNHead has a loss of its own")
        several = isinstance(settings["in_channels"], Sequence)
        width = sum(settings["in_channels"]) if several else settings["in_channels"]
        defaults = {"channels": width, "dropout_ratio": 0.0, "input_transform": "resize_concat" if several else None}
        super().__init__(**{**defaults, **settings})
        self.norm = BatchNorm(width)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits (B, classes, h, w)."""
        logits: Tensor = self.cls_seg(self.norm(self._transform_inputs(inputs)))
        return logits

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Cross-entropy of the upsampled logits, averaged over all pixels, also those without a label.

        That of mmsegmentation, several times faster on CPUs: the classes of a pixel lie side by side in memory, and no
        accuracy is computed.
        """
        labels = torch.stack([sample.gt_sem_seg.data[0] for sample in batch_data_samples])
        logits = seg_logits.contiguous(memory_format=torch.channels_last)
        logits = F.interpolate(logits, labels.shape[1:], mode="bilinear").permute(0, 2, 3, 1).flatten(0, 2)
        loss = F.cross_entropy(logits, labels.flatten(), ignore_index=self.ignore_index, reduction="sum")
        return {"loss_ce": loss / labels.numel()}


def decode_head(options: SegmentationSettings, backbone: Backbone, classes: int) -> dict[str, Any]:
    """The head's settings with what follows from backbone and data filled in.

    Raises:
        SettingsError: mmsegmentation has no such head, or a setting that is not to be given.
    """
    several, name = options.blocks > 1, options.decode_head["type"]
    own = sorted({"in_channels", "in_index", "num_classes", "ignore_index"} & options.decode_head.keys())
    check(not own, f"decode_head: {', '.join(own)} follow from backbone and data; leave them out")
    heads = [known for known in MODELS.module_dict if "Head" in known]
    check(name in heads, f"decode_head: mmsegmentation has no '{name}'; {nearest(str(name), heads)}")
    return {
        "in_channels": [backbone.embed_dim] * options.blocks if several else backbone.embed_dim,
        "in_index": list(range(options.blocks)) if several else 0,
        "num_classes": classes,
        "ignore_index": IGNORED,
        **options.decode_head,
    }


class Segmenter(FrozenModule):
    """mmsegmentation's `EncoderDecoder` on a frozen backbone.

    Attributes:
        areas: for each test image, see `areas`; (images, 3, classes), filled by test.
        seen: training pixels of each class; the most frequent one is the constant predictor.
        to_show: places of the test images in the picture.
        shown: image (H, W, 3), truth and prediction (H, W) of each of them, uint8.
    """

    areas: Tensor
    seen: Tensor

    def __init__(self, backbone: Backbone, settings: SegmentationSettings, classes: int, seed: int = 0) -> None:
        super().__init__(backbone, settings.precision, seed)
        self.settings, self.classes = settings, classes
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.long))
        mean, std = ([255 * value for value in values] for values in (backbone.mean, backbone.std))
        crop = (settings.crop, settings.crop)
        head = decode_head(settings, backbone, classes)
        try:
            self.model = Segmentor(
                settings.device_batch,
                backbone={
                    "type": PatchMaps,
                    "frozen": self.frozen,
                    "blocks": settings.blocks,
                    "device_batch": settings.device_batch,
                },
                decode_head=head,
                data_preprocessor=SegDataPreProcessor(mean, std, size=crop, seg_pad_val=IGNORED, bgr_to_rgb=True),
                test_cfg=ConfigDict(mode="slide", crop_size=crop, stride=(settings.stride, settings.stride)),
            )
            synchronise(self.model.decode_head)
            _try_out(self.model.decode_head, backbone.embed_dim, settings.blocks)
        except Exception as error:  # mmsegmentation has no error of its own for settings that do not fit
            reason = str(error) and f"{type(error).__name__}: {one_line(error)}"
            hint = "a head of one map takes blocks=1, one of several takes blocks=4 and perhaps input_transform"
            raise SettingsError(f"decode_head={settings.decode_head}: {reason or 'it does not fit'}; {hint}") from None
        self.model.decode_head.init_weights()
        self._areas: list[Tensor] = []
        self.shown: dict[int, list[Any]] = {}
        self.to_show: Sequence[int] = ()

    def on_fit_start(self) -> None:
        self.model.to(self.device)  # mmengine keeps a device of its own, to which it moves the batches

    def on_test_start(self) -> None:
        self.model.to(self.device)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        data = self.model.data_preprocessor(batch, training=True)
        labels = torch.stack([sample.gt_sem_seg.data for sample in data["data_samples"]])
        self.seen += _over_devices(labels[labels != IGNORED].bincount(minlength=self.classes))
        loss, _ = self.model.parse_losses(self.model.loss(data["inputs"], data["data_samples"]))
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.AdamW:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=self.settings.lr, weight_decay=self.settings.weight_decay)

    def schedule(self, step: int) -> dict[str, float]:
        return {"lr": learning_rate(step, self.settings)}

    def predict(self, batch: dict[str, Any]) -> Tensor:
        """Class numbers (H, W) of one test image at the size of its mask.

        With several scales or the mirrored image, their probabilities are averaged.
        """
        total: Tensor | None = None
        for inputs, samples in zip(batch["inputs"], batch["data_samples"], strict=True):
            data = self.model.data_preprocessor({"inputs": inputs, "data_samples": samples})
            logits = self.model.predict(data["inputs"], data["data_samples"])[0].seg_logits.data
            if len(batch["inputs"]) == 1:
                return logits.argmax(dim=0)
            # One after the other: at ten views, those of a large image would fill the memory.
            total = logits.softmax(dim=0) if total is None else total.add_(logits.softmax(dim=0))
        assert total is not None, "a sample without a view"
        return total.argmax(dim=0)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        truth = batch["data_samples"][0][0].gt_sem_seg.data[0].to(self.device)
        prediction = self.predict(batch)
        self._areas.append(areas(prediction, truth, self.classes).cpu())
        if batch_idx in self.to_show:
            image = F.interpolate(batch["inputs"][0][0][None].float(), truth.shape, mode="bilinear")[0]
            parts = image.flip(0).permute(1, 2, 0), truth, prediction
            self.shown[batch_idx] = [part.byte().cpu().numpy() for part in parts]

    def on_test_epoch_end(self) -> None:
        self.areas = torch.stack(self._areas)


def _try_out(head: BaseDecodeHead, width: int, blocks: int) -> None:
    """One loss and one prediction on maps of zeros, before anything is read: whatever the head raises."""
    maps, sample = [torch.zeros(2, width, 8, 8)] * blocks, SegDataSample()
    sample.gt_sem_seg = PixelData(data=torch.zeros(1, 32, 32, dtype=torch.long))
    head.eval()
    with torch.no_grad():
        head.loss(maps, [sample, sample], ConfigDict())
        head.predict(maps, [{"img_shape": torch.Size((32, 32))}], ConfigDict())
    head.train()


def learning_rate(step: int, options: SegmentationSettings) -> float:
    """AdamW's rate before update `step`: mmcv's poly schedule of power 1 under a linear warm-up."""
    warmup = schedules.linear_warmup(step, options.warmup_steps, options.warmup_ratio)
    return options.lr * warmup * schedules.polynomial(step, options.steps, power=1.0)


# ------------------------------------------------------------------------------------------------------- scores


def areas(prediction: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Pixels of each class in the intersection, in the prediction and in the truth: (3, classes), int64.

    Args:
        prediction, truth: (H, W) class numbers; pixels with truth 255 count nowhere.
    """
    known = truth != IGNORED
    predicted, labelled = prediction[known], truth[known]
    parts = labelled[predicted == labelled], predicted, labelled
    return torch.stack([part.bincount(minlength=classes) for part in parts])


def scores(total: Tensor | Scores) -> dict[str, float]:
    """mIoU, mean accuracy and pixel accuracy in percent from areas (3, classes) summed or averaged over images.

    As in mmsegmentation, classes that occur nowhere are left out of the means.
    """
    both, _, labelled = areas = np.asarray(total, np.float64)
    true = labelled > 0
    return {
        "miou": miou(areas),
        "mean_accuracy": float(np.mean(100 * both[true] / labelled[true])),
        "pixel_accuracy": float(100 * both.sum() / labelled.sum()),
    }


def _score(name: str, total: Scores) -> float:
    return scores(total)[name]


def constant(total: Tensor, number: int) -> dict[str, float]:
    """Scores of predicting class `number` everywhere, on test images with these areas (3, classes)."""
    labelled = total[2]
    predicted, both = torch.zeros_like(labelled), torch.zeros_like(labelled)
    predicted[number], both[number] = labelled.sum(), labelled[number]
    return scores(torch.stack([both, predicted, labelled]))


def palette(layout: Segmentation) -> np.ndarray:
    """Colours (classes, 3), uint8, as the vocabulary has them."""
    if layout.vocabulary == "rendered":
        return grids.semantic_palette()[1 : layout.classes + 1]
    return np.array(get_palette(layout.vocabulary), np.uint8) if layout.vocabulary else grids.palette(layout.classes)


# ---------------------------------------------------------------------------------------------------------- run


def work(settings: SegmentationSettings, images: ImageCounts) -> Work:
    """The crops of all steps, then the windows of test images of the usual 3 : 4."""
    side, windows = settings.crop, 0
    for scale in settings.test_scales:
        height, width = landscape(round(scale * settings.short_side))
        rows, columns = (len(_starts(length, min(side, length), settings.stride)) for length in (height, width))
        windows += rows * columns * (2 if settings.test_flip else 1)
    count = settings.steps * settings.batch_size + images["segmentation"][1] * windows
    return Work([Pass(count, side, side)])


def run(
    backbone: Backbone,
    data: DataSettings,
    settings: SegmentationSettings,
    how: RunOptions = RunOptions(),  # noqa: B008
) -> Outcome:
    """Train the head on train, score it once on test.

    Raises:
        DataError: the data is missing, incomplete or unreadable, or a mask does not fit.
    """
    check(settings.blocks <= backbone.depth, f"blocks={settings.blocks}: {backbone.name} has {backbone.depth}")
    layout = data.segmentation
    train = ade20k.train_images(data, ade20k.train_pipeline(layout, settings.short_side, settings.ratio, settings.crop))
    test = ade20k.test_images(
        data, ade20k.test_pipeline(layout, settings.short_side, settings.test_scales, settings.test_flip)
    )
    stream = Stream(len(train), settings.batch_size, settings.steps, how.seed)
    loading = Loading(settings.workers, settings.batch_size, test_batch=1)
    images = ade20k.ADE20k(loading, stream, train, test)
    with seeds.drawn_from(how.seed, "head"):
        module = Segmenter(backbone, settings, layout.classes, how.seed)
    module.to_show = dense.examples(len(test))
    fit(module, images, settings.steps, how)
    tester(how).test(module, images, verbose=False)
    return _outcome(module, data, len(train), how.seed)


def _outcome(module: Segmenter, data: DataSettings, train_images: int, seed: int) -> Outcome:
    layout, names, total = data.segmentation, ade20k.class_names(data.segmentation), module.areas.sum(dim=0)
    frequent = int(module.seen.argmax())
    shown = [module.shown[place] for place in sorted(module.shown)]
    pictures, truths, predictions = zip(*shown, strict=True)
    return Outcome(
        metrics=scores(total),
        images=len(module.areas),
        intervals={
            name: bootstrap(module.areas, seed, partial(_score, name))
            for name in ("miou", "mean_accuracy", "pixel_accuracy")
        },
        scores={"miou": module.areas},
        protocol=_protocol(module.settings, layout, train_images),
        per_class={
            name: None if isnan(iou) else iou for name, iou in zip(names, ious(total.numpy()).tolist(), strict=True)
        },
        floors={"most frequent class": {**constant(total, frequent)}},
        picture=grids.segmentation_examples(pictures, truths, predictions, names, palette(layout)),
    )


def _protocol(options: SegmentationSettings, layout: Segmentation, train_images: int) -> dict[str, Any]:
    views = f"{len(options.test_scales)} scale{'s' * (len(options.test_scales) > 1)}"
    return {
        "classes": layout.classes,
        "ignored_label": layout.ignored,
        "zero_label": "unlabelled, not scored" if layout.zero_is_unlabelled else "a class",
        "scored_at": "the masks' own size",
        "feature": f"patches of the last {options.blocks} block(s) after the final norm",
        "padding": "zeros around, to a multiple of the patch size; the logits are resized with them",
        "head": options.decode_head,
        "loss": "the head's own; of BNHead cross-entropy, averaged over all pixels, those without a label among them",
        "train_view": (
            f"short side {options.short_side} × U{tuple(options.ratio)}, crop {options.crop} with no class above 75 %, "
            "flip, photometric distortion"
        ),
        "view": f"short side {options.short_side}, windows of {options.crop} with stride {options.stride}",
        "test_views": f"{views} {'with' if options.test_flip else 'without'} flip",
        "batch_size": options.batch_size,
        "steps": options.steps,
        "checkpoint": "last; nothing is chosen on test",
        "train_images": train_images,
    }
