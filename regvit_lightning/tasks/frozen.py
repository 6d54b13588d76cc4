"""What every frozen evaluation shares: its settings, the module that holds the backbone, how a head is trained, and
what is found."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors.torch import save_file
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from regvit_lightning import atomic, hardware, seeds, slurm
from regvit_lightning.backbones import Backbone, Tokens
from regvit_lightning.data.images import Transform
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import Streamed, accumulation
from regvit_lightning.data.transforms import centre_crop, normalise
from regvit_lightning.errors import UserError
from regvit_lightning.interruption import Signals
from regvit_lightning.pretrain.checkpoints import AtomicCheckpointIO, FiniteLoss, LastCheckpoint
from regvit_lightning.settings import MISSING, check
from regvit_lightning.work import ImageCounts, Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHECKPOINT_EVERY = 1000  # steps of a head's training
LOG_EVERY = 10  # steps
LAST, HEAD = "last.ckpt", "head.safetensors"  # files in the folder of a cell


@dataclass
class TaskSettings:
    """Settings of every frozen evaluation.

    Attributes:
        module: file of `regvit_lightning/tasks/` with the task's `Settings` and `run`.
        version: of the protocol; raised whenever a change to the code or the YAML changes numbers.
        precision: of the frozen features: bf16-mixed or 32-true; auto becomes the first where the hardware has it.
        workers: decoding processes per device.
        device_batch: images at once through the backbone on one device.
        untrained_size: side in pixels of the images that untrained backbones are made for.
    """

    module: str = MISSING
    version: int = MISSING
    precision: str = MISSING
    workers: int = MISSING
    device_batch: int = MISSING
    untrained_size: int = MISSING

    def __post_init__(self) -> None:
        self.precision = hardware.precision(self.precision)
        check(self.untrained_size > 0, f"untrained_size={self.untrained_size}: must be at least 1")
        check(self.device_batch > 0, f"device_batch={self.device_batch}: must be at least 1")
        check(self.workers >= 0, f"workers={self.workers}: must not be negative")


@dataclass
class ViewSettings(TaskSettings):
    """Settings of the evaluations on ImageNet.

    Attributes:
        resize: short side in pixels before the central crop of the evaluation view.
        crop: side of that crop in pixels.
    """

    resize: int = MISSING
    crop: int = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.crop > 0, f"crop={self.crop}: must be at least 1")
        check(self.resize >= self.crop, f"resize={self.resize}: must be at least crop={self.crop}")

    def view(self) -> Transform:
        """The evaluation view of an image, the same for train and test."""
        return centre_crop(self.resize, self.crop)

    def view_in_words(self) -> str:
        """The view, as it goes into the record."""
        return f"resize {self.resize}, centre crop {self.crop}, bicubic"


@dataclass
class ClassificationSettings(ViewSettings):
    """Settings of the evaluations on ImageNet that choose something.

    Attributes:
        held_out: share of the train images kept for choosing.
    """

    held_out: float = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 < self.held_out < 1, f"held_out={self.held_out}: must lie in (0, 1)")


@dataclass(frozen=True)
class How:
    """How an evaluation is run: nothing of it changes what is computed, but for the seed.

    Attributes:
        seed: of everything drawn.
        devices: number of devices of this machine, for tasks that train; the others take one.
        callbacks: for showing progress.
        folder: of the cell, for the log, the checkpoint and the weights of a head; None keeps nothing. Training goes
            on from a checkpoint that lies there.
    """

    seed: int = 0
    devices: int = 1
    callbacks: Sequence[Callback] = ()
    folder: Path | None = None


@dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
        better: +1 where higher is better, -1 where lower is.
        unit: percent, metres.
        decimals: in tables.
    """

    better: int = 1
    unit: str = "%"
    decimals: int = 1


