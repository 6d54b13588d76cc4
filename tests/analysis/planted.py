"""A random nano model in which one MLP neuron writes a large vector at flat patches, and images with such patches.

The construction follows the register neurons of Jiang et al. 2025 (arXiv 2506.08010): what they write, where and after
which block is known exactly.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.models import vit
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.vit_backbone import ViTBackbone
from regvit_lightning.runtime import seeds

GREY, CONTRAST = 128, 64  # of textured patches in uint8; a flat patch is one contrast brighter than grey
SIDE = 64  # pixels; 8 x 8 patches
DIMENSION = 17  # the largest component of what the neuron writes


@dataclass(frozen=True)
class Planted:
    """A model with a neuron in `block` (1..depth), its images, and the truth about them.

    Attributes:
        images: (N, 3, 64, 64) uint8.
        flat: (N, 8, 8) boolean: where the neuron fires.
    """

    backbone: Backbone
    clean: Backbone
    images: Tensor
    flat: Tensor
    block: int

    def normalised(self) -> Tensor:
        return (self.images.float() / 255 - 0.5) / 0.25


def planted(block: int = 3, registers: int = 4, images: int = 16, per_image: int = 2, seed: int = 0) -> Planted:
    """A model with the neuron, the same model without it, and images with `per_image` flat patches each."""
    generator = seeds.generator(seed, "planted")
    direction = torch.randn(96, generator=generator) / 30
    direction[DIMENSION] = 1
    direction = F.normalize(direction, dim=0)
    clean, flat_direction = _model(registers, seed, generator)
    model, _ = _model(registers, seed, seeds.generator(seed, "planted"))
    model.load_state_dict(clean.state_dict())
    _plant(model, block, flat_direction, 500 * direction)
    pixels, flat = _images(images, per_image, generator)
    facts = (SIDE, (0.5,) * 3, (0.25,) * 3)
    planted = ViTBackbone(model, "planted", *facts)
    return Planted(planted, ViTBackbone(clean, "clean", *facts), pixels, flat, block)


def _model(registers: int, seed: int, generator: torch.Generator) -> tuple[vit.RegisterViT, Tensor]:
    """A random model whose embedding of a flat patch points along a direction, and that direction (D,)."""
    with seeds.drawn_from(seed, "initialise"):
        model = vit.build(f"vitn_reg{registers}", image_size=SIDE)
    weight = model.patch_embed.proj.weight.data.flatten(1)
    reading = torch.randn(96, generator=generator)
    reading = F.normalize(reading - reading.mean(), dim=0)
    # As long as the embedding of a textured patch, so that nothing stands out before the neuron.
    length = weight.norm()
    weight += (length * reading - weight.sum(dim=1))[:, None] / weight.shape[1]
    model.patch_embed.proj.bias.data.zero_()
    return model, reading


def _plant(model: vit.RegisterViT, block: int, reading: Tensor, written: Tensor) -> None:
    """Neuron 0 of the block's MLP: GELU(40 (cos - 0.75)), about 10 at a flat patch and 0 at any other."""
    mlp = model.blocks[block - 1].mlp
    mlp.fc1.weight.data[0] = 40 * reading / 96**0.5
    mlp.fc1.bias.data[0] = -40 * 0.75
    mlp.fc2.weight.data[:, 0] = written / 10


def _images(count: int, per_image: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Textures are four patterns at contrasts from a uniform distribution, which has no tail of its own."""
    patterns = torch.randint(0, 2, (4, 3, 8, 8), generator=generator) * 2 - 1
    texture = patterns[torch.randint(0, 4, (count, 64), generator=generator)]
    contrast = torch.randint(CONTRAST - 20, CONTRAST + 21, (count, 64, 1, 1, 1), generator=generator)
    flat = torch.rand(count, 64, generator=generator).argsort(dim=1) < per_image
    patches = torch.where(flat[..., None, None, None], CONTRAST, texture * contrast) + GREY
    rows = patches.view(count, 8, 8, 3, 8, 8).permute(0, 3, 1, 4, 2, 5)
    return rows.reshape(count, 3, SIDE, SIDE).to(torch.uint8), flat.view(count, 8, 8)
