"""What every pretraining recipe shares: its settings, the seeding of each step, the register ViT inside."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lightning import LightningModule
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torchvision.transforms import v2

from regvit_lightning import hardware, seeds, vit
from regvit_lightning.data.transforms import normalise
from regvit_lightning.settings import MISSING, check
from regvit_lightning.weights import Metadata


@dataclass
class RecipeSettings:
    """Settings of every recipe.

    Attributes:
        module: file of `regvit_lightning/pretrain/` with the recipe's `Settings` and `Recipe`.
        epochs: passes over the data.
        batch_size: images per optimiser step over all devices; never depends on their number.
        device_batch: images at once on one device; what does not fit is accumulated.
        images: data set of labelled images to train on, a folder that the data names: `imagenet` or `imagenet22k`.
        image_size: side of the training images in pixels.
        layer_scale: initial LayerScale value, null for none.
        precision: bf16-mixed or 32-true; auto becomes the first where the hardware has it.
        workers: decoding processes per device.
        checkpoint_every: steps between checkpoints.
        log_every: steps between logged scalars.
    """

    module: str = MISSING
    epochs: int = MISSING
    batch_size: int = MISSING
    device_batch: int = MISSING
    images: str = MISSING
    image_size: int = MISSING
    layer_scale: float | None = MISSING
    precision: str = MISSING
    workers: int = MISSING
    checkpoint_every: int = MISSING
    log_every: int = MISSING

    def __post_init__(self) -> None:
        self.precision = hardware.precision(self.precision)
        for name in ("epochs", "batch_size", "device_batch", "image_size", "checkpoint_every", "log_every"):
            check(getattr(self, name) > 0, f"{name}={getattr(self, name)}: must be at least 1")
        check(self.workers >= 0, f"workers={self.workers}: must not be negative")


class Recipe(LightningModule):
    """Base of the recipes: owns `self.backbone`, a `RegisterViT`, and draws everything from (seed, step).

    A recipe's file defines `Settings` (a `RecipeSettings`) and `Recipe` (this class), which adds `training_step`,
    `configure_optimizers` and `augmentation`.

    Args:
        settings: of the recipe.
        model: name of the register ViT.
        num_classes: classes of the data, for recipes with labels.
        steps: optimiser steps of the whole run.
        seed: of initialisation and of every later draw.

    Attributes:
        repeats: how often an image of a pass is drawn (repeated augmentation).
    """

    repeats: int = 1
    backbone: vit.RegisterViT
    mean: Tensor
    std: Tensor

    def __init__(self, settings: RecipeSettings, model: str, num_classes: int, steps: int, seed: int) -> None:
        super().__init__()
        self.settings, self.model, self.num_classes, self.steps, self.seed = settings, model, num_classes, steps, seed
        self.register_buffer("mean", torch.tensor(IMAGENET_DEFAULT_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_DEFAULT_STD), persistent=False)

    def augmentation(self) -> Callable[[Image.Image], Any]:
        """Training transform of one image, to uint8 (3, image_size, image_size) or to several such views by name."""
        raise NotImplementedError

    def examples(self, batch: dict[str, Any]) -> Tensor:
        """What the network sees of a batch, uint8 (n, 3, H, W), to be shown."""
        images: Tensor = batch["image"]
        return images

    def exports(self) -> Iterator[tuple[str, vit.RegisterViT]]:
        """Backbones to keep at the end, by file name; the evaluations take `backbone`, which comes last."""
        yield "backbone", self.backbone

    def metadata(self, recipe: str) -> Metadata:
        """What must be known to rebuild the backbone from its weights; `recipe` is the name in `configs/recipes`."""
        return Metadata(
            name=self.model,
            recipe=recipe,
            image_size=self.settings.image_size,
            mean=IMAGENET_DEFAULT_MEAN,
            std=IMAGENET_DEFAULT_STD,
            layer_scale=self.settings.layer_scale,
            registers=self.backbone.num_reg_tokens,
            info={"steps": self.steps, "seed": self.seed},
        )

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) to the float input of the backbone."""
        return normalise(images, self.mean, self.std)

    def setup(self, stage: str) -> None:
        # The fused kernel's backward pass is slow on CPUs: it doubles the step of the nano model.
        vit.fuse_attention(self.backbone, self.trainer.strategy.root_device.type != "cpu")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        seeds.seed_global(self.seed, "step", batch_idx, self.global_rank)


def example_grid(images: Tensor, count: int = 32) -> Tensor:
    """The first `count` uint8 images of a batch as one picture (3, H, W), eight in a row."""
    from torchvision.utils import make_grid

    shown = images[:count].cpu()
    return make_grid(v2.functional.to_dtype(shown, torch.float32, scale=True), nrow=8, padding=2, pad_value=1.0)
