"""DeiT-III: supervised pretraining (Touvron et al. 2022, arXiv 2204.07118), the registers paper's supervised family.

Two objectives share this file: softmax cross-entropy with label smoothing (ImageNet-22k) and binary cross-entropy
on the presence of each class in a mixed image (ImageNet-1k). Hyperparameters are in `configs/recipes/deit3*.yaml`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from PIL import Image
from timm.optim import Lamb, param_groups_weight_decay
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms import v2

from regvit_lightning.data.transforms import three_augment
from regvit_lightning.models import EXPORT, vit
from regvit_lightning.models.arms import NOT_DECAYED, global_pathway
from regvit_lightning.pretrain import recipe
from regvit_lightning.schedules import cosine_after_warmup
from regvit_lightning.settings import MISSING, SettingsError, check, number


@dataclass
class DeiT3Settings(recipe.RecipeSettings):
    """Settings of DeiT-III.

    Attributes:
        lr, warmup_lr, min_lr: learning rate at its peak, at step 0 and at the end; not scaled by the batch size.
        warmup_epochs: length of the linear warm-up; may be a fraction.
        weight_decay: not applied to biases, norms, LayerScale, CLS, registers and position embedding.
        loss: `softmax` or `bce`.
        label_smoothing: label smoothing of the softmax loss, 0-1.
        mixup, cutmix: alpha of the Beta distribution, 0 to disable; with both, one of them is drawn for each batch.
        crop: `simple` or `resized` (see `three_augment`).
        colour_jitter: strength of the colour jitter, 0-1.
        draft: decode a large JPEG at 1/2, 1/4 or 1/8 of its size where the crop stays twice as large as the view;
            for crop=resized.
        repeats: times each image is repeated (repeated augmentation), 1 for none.
        drop_path: stochastic depth rate, the same in all blocks.
        ema_decay: decay of the EMA weights, which are exported beside the trained ones.
        pooling: what the classifier reads: `cls`, or `average`, the mean of the patches of a model without CLS.
    """

    lr: float = number("(0, 100]")
    warmup_lr: float = number("[0, 100]")
    min_lr: float = number("[0, 100]")
    warmup_epochs: float = number("[0, 1e6]")
    weight_decay: float = number("[0, 100]")
    loss: str = MISSING
    label_smoothing: float = number("[0, 1)")
    mixup: float = number("[0, 100]")
    cutmix: float = number("[0, 100]")
    crop: str = MISSING
    colour_jitter: float = number("[0, 1]")
    draft: bool = False
    repeats: int = number("[1, 100]")
    drop_path: float = number("[0, 1)")
    ema_decay: float = number("[0, 1)")
    pooling: str = "cls"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.loss in ("softmax", "bce"), f"loss={self.loss}: expected softmax or bce")
        check(self.pooling in ("cls", "average"), f"pooling={self.pooling}: expected cls or average")
        whole = f"draft=true: crop={self.crop} resizes whole images; take crop=resized"
        check(self.crop == "resized" or not self.draft, whole)
        if self.epochs is not None:
            self.check_warmup(self.epochs)

    def check_warmup(self, epochs: float) -> None:
        """Check that the warm-up is no longer than the run.

        Raises:
            SettingsError: it is.
        """
        longer = f"warmup_epochs={self.warmup_epochs:g} is above the {epochs:g} epochs of the run"
        check(self.warmup_epochs <= epochs, f"{longer}; give warmup_epochs=0 or a shorter one, or a longer run")


class DeiT3(recipe.Recipe):
    """Register ViT with a linear classifier on CLS or the mean patch, trained on an image-folder data set."""

    SETTINGS = DeiT3Settings
    settings: DeiT3Settings

    def __init__(
        self,
        settings: DeiT3Settings | Mapping[str, Any],
        model: str,
        num_classes: int,
        steps: int,
        seed: int,
        epochs: float | None = None,
    ) -> None:
        super().__init__(settings, model, num_classes, steps, seed, epochs)
        settings = self.settings
        if self.epochs is None:
            raise SettingsError(f"steps={settings.steps}: the warm-up is in epochs, so give epochs= to the recipe too")
        settings.check_warmup(self.epochs)
        self.warmup = round(steps * settings.warmup_epochs / self.epochs)
        options: dict[str, Any] = {"layer_scale": settings.layer_scale, "drop_path": settings.drop_path}
        options["class_token"] = settings.pooling == "cls"
        self.backbone = vit.build(model, image_size=settings.image_size, num_classes=num_classes, **options)
        self.ema = MovingAverage(self.backbone, settings.ema_decay).requires_grad_(False)
        self.repeats = settings.repeats
        self.mix = mixing(settings.mixup, settings.cutmix, num_classes)

    def augmentation(self) -> Callable[[Image.Image], Tensor]:
        settings = self.settings
        return three_augment(settings.image_size, settings.crop, settings.colour_jitter, settings.draft)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        images, targets = self.mix(self.normalise(batch["image"]), batch["label"])
        with (
            self.register_terms.seen_in(self.backbone, self.register_terms.drawn(len(images))) as seen,
            global_pathway.collected(self.backbone.blocks) as shares,
        ):
            logits = self.backbone(images).float()
        loss = objective(logits, targets, self.settings.loss, self.settings.label_smoothing)
        loss = self.with_register_terms(self.with_common_mode(loss, shares), seen.terms)
        self.log_means({"loss": loss})
        return loss

    def configure_optimizers(self) -> Lamb:
        tokens = ["cls_token", "reg_token", "pos_embed"]  # older versions of timm omit registers from their list
        tokens += [f"*.{name}" for name in NOT_DECAYED]
        groups = param_groups_weight_decay(self.backbone, self.settings.weight_decay, no_weight_decay_list=tokens)
        return Lamb(groups, lr=self.settings.lr, weight_decay=self.settings.weight_decay)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if not self.skipped_update:
            self.ema.update_parameters(self.backbone)

    def schedule(self, step: int) -> dict[str, float]:
        """Learning rate: linear warm-up, then timm's cosine decay, which counts from step 0, not from its end.

        It changes with every step; DeiT's code changes it once per epoch.
        """
        s = self.settings
        return {"lr": cosine_after_warmup(step, self.steps, self.warmup, s.lr, s.warmup_lr, s.min_lr)}

    def exports(self) -> Iterator[tuple[str, vit.RegisterViT]]:
        """EMA backbone, and the trained backbone, which is the one that DeiT evaluates."""
        yield "backbone_ema.safetensors", cast(vit.RegisterViT, self.ema.module)
        yield EXPORT, self.backbone


class MovingAverage(AveragedModel):
    """EMA of the weights of a model, in which the initial weights count, as in timm's: the first update averages, too.

    PyTorch's own update asks the device twice whether it is the first one, and waits for the answer.

    Args:
        model: the model, which is copied.
        decay: weight of the average in each update.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.average = get_ema_multi_avg_fn(decay)
        self.n_averaged.fill_(1)

    def update_parameters(self, model: nn.Module) -> None:
        """Average the parameters with those of `model`, and copy its buffers."""
        pairs = list(zip(self.module.parameters(), model.parameters(), strict=True))
        averaged, current = ([pair[side].detach() for pair in pairs] for side in (0, 1))
        self.average(averaged, current, self.n_averaged)
        for own, other in zip(self.module.buffers(), model.buffers(), strict=True):
            own.detach().copy_(other.detach())
        self.n_averaged += 1


SETTINGS, RECIPE = DeiT3Settings, DeiT3


def mixing(mixup: float, cutmix: float, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Batch-wise Mixup or CutMix: maps (images, labels (B,)) to (images, soft labels (B, num_classes)).

    With both, one of them is drawn for each batch with equal probability (timm's `switch_prob` 0.5, as in DeiT).
    """
    kinds: list[v2.Transform] = []
    if mixup > 0:
        kinds.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
    if cutmix > 0:
        kinds.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))
    if not kinds:
        return lambda images, labels: (images, F.one_hot(labels, num_classes).float())
    return v2.RandomChoice(kinds)


def objective(logits: Tensor, targets: Tensor, loss: str, label_smoothing: float) -> Tensor:
    """Classification loss, averaged over the batch.

    Args:
        logits: (B, K) float32.
        targets: (B, K) soft labels that sum to 1.
        loss: `softmax`: cross-entropy with smoothed targets. `bce`: binary cross-entropy averaged over images and
            classes, with target 1 for every class that is present (DeiT-III's code: mixed label > 0).
    """
    if loss == "bce":
        return F.binary_cross_entropy_with_logits(logits, (targets > 0).to(logits.dtype))
    return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
