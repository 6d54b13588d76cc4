"""Cost of registers, parameters and multiply-adds against their number (Darcet et al. 2023, fig. 12), and of an arm."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from regvit_lightning.models import names, sources, vit
from regvit_lightning.models.arms import NONE, registry
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.feature_maps import FeatureMaps
from regvit_lightning.models.interventions import WithRegister
from regvit_lightning.models.register_neurons import RegisterNeurons
from regvit_lightning.models.vit_backbone import ViTBackbone

COUNTS = (0, 1, 2, 4, 8, 16)  # of fig. 8


@dataclass(frozen=True)
class Cost:
    """Cost of a model with a given number of registers.

    Attributes:
        registers: number of registers.
        parameters: number of parameters of the backbone, without a classifier.
        macs: multiply-adds of the matrix products of the blocks for one image, see `macs`.
        more_parameters, more_macs: increase in percent over the same model without registers.
    """

    registers: int
    parameters: int
    macs: int
    more_parameters: float
    more_macs: float


def table(backbone: Backbone, image_size: int | None = None, counts: Sequence[int] = COUNTS) -> list[Cost]:
    """Cost of `backbone` for each number of registers, whatever number it has itself.

    Args:
        backbone: any backbone; its weights are not used.
        image_size: side of the image in pixels; by default the native size of the model.
        counts: numbers of registers, one row each.
    """
    size = image_size or backbone.image_size
    learned = backbone.num_registers - backbone.added_registers
    bare = sum(value.numel() for value in backbone.parameters()) - learned * backbone.embed_dim
    base = macs(backbone, 0, size)
    return [
        Cost(
            registers=count,
            parameters=bare + count * backbone.embed_dim,
            macs=macs(backbone, count, size),
            more_parameters=100 * count * backbone.embed_dim / bare,
            more_macs=100 * (macs(backbone, count, size) / base - 1),
        )
        for count in counts
    ]


def macs(backbone: Backbone, registers: int, image_size: int) -> int:
    """Multiply-adds of the matrix products of all blocks for one square image with `registers` registers.

    Every weight matrix of a block meets every token once, and attention takes 2 T² D for T tokens, or what the model's
    arm takes: 12 T D² + 2 T² D per block with an MLP of ratio 4.
    """
    return macs_of_patches(backbone, registers, (image_size // backbone.patch_size) ** 2)


def macs_of_patches(backbone: Backbone, registers: int, patches: int) -> int:
    """Multiply-adds as in `macs`, for an image of `patches` patches, square or not."""
    tokens = backbone.has_cls + registers + patches
    weights = sum(linear.weight.numel() for linear in backbone.linears())
    products = registry.products(backbone.model, tokens, registers)
    return tokens * weights + backbone.depth * products * backbone.embed_dim


def macs_of_maps(backbone: FeatureMaps, height: int, width: int) -> int:
    """Multiply-adds of all convolutions and matrix products of one forward pass, as PyTorch counts them."""
    some = next(backbone.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone.model.forward_intermediates(some.new_zeros(1, 3, height, width), intermediates_only=True)
    return int(counter.get_total_flops()) // 2


@dataclass(frozen=True)
class ArmCost:
    """What an arm costs beyond the plain model with as many registers.

    Attributes:
        arm: name of the arm.
        parameters, macs: more parameters of the backbone, and more multiply-adds of its blocks for one image.
        more_parameters, more_macs: the same in percent of the plain model.
    """

    arm: str
    parameters: int
    macs: int
    more_parameters: float
    more_macs: float


def of_arm(backbone: Backbone, image_size: int | None = None) -> ArmCost | None:
    """Cost of the arm of a model at an image size, by default its own; None for a model without an arm."""
    architecture, size = getattr(backbone.model, "architecture", None), image_size or backbone.image_size
    if architecture is None or architecture.arm == NONE:
        return None
    counts = []
    for arm in (NONE, architecture.arm):
        with torch.device("meta"):
            model = vit.RegisterViT(replace(architecture, arm=arm), backbone.num_registers)
        shape = ViTBackbone(model, arm, size, (0.0,) * 3, (1.0,) * 3)
        counts.append((sum(value.numel() for value in model.parameters()), macs(shape, backbone.num_registers, size)))
    (parameters, products), with_arm = counts
    added, more = with_arm[0] - parameters, with_arm[1] - products
    return ArmCost(architecture.arm, added, more, 100 * added / parameters, 100 * more / products)


def load_shape(name: str, runs: Path, image_size: int = 224) -> Backbone:
    """The model `name` (see `sources.load`) without its weights, which need not exist; a file is loaded with them.

    Raises:
        UserError: no such model.
    """
    plain, intervention = names.intervention(name)
    if intervention is not None:
        shape: Any = load_shape(plain, runs, image_size)
        return WithRegister(shape, RegisterNeurons({})) if intervention.kind == "ttr" else shape
    last = name.rpartition("-")[2]
    if name.startswith("timm/") or ("/" not in name and names.NAME.fullmatch(last)):
        name = f"random-{last if names.NAME.fullmatch(last) else name}"
    if not name.startswith("random-"):
        return sources.load_backbone(name, runs)
    with torch.device("meta"):
        return sources.load_backbone(name, runs, image_size=image_size)
