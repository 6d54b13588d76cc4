"""ImageNet linear probe on frozen features: DINOv2's grid of heads in one run, selected on held-out train.

Source: Oquab et al. 2023 (arXiv 2304.07193), appendix B.3 and dinov2/eval/linear.py: inputs from the last 1 or 4
blocks, with or without the mean patch, times 13 learning rates. Two differences, both in the record: the head is
selected on held-out train (the best on test is reported separately), and the global batch is fixed, so that the
learning rate does not depend on the number of devices.

Where a model has registers, 13 more heads read CLS and the mean of the registers of the last block (arXiv 2501.04784);
one of them is selected among themselves and reported beside the 52. The selected heads are kept for evaluations on
other images.
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
from regvit_lightning.frozen.kept_heads import KeptHead, KeptHeads
from regvit_lightning.frozen.module import cls_or_mean
from regvit_lightning.frozen.trainer import Tester, fit
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.runtime import seeds
from regvit_lightning.schedules import cosine
from regvit_lightning.settings import check, from_resolved, number, resolved
from regvit_lightning.statistics import accuracy, accuracy_by_class, accuracy_interval, constant_accuracy
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


def inputs(tokens: Sequence[Tokens], blocks: int, avgpool: bool) -> Tensor:
    """Input of a head: concatenated CLS of the last `blocks` blocks, then the mean patch of the last block.

    Args:
        tokens: tokens of the last blocks, in order, after the final norm.

    Returns:
        (B, blocks * D), or (B, (blocks + 1) * D) with `avgpool`.
    """
    parts = [cls_or_mean(block) for block in tokens[-blocks:]]
    if avgpool:
        parts.append(tokens[-1].patches.mean(dim=(1, 2)))
    return torch.cat(parts, dim=1)


def register_inputs(tokens: Sequence[Tokens]) -> Tensor:
    """CLS and the mean of the registers of the last block (B, 2 D)."""
    return torch.cat([cls_or_mean(tokens[-1]), tokens[-1].registers.mean(dim=1)], dim=1)


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
        register_heads: those that read the registers too, a head for each learning rate, whose predictions are the last
            columns; None for a model without registers.
    """

    rates: Tensor

    def __init__(self, backbone: Backbone, settings: LinearSettings | Mapping[str, Any], classes: int) -> None:
        settings = from_resolved(LinearSettings, settings)
        super().__init__(backbone, settings.precision, shared.usual(backbone, max(settings.blocks)))
        self.save_hyperparameters({"settings": resolved(settings), "classes": classes}, logger=False)
        self.settings, self.classes = settings, classes
        # Without CLS the mean patch replaces it, and adding it again has no effect.
        pools = (False, True) if backbone.has_cls else (False,)
        self.variants = [(blocks, avgpool) for blocks in settings.blocks for avgpool in pools]
        self.grid = [Head(*variant, lr) for variant in self.variants for lr in settings.learning_rates]
        self.dims = [(blocks + avgpool) * backbone.embed_dim for blocks, avgpool in self.variants]
        groups = [Heads(dim, len(settings.learning_rates), classes) for dim in self.dims]
        self.heads: Sequence[Heads] = nn.ModuleList(groups)  # type: ignore[assignment]
        self.register_heads: Heads | None = None
        if backbone.num_registers:  # after all others, whose initial values they do not change
            self.dims.append(2 * backbone.embed_dim)
            self.register_heads = Heads(self.dims[-1], len(settings.learning_rates), classes)
        rates = torch.tensor(settings.learning_rates) * settings.batch_size / 256
        self.register_buffer("rates", rates, persistent=False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Head inputs of each group, variants, then registers: of uint8 images (B, 3, H, W) or stored vectors."""
        tokens = self.last_tokens(images, max(self.settings.blocks))
        of_registers = [] if self.register_heads is None else [register_inputs(tokens)]
        return [*(inputs(tokens, *variant) for variant in self.variants), *of_registers]

    def groups(self) -> list[Heads]:
        """The groups of heads in the order of `features`."""
        return [*self.heads, *([] if self.register_heads is None else [self.register_heads])]

    def samples(self, batch: tuple[Tensor, Tensor]) -> list[kept.Sample]:
        """Head inputs of all groups, concatenated, and label of each image, see `kept.Keeper`."""
        features = torch.cat(self.features(batch[0]), dim=1)
        return [{"features": row, "label": label} for row, label in zip(features, batch[1], strict=True)]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if "features" in batch:
            features = list(batch["features"].split(self.dims, dim=1))
        else:
            features = self.features(batch["image"])
        losses = [heads.loss(x, batch["label"], self.rates) for heads, x in zip(self.groups(), features, strict=True)]
        return torch.stack(losses).sum()

    def configure_optimizers(self) -> torch.optim.SGD:
        trained = [parameter for heads in self.groups() for parameter in heads.parameters()]
        return torch.optim.SGD(trained, lr=1.0, momentum=self.settings.momentum, fused=True)

    def schedule(self, step: int) -> dict[str, float]:
        """Learning rate factor of all heads at `step`: cosine from 1 to 0."""
        return {"lr": cosine(step, self.settings.steps, start=1.0)}

    def predictions(self, images: Tensor) -> Tensor:
        features = self.features(images)
        columns = [heads(x).argmax(dim=2) for heads, x in zip(self.groups(), features, strict=True)]
        return torch.cat(columns, dim=1)

    def chosen(self) -> dict[str, int]:
        """Column of the head that is best on held-out images, of equals the first: `linear`, and `registers` if any."""
        on_held_out, own = accuracy(*self.held_out), len(self.grid)
        columns = {"linear": int(on_held_out[:own].argmax())}
        return (
            columns if self.register_heads is None else {**columns, "registers": own + int(on_held_out[own:].argmax())}
        )

    def kept_head(self, column: int) -> KeptHead:
        """The head of one column of the predictions."""
        group, row = divmod(column, len(self.settings.learning_rates))
        linear = self.groups()[group].linear
        weight, bias = (part.unflatten(0, (-1, self.classes))[row] for part in (linear.weight, linear.bias))
        if column < len(self.grid):
            return KeptHead(weight, bias, {**vars(self.grid[column]), "registers": False})
        lr = self.settings.learning_rates[row]
        return KeptHead(weight, bias, {"blocks": 1, "avgpool": False, "registers": True, "lr": lr})


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
    trainer = Tester(how)
    trainer.validate(module, images, verbose=False)
    trainer.test(module, images, verbose=False)
    if how.folder is not None and trainer.is_global_zero:
        chosen_on = settings.chosen_on(len(held_out))
        heads = {name: module.kept_head(column) for name, column in module.chosen().items()}
        view_sides = settings.resize, settings.crop
        KeptHeads(backbone.fingerprint, files.classes, *view_sides, chosen_on, heads).save(how.folder)
    return _outcome(module, len(train), test.classes, how.seed)


def _outcome(module: LinearProbe, train_images: int, classes: Sequence[str], seed: int) -> Outcome:
    settings = module.settings
    on_held_out, on_test = accuracy(*module.held_out), accuracy(*module.test)
    held_out, heads, columns = len(module.held_out[1]), len(module.grid), module.chosen()
    chosen, best = columns["linear"], int(on_test[:heads].argmax())
    right = 100.0 * (module.test[0][:, [chosen, best]] == module.test[1][:, None])
    with_registers: dict[str, Tensor] = {}
    if "registers" in columns:
        with_registers["top1_registers"] = 100.0 * (module.test[0][:, columns["registers"]] == module.test[1])
    return Outcome(
        metrics={
            "top1": on_test[chosen].item(),
            "top1_held_out": on_held_out[chosen].item(),
            "top1_best_on_test": on_test[best].item(),
            **{name: one.mean().item() for name, one in with_registers.items()},
        },
        images=len(right),
        intervals={
            "top1": accuracy_interval(right[:, 0], seed),
            **{name: accuracy_interval(one, seed) for name, one in with_registers.items()},
        },
        scores={"top1": right[:, 0], "top1_best_on_test": right[:, 1]},
        per_class=accuracy_by_class(right[:, 0], module.test[1], classes),
        floors={
            "most frequent class": dict.fromkeys(
                ("top1", "top1_best_on_test", *with_registers), constant_accuracy(module.test[1])
            )
        },
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
