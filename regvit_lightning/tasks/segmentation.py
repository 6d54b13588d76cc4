"""Semantic segmentation on frozen patches: DINOv2's ADE20k protocols around mmsegmentation's `EncoderDecoder`.

Source: Oquab et al. 2023 (arXiv 2304.07193), section 7.4 and dinov2_vitl14_ade20k_{linear,ms}_config. The frozen
backbone is the encoder; the decode head is any of mmsegmentation's, named in the YAML, by default the published one,
batch normalisation and a 1 × 1 convolution. Metrics are computed at the size of the masks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning import schedules
from regvit_lightning.data import ade20k, mmsegmentation
from regvit_lightning.data.image_sets import IGNORED, Segmentation
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import Loading, Streamed
from regvit_lightning.data.stream import Stream
from regvit_lightning.errors import UserError
from regvit_lightning.figures import grids, palettes
from regvit_lightning.frozen import dense, kept, large_logits
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.frozen.settings import TaskSettings
from regvit_lightning.frozen.trainer import Tester, fit
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.runtime import hardware, seeds
from regvit_lightning.settings import MISSING, check, from_resolved, number, resolved
from regvit_lightning.statistics import Scores, Statistic, bootstrap, ious, miou, nanmean, percent
from regvit_lightning.tasks.batch_norm import over_devices
from regvit_lightning.work import ImageCounts, Pass, Work, landscape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {"miou": Metric()}
READS = "segmentation"
TRAINS_HEAD = True
FOOTNOTE = ("classes", "zero_label", "scored_at", "view", "train_view", "test_views")


@dataclass
class SegmentationSettings(TaskSettings):
    """Settings of semantic segmentation.

    Attributes:
        steps: optimiser steps.
        batch_size: images per step over all devices.
        lr: learning rate of AdamW at the end of the warm-up.
        weight_decay: weight decay of AdamW.
        warmup_steps: steps of the linear warm-up from `warmup_ratio`, combined with the linear decay to 0.
        warmup_ratio: first learning rate relative to `lr`.
        crop: side of the training crops and of the test windows in pixels.
        short_side: of the images before cropping, in pixels; in training times a factor drawn from `ratio`.
        ratio: range of that factor.
        stride: stride of the test windows in pixels.
        test_scales: factors of `short_side` whose probabilities are averaged.
        test_flip: also average with the mirrored image.
        blocks: number of last blocks whose patches, after the final norm, are the input of the head.
        decode_head: a decode head of mmsegmentation: its `type` and settings; classes and input channels are filled in.
        augment: augment the training images, as published; otherwise the windows of the test view are used, whose
            features are computed once.
    """

    steps: int = number("[1, 1e9]")
    batch_size: int = number("[1, 1e5]")
    lr: float = number("(0, 1e3]")
    weight_decay: float = number("[0, 100]")
    warmup_steps: int = number("[0, 1e9]")
    warmup_ratio: float = number("[0, 1]")
    crop: int = number("[1, 1e4]")
    short_side: int = number("[1, 1e4]")
    ratio: list[float] = number("(0, 100]", pair=True)
    stride: int = number("[1, 1e4]")
    test_scales: list[float] = number("(0, 100]")
    test_flip: bool = MISSING
    blocks: int = number("[1, 1000]")
    decode_head: dict[str, Any] = MISSING
    augment: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.stride <= self.crop, f"stride={self.stride}: above crop={self.crop}, so pixels would be left out")
        check(len(self.test_scales) > 0, f"test_scales={self.test_scales}: expected a list such as [1.0]")
        check("type" in self.decode_head, "decode_head: expected {type: <decode head of mmsegmentation>, …}")


SETTINGS = SegmentationSettings


# ------------------------------------------------------------------------------------------------------- module


class Segmenter(FrozenModule):
    """mmsegmentation's `EncoderDecoder` on a frozen backbone.

    Args:
        backbone: source of the features.
        settings: settings of the task, or the output of `settings.resolved` for them.
        classes: number of classes.
        seed: seed of dropout.

    Attributes:
        areas: (images, 3, classes), output of `areas` for each test image, filled by test.
        seen: number of training pixels of each class; the most frequent class is the constant predictor.
    """

    shares_passes = True
    areas: Tensor
    seen: Tensor

    def __init__(
        self, backbone: Backbone, settings: SegmentationSettings | Mapping[str, Any], classes: int, seed: int = 0
    ) -> None:
        settings = from_resolved(SegmentationSettings, settings)
        super().__init__(backbone, settings.precision, seed)
        self.save_hyperparameters({"settings": resolved(settings), "classes": classes, "seed": seed}, logger=False)
        mmsegmentation.prepare()
        from regvit_lightning.tasks import segmentor

        self.settings, self.classes = settings, classes
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.long))
        self.model = segmentor.build(self.frozen, settings, classes)
        self._areas: list[Tensor] = []

    def on_fit_start(self) -> None:
        self.model.to(self.device)  # mmengine stores its own device, to which it moves the batches

    def on_test_start(self) -> None:
        self.model.to(self.device)

    def samples(self, batch: dict[str, Any]) -> list[kept.Sample]:
        """Feature maps and labels of the windows of one whole image, see `kept.Keeper`."""
        self.model.to(self.device)
        image, labels = batch["inputs"][0], batch["data_samples"][0].gt_sem_seg.data
        corners = product(*(_starts(self.settings, length) for length in image.shape[1:]))
        windows = [(..., *(slice(start, start + self.settings.crop) for start in corner)) for corner in corners]
        samples = [labelled(labels[window]) for window in windows]
        inputs = {"inputs": [image[window] for window in windows], "data_samples": samples}
        data = self.model.data_preprocessor(inputs, training=True)
        maps = self.model.extract_feat(data["inputs"])
        truths = [sample.gt_sem_seg.data for sample in data["data_samples"]]
        return [
            {"labels": truth, **{str(number): one[row] for number, one in enumerate(maps)}}
            for row, truth in enumerate(truths)
        ]

    def _losses_of_features(self, batch: kept.Sample) -> tuple[dict[str, Tensor], Tensor]:
        """Losses and labels of a batch of `samples`."""
        maps = [batch[str(number)] for number in range(self.settings.blocks)]
        samples = [labelled(labels) for labels in batch["labels"]]
        return self.model.decode_head.loss(maps, samples, self.model.train_cfg), batch["labels"]

    def _losses_of_images(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
        """Losses and labels of a batch of images in mmsegmentation's format."""
        data = self.model.data_preprocessor(batch, training=True)
        labels = torch.stack([sample.gt_sem_seg.data for sample in data["data_samples"]])
        return self.model.loss(data["inputs"], data["data_samples"]), labels

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        losses, labels = self._losses_of_features(batch) if "labels" in batch else self._losses_of_images(batch)
        self.seen += over_devices(labels[labels != IGNORED].bincount(minlength=self.classes))
        loss, _ = self.model.parse_losses(losses)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.AdamW:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=self.settings.lr, weight_decay=self.settings.weight_decay)

    def schedule(self, step: int) -> dict[str, float]:
        return {"lr": learning_rate(step, self.settings)}

    def predict(self, batch: dict[str, Any]) -> Tensor:
        """Predicted class indices (H, W) of one test image at the size of its mask.

        With several scales or the mirrored image, their probabilities are averaged.
        """
        total: Tensor | None = None
        for inputs, samples in zip(batch["inputs"], batch["data_samples"], strict=True):
            data = self.model.data_preprocessor({"inputs": inputs, "data_samples": samples})
            if len(batch["inputs"]) == 1 and self._in_parts(data["inputs"]):
                return self.model.labels(data["inputs"], data["data_samples"][0].ori_shape)
            logits = self.model.predict(data["inputs"], data["data_samples"])[0].seg_logits.data
            if len(batch["inputs"]) == 1:
                return logits.argmax(dim=0)
            # One at a time: with ten views, a large image would fill the memory.
            total = logits.softmax(dim=0) if total is None else total.add_(logits.softmax(dim=0))
        assert total is not None, "a sample without a view"
        return total.argmax(dim=0)

    def _in_parts(self, image: Tensor) -> bool:
        """Whether the logits of an image (1, 3, H, W) are too large to be computed whole, and need not be."""
        return large_logits.is_large(1, self.classes, *image.shape[2:]) and self.model.is_bilinear()

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        truth = batch["data_samples"][0][0].gt_sem_seg.data[0].to(self.device)
        prediction = self.predict(batch)
        return areas(prediction, truth, self.classes).cpu()

    def tested(self, measured: Tensor) -> None:
        self._areas.append(measured)

    @torch.inference_mode()
    def example(self, batch: dict[str, Any]) -> list[npt.NDArray[np.uint8]]:
        """Image (H, W, 3), truth and prediction (H, W) of one test image, at the size of its mask."""
        truth = batch["data_samples"][0][0].gt_sem_seg.data[0]
        image = F.interpolate(batch["inputs"][0][0][None].float(), truth.shape, mode="bilinear")[0]
        parts = image.flip(0).permute(1, 2, 0), truth, self.predict(batch)
        return [part.byte().cpu().numpy() for part in parts]

    def on_test_epoch_end(self) -> None:
        self.areas = torch.stack(self._areas)


