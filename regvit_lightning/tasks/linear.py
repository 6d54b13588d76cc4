"""ImageNet linear probe on frozen features: DINOv2's grid of heads in one run, selected on held-out train.

Source: Oquab et al. 2023 (arXiv 2304.07193), appendix B.3 and dinov2/eval/linear.py: inputs from the last 1 or 4
blocks, with or without the mean patch, times 13 learning rates. Two differences, both in the record: the head is
selected on held-out train (the best on test is reported separately), and the global batch is fixed, so that the
learning rate does not depend on the number of devices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regvit_lightning.data.imagenet import test_files, train_files
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import Loading
from regvit_lightning.frozen import kept, shared
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.frozen.head_grid import HeadGrid, HeadGridSettings, training
from regvit_lightning.frozen.shared import CLASS, MEAN
from regvit_lightning.frozen.trainer import fit, tester
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.runtime import seeds
from regvit_lightning.schedules import cosine
from regvit_lightning.settings import check, from_resolved, number, resolved
from regvit_lightning.statistics import accuracy, accuracy_by_class, accuracy_interval
from regvit_lightning.work import ImageCounts, Work

METRICS = {"top1": Metric(), "top1_best_on_test": Metric()}
READS = "imagenet"
TRAINS_HEAD = True
FOOTNOTE = ("view", "train_view", "head_chosen_on")


@dataclass
class LinearSettings(HeadGridSettings):
    """Settings of the linear probe; those that it shares are in `HeadGridSettings`.

    Attributes:
        learning_rates: grid of rates for a batch of 256; scaled by batch_size / 256.
        momentum: momentum of SGD.
        blocks: numbers of last blocks whose CLS is the input of a head.
    """

    learning_rates: list[float] = number("(0, 1e6]")
    momentum: float = number("[0, 1)")
    blocks: list[int] = number("[1, 1000]")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(len(self.learning_rates) > 0, "learning_rates: expected a list such as [1e-3,1e-2]")
        check(len(self.blocks) > 0, "blocks: expected a list such as [1,4]")


SETTINGS = LinearSettings


@dataclass(frozen=True)
class Head:
    """One head of the grid: input and learning rate (for a batch of 256)."""

    blocks: int
    avgpool: bool
    lr: float


def inputs(classes: Tensor, mean: Tensor, blocks: int, avgpool: bool) -> Tensor:
    """Input of a head: concatenated CLS of the last `blocks` blocks, then the mean patch of the last block.

    Args:
        classes: (B, n, D), CLS of the last n blocks, in order, after the final norm.
        mean: (B, 1, D), mean patch of the last block after the final norm; any other number where it is not used.

    Returns:
        (B, blocks * D), or (B, (blocks + 1) * D) with `avgpool`.
    """
    parts = [classes[:, -blocks:], mean] if avgpool else [classes[:, -blocks:]]
    return torch.cat(parts, dim=1).flatten(1)


class Heads(nn.Module):
    """Linear heads that share an input, as one matrix.

    The gradient of head i is that of its own cross-entropy times its learning rate: weighting the losses by the
    learning rates and stepping with the schedule alone is SGD with momentum at each head's own rate (the momentum
    buffer is linear in the gradient and there is no weight decay).

    Args:
        dim: dimension of the input.
        heads: number of heads H.
        classes: number of classes K.
    """

    def __init__(self, dim: int, heads: int, classes: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear = nn.Linear(dim, heads * classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, H, K) of features (B, dim)."""
        return self.linear(features).unflatten(1, (self.heads, -1))

    def loss(self, features: Tensor, labels: Tensor, rates: Tensor) -> Tensor:
        """Sum over heads of rate (H,) times mean cross-entropy over the batch."""
        logits = self(features).transpose(0, 1)
        every = F.cross_entropy(logits.flatten(0, 1), labels.repeat(self.heads), reduction="none")
        return (every.view(self.heads, -1).mean(dim=1) * rates).sum()


