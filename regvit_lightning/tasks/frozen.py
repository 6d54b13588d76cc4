"""What every frozen evaluation shares: its settings, the module that holds the backbone, and what it returns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

from regvit_lightning import hardware, seeds
from regvit_lightning.backbones import Backbone, Tokens
from regvit_lightning.data.images import Transform
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.transforms import centre_crop, normalise
from regvit_lightning.settings import MISSING, check


@dataclass
class TaskSettings:
    """Settings of every frozen evaluation.

    Attributes:
        module: file of `regvit_lightning/tasks/` with the task's `Settings` and `run`.
        version: of the protocol; raised whenever a change to the code or the YAML changes numbers.
        precision: of the frozen features: bf16-mixed or 32-true; auto becomes the first where the hardware has it.
        workers: decoding processes per device.
        device_batch: images at once on one device.
        crop: side of the images in pixels that the backbone sees; untrained backbones are made for it.
    """

    module: str = MISSING
    version: int = MISSING
    precision: str = MISSING
    workers: int = MISSING
    device_batch: int = MISSING
    crop: int = MISSING

    def __post_init__(self) -> None:
        self.precision = hardware.precision(self.precision)
        check(self.crop > 0, f"crop={self.crop}: must be at least 1")
        check(self.device_batch > 0, f"device_batch={self.device_batch}: must be at least 1")
        check(self.workers >= 0, f"workers={self.workers}: must not be negative")


@dataclass
class ClassificationSettings(TaskSettings):
    """Settings of the evaluations on ImageNet.

    Attributes:
        resize: short side in pixels before the central `crop` of the evaluation view.
        held_out: share of the train images kept for choosing.
    """

    resize: int = MISSING
    held_out: float = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.resize >= self.crop, f"resize={self.resize}: must be at least crop={self.crop}")
        check(0 < self.held_out < 1, f"held_out={self.held_out}: must lie in (0, 1)")

    def view(self) -> Transform:
        """The evaluation view of an image, the same for train and test."""
        return centre_crop(self.resize, self.crop)

    def view_in_words(self) -> str:
        """The view, as it goes into the record."""
        return f"resize {self.resize}, centre crop {self.crop}, bicubic"


@dataclass(frozen=True)
class How:
    """How an evaluation is run: nothing of it changes what is computed, but for the seed.

    Attributes:
        seed: of everything drawn.
        devices: number of devices of this machine, for tasks that train; the others take one.
        callbacks: for showing progress.
    """

    seed: int = 0
    devices: int = 1
    callbacks: Sequence[Callback] = ()


@dataclass(frozen=True)
class Outcome:
    """What an evaluation found.

    Attributes:
        metrics: by name; accuracies in percent.
        intervals: 95 % bootstrap interval over test images, for metrics with a score per image.
        images: number of test images.
        protocol: the facts that people argue about.
    """

    metrics: dict[str, float]
    images: int
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)


class Task(Protocol):
    """A file of `regvit_lightning/tasks/`: `Settings`, `METRICS` and `run`.

    `METRICS` names the metrics that go into tables, each with its direction: +1 where higher is better, -1 where
    lower is.
    """

    Settings: type[TaskSettings]
    METRICS: dict[str, int]
    run: Callable[[Backbone, DataSettings, Any, How], Outcome]


class FrozenModule(LightningModule):
    """A LightningModule around a frozen backbone; its tokens are computed without a graph.

    Attributes:
        validates_on: what its validation pass reads, for the progress display.
    """

    validates_on = "held-out images"
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(backbone.mean), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std), persistent=False)

    @torch.no_grad()
    def tokens(self, images: Tensor, blocks: Sequence[int] = (-1,), norm: bool = True) -> list[Tokens]:
        """Tokens of uint8 images (B, 3, H, W), under the trainer's precision."""
        return self.backbone(normalise(images, self.mean, self.std), blocks, norm)


def cls_or_mean(tokens: Tokens) -> Tensor:
    """One vector per image (B, D): CLS, or the mean of the patches for a model without CLS."""
    return tokens.cls if tokens.cls is not None else tokens.patches.mean(dim=(1, 2))


def trainer(options: TaskSettings, how: How, devices: int = 1, **more: Any) -> Trainer:
    """A Trainer on `devices` devices that writes nothing to disk."""
    return Trainer(
        accelerator=hardware.accelerator(),
        devices=devices,
        precision=options.precision,  # type: ignore[arg-type]
        callbacks=list(how.callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **more,
    )


def accuracy(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Top-1 accuracy in percent of each column of `predictions` (N, M) against `labels` (N,): (M,)."""
    target = labels.expand(predictions.shape[1], -1)
    return 100 * multiclass_accuracy(predictions.T, target, classes, average="micro", multidim_average="samplewise")


def bootstrap(scores: Tensor, seed: int = 0, draws: int = 1000) -> tuple[float, float]:
    """95 % interval of the mean of per-image `scores` (N,), by resampling images (percentile bootstrap)."""
    scores = scores.double().cpu()
    generator = seeds.generator(seed, "bootstrap")
    means = torch.stack(
        [scores[torch.randint(len(scores), (len(scores),), generator=generator)].mean() for _ in range(draws)]
    )
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