def labelled(labels: Tensor) -> Any:
    """mmsegmentation's sample of labels (1, H, W)."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    return SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo={"img_shape": tuple(labels.shape[1:])})


def learning_rate(step: int, options: SegmentationSettings) -> float:
    """Learning rate of AdamW before update `step`: mmcv's poly schedule of power 1 with a linear warm-up."""
    warmup = schedules.linear_warmup(step, options.warmup_steps, options.warmup_ratio)
    return options.lr * warmup * schedules.polynomial(step, options.steps, power=1.0)


# ------------------------------------------------------------------------------------------------------- scores


def areas(prediction: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Pixels of each class in the intersection, in the prediction and in the truth: (3, classes), int64.

    Args:
        prediction, truth: (H, W) class indices; pixels with truth 255 are ignored.
    """
    known = truth != IGNORED
    predicted, labelled = prediction[known], truth[known]
    parts = labelled[predicted == labelled], predicted, labelled
    return torch.stack([part.bincount(minlength=classes) for part in parts])


def _mean_accuracy(areas: Scores) -> float:
    return nanmean(percent(areas[0], areas[2]))


def _pixel_accuracy(areas: Scores) -> float:
    both, _, labelled = areas.sum(axis=1, keepdims=True)
    return nanmean(percent(both, labelled))


SCORES: dict[str, Statistic] = {"miou": miou, "mean_accuracy": _mean_accuracy, "pixel_accuracy": _pixel_accuracy}


def scores(total: Tensor | Scores) -> dict[str, float]:
    """mIoU, mean accuracy and pixel accuracy in percent from areas (3, classes) summed or averaged over images.

    As in mmsegmentation, classes that occur nowhere are excluded from the means.
    """
    areas = np.asarray(total, np.float64)
    return {name: score(areas) for name, score in SCORES.items()}


def constant(total: Tensor, number: int) -> dict[str, float]:
    """Scores of predicting class `number` everywhere, for test images with total areas (3, classes)."""
    labelled = total[2]
    predicted, both = torch.zeros_like(labelled), torch.zeros_like(labelled)
    predicted[number], both[number] = labelled.sum(), labelled[number]
    return scores(torch.stack([both, predicted, labelled]))


def palette(layout: Segmentation) -> np.ndarray:
    """Colours (classes, 3), uint8, of the vocabulary."""
    if layout.vocabulary == "rendered":
        return palettes.semantic_palette()[1 : layout.classes + 1]
    if not layout.vocabulary:
        return palettes.palette(layout.classes)
    mmsegmentation.prepare()
    from mmseg.utils import get_palette

    return np.array(get_palette(layout.vocabulary), np.uint8)


# ---------------------------------------------------------------------------------------------------------- run


def work(settings: SegmentationSettings, images: ImageCounts) -> Work:
    """Work: the crops of all steps, or the windows of each train image once without augmentation; then the windows of
    test images; images with the usual aspect ratio 3 : 4."""
    train, test = images["segmentation"]
    windows = sum(_windows(settings, scale) for scale in settings.test_scales) * (2 if settings.test_flip else 1)
    trained = settings.steps * settings.batch_size if settings.augment else train * _windows(settings, 1.0)
    return Work([Pass(trained + test * windows, settings.crop, settings.crop)])


def _windows(settings: SegmentationSettings, scale: float) -> int:
    """Number of windows of an image with the usual aspect ratio at one scale."""
    sides = landscape(round(scale * settings.short_side))
    rows, columns = (len(_starts(settings, side)) for side in sides)
    return rows * columns


def _starts(settings: SegmentationSettings, length: int) -> list[int]:
    """Start offsets of the windows along a side of `length` pixels."""
    return dense.window_starts(length, min(settings.crop, length), settings.stride)


def run(
    backbone: Backbone,
    data: DataSettings,
    settings: SegmentationSettings,
    how: RunOptions = RunOptions(),  # noqa: B008
) -> Outcome:
    """Train the head on train and evaluate it once on test.

    Raises:
        DataError: the data is missing, incomplete or unreadable, or a mask does not fit.
    """
    lacks = f"blocks={settings.blocks}: {backbone.name} has {backbone.depth}; give fewer, such as blocks=1"
    check(settings.blocks <= backbone.depth, lacks)
    layout = data.segmentation
    pipeline = ade20k.train_pipeline(layout, settings.short_side, settings.ratio, settings.crop)
    plain = ade20k.plain_pipeline(layout, settings.short_side)
    train = ade20k.train_images(data, pipeline if settings.augment else plain)
    test = ade20k.test_images(
        data, ade20k.test_pipeline(layout, settings.short_side, settings.test_scales, settings.test_flip)
    )
    stream = Stream(len(train), settings.batch_size, settings.steps, how.seed)
    loading = Loading(settings.workers, settings.batch_size, test_batch=1)
    images = ade20k.ADE20k(loading, stream, train, test)
    with seeds.drawn_from(how.seed, "head"):
        module = Segmenter(backbone, settings, layout.classes, how.seed)
    fit(module, images if settings.augment else _kept(module, train, how), settings.steps, how)
    Tester(how).test(module, images, verbose=False)
    return _outcome(module, data, len(train), test, how.seed)


def _kept(module: Segmenter, train: ade20k.MaskedImages, how: RunOptions) -> Streamed:
    """The training run over the windows of the whole training images, whose features are computed once."""
    settings = module.settings
    samples = kept.keep(module, ade20k.WholeImages(Loading(settings.workers, 1), train), how)
    return kept.drawn(samples, Stream(len(samples), settings.batch_size, settings.steps, how.seed))


def _outcome(module: Segmenter, data: DataSettings, train_images: int, test: ade20k.MaskedImages, seed: int) -> Outcome:
    layout, names, total = data.segmentation, ade20k.class_names(data.segmentation), module.areas.sum(dim=0)
    if not total[2].any():
        raise UserError(f"miou is undefined: no pixel of the {len(module.areas):,} test masks has a label")
    frequent, metrics = int(module.seen.argmax()), scores(total)
    return Outcome(
        metrics=metrics,
        images=len(module.areas),
        intervals={name: bootstrap(module.areas, seed, SCORES[name]) for name in metrics},
        scores={"miou": module.areas},
        protocol=_protocol(module.settings, layout, train_images),
        per_class={
            name: None if isnan(iou) else iou for name, iou in zip(names, ious(total.numpy()).tolist(), strict=True)
        },
        floors={"most frequent class": constant(total, frequent)},
        picture=_picture(module, test, names, palette(layout)),
    )


def _picture(module: Segmenter, test: ade20k.MaskedImages, names: Sequence[str], colours: np.ndarray) -> "Figure":
    """Picture of the test images with the worst, median and best mIoU over the classes that they have or get."""
    from mmengine.dataset import pseudo_collate

    of_images = [scores(areas)["miou"] for areas in module.areas]
    chosen = dense.by_score(of_images, better=1)
    module.to(hardware.accelerator()).eval()
    module.model.to(module.device)
    shown = [module.example(pseudo_collate([test[index]])) for index in chosen.values()]
    texts = [f"{name} of {len(of_images):,}: mIoU {of_images[index]:.1f} %" for name, index in chosen.items()]
    pictures, truths, predictions = zip(*shown, strict=True)
    return grids.segmentation_examples(pictures, truths, predictions, names, colours, texts)


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
        "train_view": _train_view(options),
        "view": f"short side {options.short_side}, windows of {options.crop} with stride {options.stride}",
        "test_views": f"{views} {'with' if options.test_flip else 'without'} flip",
        "batch_size": options.batch_size,
        "steps": options.steps,
        "checkpoint": "last; nothing is chosen on test",
        "train_images": train_images,
    }


def _train_view(options: SegmentationSettings) -> str:
    if not options.augment:
        return f"as the test view, without augmentation; {options.steps} steps on features that are computed once"
    return (
        f"short side {options.short_side} × U{tuple(options.ratio)}, crop {options.crop} with no class above 75 %, "
        "flip, photometric distortion"
    )
