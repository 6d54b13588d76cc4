"""LightningModule with a frozen backbone: features without gradients in the precision of the protocol."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from regvit_lightning.data.device_batches import DeviceBatches
from regvit_lightning.data.transforms import normalise
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.runtime import hardware, seeds
from regvit_lightning.runtime.scheduled import ScheduledModule


class Frozen(nn.Module):
    """Frozen feature extractor: no gradients, the precision of the protocol inside, float32 outputs.

    Args:
        backbone: backbone, left unchanged.
        precision: bf16-mixed, 16-mixed or 32-true.
    """

    def __init__(self, backbone: Backbone, precision: str) -> None:
        super().__init__()
        self.backbone, self.precision = backbone, precision

    def forward(self, images: Tensor, blocks: Sequence[int] = (-1,), norm: bool = True) -> list[Tokens]:
        """Features of normalised images (B, 3, H, W) as in `Backbone.forward`, in float32 for training a head."""
        with self.autocast(images):
            outputs = self.backbone(images, blocks, norm)
        return [Tokens(_ordinary(t.cls), _ordinary(t.registers), _ordinary(t.patches)) for t in outputs]

    @contextmanager
    def autocast(self, images: Tensor) -> Iterator[None]:
        """Context without gradients and in the precision of the protocol, for the device of `images`."""
        with torch.inference_mode(), hardware.autocast(images.device.type, self.precision):
            yield


def _ordinary(tokens: Any) -> Any:
    # Autograd cannot save inference-mode tensors for backward: a copy made outside of that mode is an ordinary tensor.
    return None if tokens is None else tokens.to(torch.float32, copy=True)


class FrozenModule(ScheduledModule):
    """LightningModule around a frozen backbone.

    Checkpoints hold the head alone, with the arguments that a subclass passes to `save_hyperparameters`: all but the
    backbone, so that `load_from_checkpoint(path, backbone=backbone)` restores it.

    Args:
        backbone: source of the features.
        precision: precision of the features; heads are float32.
        seed: seed of the random numbers in training a head (dropout).

    Attributes:
        validates_on: data of the validation pass, for the progress display.
        shares_passes: several devices share its ordered passes, see `devices`: its steps return what they measured of a
            batch and change nothing. Otherwise each of them runs every pass whole.
    """

    validates_on = "held-out images"
    shares_passes = False
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, precision: str, seed: int = 0) -> None:
        super().__init__()
        self.frozen, self.seed = Frozen(backbone, precision), seed
        self.register_buffer("mean", torch.tensor(backbone.mean), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std), persistent=False)

    def validated(self, measured: Any) -> None:
        """Keep what `validation_step` returned; called for each batch of a pass, in order, on every device."""

    def tested(self, measured: Any) -> None:
        """Keep what `test_step` returned; called for each batch of a pass, in order, on every device."""

    def first_image(self, batch_idx: int, loader: int = 0) -> int:
        """Index of the first image of a batch of this device among all images of its loader in a test pass."""
        loaders: Any = self.trainer.test_dataloaders
        batches = (loaders[loader] if isinstance(loaders, list) else loaders).batch_sampler
        if isinstance(batches, DeviceBatches):
            return batches.number(batch_idx) * batches.batches.batch_size  # type: ignore[union-attr]
        return int(batch_idx * batches.batch_size)

    def tokens(self, images: Tensor, blocks: Sequence[int] = (-1,), norm: bool = True) -> list[Tokens]:
        """Tokens of uint8 images (B, 3, H, W), float32."""
        tokens: list[Tokens] = self.frozen(normalise(images, self.mean, self.std), blocks, norm)
        return tokens

    def head_state(self) -> dict[str, Tensor]:
        """State of everything that is not frozen."""
        frozen = {id(value) for value in self.frozen.state_dict(keep_vars=True).values()}
        return {name: value for name, value in self.state_dict(keep_vars=True).items() if id(value) not in frozen}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {name: value.detach() for name, value in self.head_state().items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        head = self.head_state()
        frozen = {name: value for name, value in self.state_dict().items() if name not in head}
        checkpoint["state_dict"] = {**frozen, **checkpoint["state_dict"]}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        seeds.seed_global(self.seed, "step", batch_idx, self.global_rank)


def cls_or_mean(tokens: Tokens) -> Tensor:
    """One vector per image (B, D): CLS, or the mean of the patches for a model without CLS."""
    return tokens.cls if tokens.cls is not None else tokens.patches.mean(dim=(1, 2))