@dataclass(frozen=True)
class Outcome:
    """What an evaluation found.

    Attributes:
        metrics: by name.
        intervals: 95 % bootstrap interval over test images, for metrics with a score per image.
        images: number of test images.
        protocol: the facts that people argue about.
        per_class: a score for each class by name, None for a class that does not occur.
        floors: what is reached without a backbone: by name, metrics.
        picture: examples, where the task has some to show.
        scores: of single test images in the order of the data, by metric of `METRICS`: (N,) whose mean is the metric,
            or (N, …) where `scores.STATISTICS` says how it comes from their mean. NaN for an image that is left out.
    """

    metrics: dict[str, float]
    images: int
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    per_class: dict[str, float | None] = field(default_factory=dict)
    floors: dict[str, dict[str, float]] = field(default_factory=dict)
    picture: "Figure | None" = None
    scores: dict[str, Tensor] = field(default_factory=dict, compare=False)  # tensors have no plain equality


class Task(Protocol):
    """A file of `regvit_lightning/tasks/`.

    Attributes:
        Settings: of its YAML.
        METRICS: those that go into tables.
        READS: the part of the data's settings that says which images it reads, see `DataSettings.section`.
        FOOTNOTE: keys of the outcome's `protocol` that stand under the table.
        NEEDS_TEXT: True, where it is there: a grid leaves out models without a text tower.
        run: computes one cell.
        work: how much that is, for `make plan`.
    """

    Settings: type[TaskSettings]
    METRICS: dict[str, Metric]
    READS: str
    FOOTNOTE: tuple[str, ...]
    run: Callable[[Backbone, DataSettings, Any, How], Outcome]
    work: Callable[[Any, ImageCounts], Work]


class Frozen(nn.Module):
    """A backbone as a source of features: no graph, the protocol's precision inside, float32 outside.

    Args:
        backbone: stays as it is.
        precision: bf16-mixed or 32-true.
    """

    def __init__(self, backbone: Backbone, precision: str) -> None:
        super().__init__()
        self.backbone, self.precision = backbone, precision

    def forward(self, images: Tensor, blocks: Sequence[int] = (-1,), norm: bool = True) -> list[Tokens]:
        """`Backbone.forward` of normalised images (B, 3, H, W), as float32 that a head can be trained on."""
        bf16 = self.precision == "bf16-mixed"
        with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            found = self.backbone(images, blocks, norm)
        return [Tokens(_ordinary(t.cls), _ordinary(t.registers), _ordinary(t.patches)) for t in found]


def _ordinary(tokens: Any) -> Any:
    # A backward pass cannot keep tensors of the inference mode: a copy made outside of it is an ordinary one.
    return None if tokens is None else tokens.to(torch.float32, copy=True)


class FrozenModule(LightningModule):
    """A LightningModule around a frozen backbone.

    Args:
        backbone: gives the features.
        precision: of the features; heads are float32.
        seed: of what is drawn while a head is trained (dropout).

    Attributes:
        validates_on: what its validation pass reads, for the progress display.
    """

    validates_on = "held-out images"
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, precision: str, seed: int = 0) -> None:
        super().__init__()
        self.frozen, self.seed = Frozen(backbone, precision), seed
        self.strict_loading = False  # checkpoints hold no frozen weights
        self.register_buffer("mean", torch.tensor(backbone.mean), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std), persistent=False)

    def tokens(self, images: Tensor, blocks: Sequence[int] = (-1,), norm: bool = True) -> list[Tokens]:
        """Tokens of uint8 images (B, 3, H, W), float32."""
        tokens: list[Tokens] = self.frozen(normalise(images, self.mean, self.std), blocks, norm)
        return tokens

    def head_state(self) -> dict[str, Tensor]:
        """Everything that is not frozen."""
        frozen = {id(value) for value in self.frozen.state_dict(keep_vars=True).values()}
        return {name: value for name, value in self.state_dict(keep_vars=True).items() if id(value) not in frozen}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {name: value.detach() for name, value in self.head_state().items()}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        seeds.seed_global(self.seed, "step", batch_idx, self.global_rank)


def cls_or_mean(tokens: Tokens) -> Tensor:
    """One vector per image (B, D): CLS, or the mean of the patches for a model without CLS."""
    return tokens.cls if tokens.cls is not None else tokens.patches.mean(dim=(1, 2))


