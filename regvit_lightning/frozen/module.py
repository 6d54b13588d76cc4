"""A LightningModule that holds a frozen backbone: features without a graph in the protocol's precision."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from regvit_lightning.data.transforms import normalise
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.runtime import hardware, seeds
from regvit_lightning.runtime.scheduled import ScheduledModule


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
        with self.autocast(images):
            outputs = self.backbone(images, blocks, norm)
        return [Tokens(_ordinary(t.cls), _ordinary(t.registers), _ordinary(t.patches)) for t in outputs]

    @contextmanager
    def autocast(self, images: Tensor) -> Iterator[None]:
        """Inside, the backbone computes without a graph and in the protocol's precision on the device of `images`."""
        with torch.inference_mode(), hardware.autocast(images.device.type, self.precision):
            yield


def _ordinary(tokens: Any) -> Any:
    # A backward pass cannot keep tensors of the inference mode: a copy made outside of it is an ordinary one.
    return None if tokens is None else tokens.to(torch.float32, copy=True)


class FrozenModule(ScheduledModule):
    """A LightningModule around a frozen backbone.

    Checkpoints hold the head alone, with what a subclass gives to `save_hyperparameters`: everything that it needs but
    the backbone, so that `load_from_checkpoint(path, backbone=backbone)` builds it again.

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

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        head = self.head_state()
        frozen = {name: value for name, value in self.state_dict().items() if name not in head}
        checkpoint["state_dict"] = {**frozen, **checkpoint["state_dict"]}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        seeds.seed_global(self.seed, "step", batch_idx, self.global_rank)


def cls_or_mean(tokens: Tokens) -> Tensor:
    """One vector per image (B, D): CLS, or the mean of the patches for a model without CLS."""
    return tokens.cls if tokens.cls is not None else tokens.patches.mean(dim=(1, 2))
