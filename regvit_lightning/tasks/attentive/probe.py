"""The attentive probe: groups of heads by kind and input on a frozen backbone, and what the chosen ones attend to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from regvit_lightning.analysis.outliers import at_log_mads
from regvit_lightning.data.transforms import normalise
from regvit_lightning.frozen import kept
from regvit_lightning.frozen.head_grid import HeadGrid, HeadGridSettings
from regvit_lightning.frozen.last_patches import MADS, LastPatches
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.schedules import warmup_then_cosine
from regvit_lightning.settings import MISSING, check, from_resolved, number, resolved
from regvit_lightning.statistics import accuracy
from regvit_lightning.tasks.attentive.heads import CapiHead, EpHead, HeadGroup, MeanHead

PATCHES, REGISTERS, BOTH = INPUTS = ("patches", "registers", "both")
CAPI, EP, MEAN = "capi", "ep", "mean"  # kinds of heads


@dataclass
class AttentiveSettings(HeadGridSettings):
    """Settings of the attentive probe; those that it shares are in `HeadGridSettings`, but it takes two steps or more.

    Attributes:
        warmup_steps: those of the linear warm-up, before the cosine to zero.
        learning_rates: grid of rates for a batch of 256; scaled by batch_size / 256.
        weight_decays: grid of weight decays, of everything but biases.
        betas: of AdamW.
        inputs: what the heads read: patches, and also registers, or both; the last two where a model has registers.
        head_width: channels of an attention head of CAPI's.
        queries: number of queries of EP's head.
    """

    steps: int = number("[2, 1e9]")
    warmup_steps: int = number("[0, 1e9]")
    learning_rates: list[float] = number("(0, 1e6]")
    weight_decays: list[float] = number("[0, 1e3]")
    betas: list[float] = number("[0, 1)")
    inputs: list[str] = MISSING
    head_width: int = number("[1, 1e4]")
    queries: int = number("[1, 1e4]")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.warmup_steps < self.steps, f"warmup_steps={self.warmup_steps}: must be below steps={self.steps}")
        check(len(self.learning_rates) > 0, "learning_rates: expected a list such as [1e-3,1e-2]")
        check(len(self.weight_decays) > 0, "weight_decays: expected a list such as [5e-4,5e-2]")
        check(len(self.betas) == 2, f"betas={self.betas}: expected two numbers, such as [0.9,0.95]")
        known = set(self.inputs) <= set(INPUTS) and len(set(self.inputs)) == len(self.inputs)
        expected = f"expected {PATCHES}, and none or any of {REGISTERS}, {BOTH}, each once"
        check(known and PATCHES in self.inputs, f"inputs={self.inputs}: {expected}")


@dataclass(frozen=True)
class Head:
    """One head of the grid: kind, input, learning rate (for a batch of 256) and weight decay."""

    kind: str
    inputs: str
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class Variant:
    """A kind of head and what it reads."""

    kind: str
    inputs: str

    @property
    def name(self) -> str:
        """Name in metrics: the kind, and the input if it is not the patches."""
        return self.kind if self.inputs == PATCHES else f"{self.kind}_{self.inputs}"


def variants(settings: AttentiveSettings, registers: int) -> list[Variant]:
    """Attentive variants in the order of the settings, then that of the floor."""
    usable = [inputs for inputs in settings.inputs if registers or inputs == PATCHES]
    return [*(Variant(kind, inputs) for inputs in usable for kind in (CAPI, EP)), Variant(MEAN, PATCHES)]


def joined(tokens: Tokens) -> Tensor:
    """Registers, then patches, row-major: (B, R + h w, D)."""
    return torch.cat([tokens.registers, tokens.patches.flatten(1, 2)], dim=1)


@dataclass(frozen=True)
class Seen:
    """A test image of the picture.

    Attributes:
        pixels: (3, H, W), uint8.
        norms: (h, w), norms of the patches.
        shares: share of attention of each token that a variant reads, by the variant's name.
        right: whether the head predicts the class of the image, by the variant's name.
    """

    pixels: Tensor
    norms: Tensor
    shares: dict[str, Tensor]
    right: dict[str, bool]


@dataclass(frozen=True)
class Tested:
    """What the test pass measures of a batch: predictions (B, heads), labels (B,), and as in `AttentiveProbe`."""

    predicted: Tensor
    labels: Tensor
    outlier_shares: Tensor
    masses: dict[str, Tensor]
    seen: list[Seen]


class AttentiveProbe(HeadGrid):
    """Grid of attentive heads, and of linear heads of the mean patch, on a frozen backbone.

    Validation predicts with all heads, chooses one of each variant and sets the cutoff of outliers; test also measures
    what the chosen heads attend to.

    Args:
        backbone: source of the tokens.
        settings: settings of the probe, or the output of `settings.resolved` for them.
        classes: number of classes.

    Attributes:
        variants: kinds and inputs; each has a group of heads, one for each learning rate and weight decay.
        grid: heads in the order of the columns of the predictions.
        shown: indices of the test images to keep for the picture.
        chosen: column of the best head of each variant on held-out images, by name, available after validation.
        cutoff: norm above which a patch is an outlier, available after validation.
        masses: (N, 2) of each attentive variant by name: shares of attention on outliers and on registers; after test.
        outlier_shares: share of outliers among the patches of each test image, one tensor per batch; after test.
        seen: the test images at the indices `shown`.
    """

    chosen: dict[str, int]
    cutoff: Tensor

    def __init__(self, backbone: Backbone, settings: AttentiveSettings | Mapping[str, Any], classes: int) -> None:
        settings = from_resolved(AttentiveSettings, settings)
        super().__init__(backbone, settings.precision)
        self.save_hyperparameters({"settings": resolved(settings), "classes": classes}, logger=False)
        self.settings, self.classes, self.registers = settings, classes, backbone.num_registers
        self.last_patches = LastPatches(self.frozen)
        self.points = list(product(settings.learning_rates, settings.weight_decays))
        self.variants = variants(settings, self.registers)
        self.grid = [Head(one.kind, one.inputs, *point) for one in self.variants for point in self.points]
        groups = [HeadGroup(self._head(one.kind), len(self.points)) for one in self.variants]
        self.groups: Sequence[HeadGroup] = nn.ModuleList(groups)  # type: ignore[assignment]
        self.shown: Sequence[int] = ()
        self.norms, self.outlier_shares, self.seen = list[Tensor](), list[Tensor](), list[Seen]()
        self.masses = {one.name: list[Tensor]() for one in self.attentive}

    @property
    def attentive(self) -> list[Variant]:
        """The variants that attend."""
        return [one for one in self.variants if one.kind != MEAN]

    def columns(self, variant: Variant) -> slice:
        """Columns of the predictions that are of a variant."""
        first = self.variants.index(variant) * len(self.points)
        return slice(first, first + len(self.points))

    def _head(self, kind: str) -> nn.Module:
        dim, settings = self.frozen.backbone.embed_dim, self.settings
        if kind == CAPI:
            return CapiHead(dim, self.classes, settings.head_width)
        return EpHead(dim, self.classes, settings.queries) if kind == EP else MeanHead(dim, self.classes)

    # ----------------------------------------------------------------------------------------------------- training

    def read_by(self, variant: Variant, tokens: Tensor) -> Tensor:
        """The tokens that a variant reads, of all (B, R + h w, D)."""
        if variant.inputs == BOTH:
            return tokens
        return tokens[:, self.registers :] if variant.inputs == PATCHES else tokens[:, : self.registers]

    def samples(self, batch: tuple[Tensor, Tensor]) -> list[kept.Sample]:
        """Tokens and label of each image, see `kept.Keeper`."""
        tokens = joined(self.tokens(batch[0])[0])
        return [{"tokens": own, "label": label} for own, label in zip(tokens, batch[1], strict=True)]

    def logits(self, tokens: Tensor) -> list[Tensor]:
        """Logits (B, heads of the variant, classes) of each variant, for tokens (B, R + h w, D)."""
        return [group(self.read_by(one, tokens)) for group, one in zip(self.groups, self.variants, strict=True)]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        tokens = batch["tokens"] if "tokens" in batch else joined(self.tokens(batch["image"])[0])
        labels = batch["label"][:, None].expand(-1, len(self.points))
        # Summed over heads, whose gradients do not meet: each head is trained as if it were alone.
        losses = [F.cross_entropy(own.transpose(1, 2), labels, reduction="sum") for own in self.logits(tokens)]
        return torch.stack(losses).sum() / len(tokens)

    def configure_optimizers(self) -> torch.optim.AdamW:
        parts = [
            {"params": parameters, "weight_decay": decay, "base_lr": lr * self.settings.batch_size / 256}
            for index, (lr, weight_decay) in enumerate(self.points)
            for parameters, decay in zip(self._decayed_or_not(index), (weight_decay, 0.0), strict=True)
        ]
        return torch.optim.AdamW(parts, lr=0.0, betas=tuple(self.settings.betas), fused=True)  # type: ignore[arg-type]

    def _decayed_or_not(self, index: int) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters of the heads at one point of the grid: those with weight decay, and the biases."""
        named = [pair for group in self.groups for pair in group.heads[index].named_parameters()]
        return tuple([own for name, own in named if ("bias" in name) == biases] for biases in (False, True))  # type: ignore[return-value]

    def schedule(self, step: int) -> dict[str, float]:
        """Learning rate factor of all heads at `step`: linear from 0 to 1, then a cosine to 0."""
        return {"lr": warmup_then_cosine(step, self.settings.steps, self.settings.warmup_steps, 1.0, 0.0, 0.0)}

    def set_options(self, optimizer: Optimizer, step: int) -> None:
        """Set the learning rate of each point of the grid for update `step`."""
        factor = self.schedule(step)["lr"]
        for group in optimizer.param_groups:
            group["lr"] = factor * group["base_lr"]

    # --------------------------------------------------------------------------------------------------- evaluation

    def _tokens_and_norms(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, R + h w, D) of uint8 images, and norms (B, h, w) of the patches on the CPU."""
        tokens, norms = self.last_patches.tokens(normalise(images, self.mean, self.std))
        return joined(tokens), norms

    def _predicted(self, tokens: Tensor) -> Tensor:
        return torch.cat([logits.argmax(dim=2) for logits in self.logits(tokens)], dim=1)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        tokens, norms = self._tokens_and_norms(batch[0])
        return self._predicted(tokens), batch[1], norms

    def validated(self, measured: tuple[Tensor, Tensor, Tensor]) -> None:
        self.keep(*measured[:2])
        self.norms.append(measured[2])

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        right = accuracy(*self.held_out)
        best = {one.name: self.columns(one) for one in self.variants}
        self.chosen = {name: columns.start + int(right[columns].argmax()) for name, columns in best.items()}
        self.cutoff = at_log_mads(torch.cat(self.norms), MADS)
        self.norms = []

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        tokens, norms = self._tokens_and_norms(batch[0])
        predicted, outliers = self._predicted(tokens), (norms > self.cutoff).flatten(1)
        shares = {one.name: self._shares(one, tokens).cpu() for one in self.attentive}
        first, seen = self.first_image(batch_idx), []
        for image in range(len(norms)):
            if first + image in self.shown:
                own = {name: values[image].clone() for name, values in shares.items()}
                right = {name: bool(predicted[image, self.chosen[name]] == batch[1][image]) for name in shares}
                seen.append(Seen(batch[0][image].cpu(), norms[image].clone(), own, right))
        of = {one.name: masses(shares[one.name], outliers, one.inputs, self.registers) for one in self.attentive}
        return Tested(predicted, batch[1], outliers.double().mean(dim=1), of, seen)

    def tested(self, measured: Tested) -> None:
        self.keep(measured.predicted, measured.labels)
        self.outlier_shares.append(measured.outlier_shares)
        for name, values in measured.masses.items():
            self.masses[name].append(values)
        self.seen += measured.seen

    def _shares(self, variant: Variant, tokens: Tensor) -> Tensor:
        index = self.chosen[variant.name] - self.columns(variant).start
        return self.groups[self.variants.index(variant)].attention(self.read_by(variant, tokens), index)


def masses(shares: Tensor, outliers: Tensor, inputs: str, registers: int) -> Tensor:
    """Attention on outliers and on registers in percent (B, 2).

    Args:
        shares: (B, N) of the tokens of the input, registers first.
        outliers: boolean (B, h w), of the patches.
        inputs: `patches`, `registers` or `both`.
        registers: number of registers R.
    """
    first = 0 if inputs == PATCHES else registers
    on_outliers = (shares[:, first:] * outliers).sum(dim=1) if inputs != REGISTERS else torch.zeros(len(shares))
    return 100 * torch.stack([on_outliers, shares[:, :first].sum(dim=1)], dim=1).double()