def judge(how: How) -> Trainer:
    """A Trainer for ordered passes: one device, so that every image counts once; writes nothing to disk."""
    return Trainer(**_quiet(how.callbacks), devices=1, logger=False, enable_checkpointing=False)


def fit(module: FrozenModule, images: Streamed, steps: int, how: How, **more: Any) -> None:
    """Train the head on `how.devices` devices, going on from the checkpoint in `how.folder` where there is one.

    Afterwards only the process that the user started goes on, and the head lies in the folder.

    Args:
        module: the frozen backbone and its head.
        images: its stream gives the batches.
        steps: of the optimiser.
        how: devices, callbacks, folder.
        more: of Lightning's Trainer.

    Raises:
        UserError: the folder cannot be written, or the loss is not finite.
        Stopped: a signal asked to stop; a checkpoint is written.
    """
    assert images.stream is not None, "the batches come from a stream"
    signals = Signals()
    callbacks = [*how.callbacks, FiniteLoss(LOG_EVERY)]
    if how.folder is not None:
        callbacks.append(LastCheckpoint(how.folder / LAST, CHECKPOINT_EVERY, signals))
    runner = Trainer(
        **_quiet(callbacks),
        devices=how.devices,
        max_steps=steps,
        accumulate_grad_batches=accumulation(images.stream.batch_size, how.devices, images.loading.device_batch),
        limit_val_batches=0,
        logger=TensorBoardLogger(how.folder, name="", version="log") if how.folder is not None else False,
        log_every_n_steps=LOG_EVERY,
        enable_checkpointing=how.folder is not None,
        plugins=[AtomicCheckpointIO(), *slurm.environment()],
        **more,
    )
    last = how.folder / LAST if how.folder is not None and (how.folder / LAST).exists() else None
    try:
        with signals if how.folder is not None else nullcontext():  # without a folder there is nothing to go on from
            runner.fit(module, images, ckpt_path=last, weights_only=True)
    except RuntimeError as error:  # of torch.distributed, when another process stopped and told why
        if how.devices == 1 or not any(word in str(error) for word in ("gloo", "NCCL", "peer")):
            raise
        raise UserError("the process of another device stopped; its line tells why") from None
    hardware.leave_helpers(runner)
    if how.folder is not None:
        head = {name: value.detach().cpu().contiguous() for name, value in module.head_state().items()}
        atomic.write(how.folder / HEAD, lambda temporary: save_file(head, temporary))


def _quiet(callbacks: Sequence[Callback]) -> dict[str, Any]:
    return {
        "accelerator": hardware.accelerator(),
        "precision": "32-true",  # of the heads; the backbone has its own
        "callbacks": list(callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
    }


def accuracy(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Top-1 accuracy in percent of each column of `predictions` (N, M) against `labels` (N,): (M,)."""
    target = labels.expand(predictions.shape[1], -1)
    return 100 * multiclass_accuracy(predictions.T, target, classes, average="micro", multidim_average="samplewise")


def bootstrap(
    scores: Tensor, seed: int = 0, statistic: Callable[[Tensor], Tensor | float] = Tensor.mean, draws: int = 1000
) -> tuple[float, float]:
    """95 % interval of a statistic of the mean over images, by resampling images (percentile bootstrap).

    Args:
        scores: (N, …) per image.
        seed: of the draws.
        statistic: number from the mean over images (…), such as an mIoU from mean areas; by default the mean itself.
        draws: number of resampled sets.
    """
    flat = scores.double().cpu().flatten(1) if scores.dim() > 1 else scores.double().cpu()[:, None]
    generator, images = seeds.generator(seed, "bootstrap"), len(scores)
    drawn = [torch.randint(images, (images,), generator=generator) for _ in range(draws)]
    means = torch.stack([draw.bincount(minlength=images) for draw in drawn]).double() @ flat / images
    found = torch.tensor([float(statistic(mean.view(scores.shape[1:]))) for mean in means], dtype=torch.float64)
    low, high = torch.quantile(found, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