class LinearProbe(HeadGrid):
    """Grid of linear heads on a frozen backbone.

    Args:
        backbone: source of the features.
        settings: settings of the probe, or the output of `settings.resolved` for them.
        classes: number of classes.

    Attributes:
        grid: heads in the order of the columns of the predictions.
    """

    rates: Tensor

    def __init__(self, backbone: Backbone, settings: LinearSettings | Mapping[str, Any], classes: int) -> None:
        settings = from_resolved(LinearSettings, settings)
        # Without CLS the mean patch replaces it, and adding it again has no effect.
        pools = (False, True) if backbone.has_cls else (False,)
        classes_of = [(block, CLASS) for block in range(-max(settings.blocks), 0)]
        super().__init__(backbone, settings.precision, [*classes_of, *([(-1, MEAN)] if backbone.has_cls else [])])
        self.save_hyperparameters({"settings": resolved(settings), "classes": classes}, logger=False)
        self.settings, self.classes = settings, classes
        self.variants = [(blocks, avgpool) for blocks in settings.blocks for avgpool in pools]
        self.grid = [Head(*variant, lr) for variant in self.variants for lr in settings.learning_rates]
        self.dims = [(blocks + avgpool) * backbone.embed_dim for blocks, avgpool in self.variants]
        groups = [Heads(dim, len(settings.learning_rates), classes) for dim in self.dims]
        self.heads: Sequence[Heads] = nn.ModuleList(groups)  # type: ignore[assignment]
        rates = torch.tensor(settings.learning_rates) * settings.batch_size / 256
        self.register_buffer("rates", rates, persistent=False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Head inputs of each variant, float32, for uint8 images (B, 3, H, W), or for their stored vectors."""
        vectors, most = self.vectors(images), max(self.settings.blocks)
        return [inputs(vectors[:, :most], vectors[:, most:], *variant) for variant in self.variants]

    def samples(self, batch: tuple[Tensor, Tensor]) -> list[kept.Sample]:
        """Head inputs of all variants, concatenated, and label of each image, see `kept.Keeper`."""
        features = torch.cat(self.features(batch[0]), dim=1)
        return [{"features": row, "label": label} for row, label in zip(features, batch[1], strict=True)]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if "features" in batch:
            features = list(batch["features"].split(self.dims, dim=1))
        else:
            features = self.features(batch["image"])
        losses = [heads.loss(x, batch["label"], self.rates) for heads, x in zip(self.heads, features, strict=True)]
        return torch.stack(losses).sum()

    def configure_optimizers(self) -> torch.optim.SGD:
        trained = [parameter for heads in self.heads for parameter in heads.parameters()]
        return torch.optim.SGD(trained, lr=1.0, momentum=self.settings.momentum, fused=True)

    def schedule(self, step: int) -> dict[str, float]:
        """Learning rate factor of all heads at `step`: cosine from 1 to 0."""
        return {"lr": cosine(step, self.settings.steps, start=1.0)}

    def predictions(self, images: Tensor) -> Tensor:
        features = self.features(images)
        columns = [heads(x).argmax(dim=2) for heads, x in zip(self.heads, features, strict=True)]
        return torch.cat(columns, dim=1)


def work(settings: LinearSettings, images: ImageCounts) -> Work:
    """Work of the passes over the images, see `HeadGridSettings.work`."""
    return settings.work(images)


def run(backbone: Backbone, data: DataSettings, settings: LinearSettings, how: RunOptions = RunOptions()) -> Outcome:  # noqa: B008
    """Top-1 on test of the head selected on held-out train (of equals the first), and of the best head on test.

    Raises:
        DataError: the data is missing, incomplete or unreadable.
    """
    lacks = f"blocks={settings.blocks}: {backbone.name} has {backbone.depth}; give fewer, such as blocks=[1]"
    check(max(settings.blocks) <= backbone.depth, lacks)
    files, test = train_files(data), test_files(data)
    train, held_out = files.split(settings.held_out, how.seed)
    loading = Loading(settings.workers, settings.device_batch)
    with seeds.drawn_from(how.seed, "heads"):
        module = LinearProbe(backbone, settings, len(files.classes))
    fit(module, training(module, settings, train, loading, how), settings.steps, how)
    images = shared.passes(module, settings, how, validation=[held_out], test=[test])
    trainer = tester(how)
    trainer.validate(module, images, verbose=False)
    trainer.test(module, images, verbose=False)
    return _outcome(module, len(train), test.classes, how.seed)


def _outcome(module: LinearProbe, train_images: int, classes: Sequence[str], seed: int) -> Outcome:
    settings = module.settings
    on_held_out, on_test = accuracy(*module.held_out), accuracy(*module.test)
    held_out, heads = len(module.held_out[1]), len(module.grid)
    chosen, best = int(on_held_out.argmax()), int(on_test.argmax())
    right = 100.0 * (module.test[0][:, [chosen, best]] == module.test[1][:, None])
    return Outcome(
        metrics={
            "top1": on_test[chosen].item(),
            "top1_held_out": on_held_out[chosen].item(),
            "top1_best_on_test": on_test.max().item(),
        },
        images=len(right),
        intervals={"top1": accuracy_interval(right[:, 0], seed)},
        scores={"top1": right[:, 0], "top1_best_on_test": right[:, 1]},
        per_class=accuracy_by_class(right[:, 0], module.test[1], classes),
        protocol={
            "head": vars(module.grid[chosen]),
            "head_best_on_test": vars(module.grid[best]),
            "head_chosen_on": settings.chosen_on(held_out),
            "held_out_images": held_out,
            "caveat": settings.caveat(f"{heads} heads", held_out),
            "heads": heads,
            "train_images": train_images,
            "batch_size": settings.batch_size,
            "train_view": settings.train_view_in_words("features"),
            "view": settings.view_in_words(),
        },
    )
