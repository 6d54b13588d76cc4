"""What an estimate of a task's memory is made from, and what it says: bytes of its parts on device and host."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.feature_maps import FeatureMaps
from regvit_lightning.tasks.footprint import pieces
from regvit_lightning.tasks.footprint.pieces import FLOAT, PIXEL
from regvit_lightning.work import ImageCounts, Pass, Work

PROCESS = 800 << 20  # bytes: Python, torch, Lightning and what they load
MOST_WAITING = 2 << 30  # bytes of the batches that wait for the device, see `data/workers.py`


@dataclass(frozen=True)
class Shape:
    """What the memory of a task depends on in a model.

    Attributes:
        width: D.
        depth: number of blocks.
        hidden: width of the hidden layer of a block.
        heads: of attention.
        patch: side of a patch in pixels.
        registers: R.
        prefix: tokens before the patches: CLS and registers.
        parameters: number of parameters.
    """

    width: int
    depth: int
    hidden: int
    heads: int
    patch: int
    registers: int
    prefix: int
    parameters: int

    def patches(self, height: int, width: int) -> int:
        """Number of patches of an image, up to whole ones."""
        return -(-height // self.patch) * -(-width // self.patch)


def shape_of(backbone: Backbone) -> Shape:
    """The shape of a backbone, whose weights need not be there.

    Raises:
        UserError: a model of which only tokens are known (raised by `linears`).
    """
    hidden, usual = _hidden(backbone), max(backbone.embed_dim // 64, 1)
    first = None if isinstance(backbone, FeatureMaps) else backbone.model.blocks[0]
    return Shape(
        width=backbone.embed_dim,
        depth=backbone.depth,
        hidden=hidden,
        heads=getattr(getattr(first, "attn", None), "num_heads", usual),
        patch=backbone.patch_size,
        registers=backbone.num_registers,
        prefix=backbone.has_cls + backbone.num_registers,
        parameters=sum(value.numel() for value in backbone.parameters()),
    )


def _hidden(backbone: Backbone) -> int:
    """Width of a block's hidden layer; of a model with stages four times its largest map, per cell of the last one."""
    if isinstance(backbone, FeatureMaps):
        cells = (backbone.patch_size // side for side in backbone.reductions)
        return 4 * max(width * cells_a_side**2 for width, cells_a_side in zip(backbone.channels, cells, strict=True))
    return max(linear.out_features for linear in backbone.linears())


@dataclass(frozen=True)
class Part:
    """Bytes of one part of a task beside what it keeps: on the device, and on the host."""

    device: int
    host: int = 0


@dataclass(frozen=True)
class Footprint:
    """Estimated peak memory of a task in bytes.

    Attributes:
        parts: by name; weights, and what is kept through all parts, are included.
    """

    parts: Mapping[str, Part]

    @property
    def largest(self) -> str:
        """Name of the part that needs the most."""
        return max(self.parts, key=lambda name: self.parts[name].device + self.parts[name].host)

    @property
    def device(self) -> int:
        """Of a GPU."""
        return max(part.device for part in self.parts.values())

    @property
    def host(self) -> int:
        """Of the machine beside its GPU: the process, and batches that wait."""
        return PROCESS + max(part.host for part in self.parts.values())

    @property
    def together(self) -> int:
        """Of a machine without a GPU."""
        return PROCESS + max(part.device + part.host for part in self.parts.values())


@dataclass(frozen=True)
class Case:
    """What an estimate is made from.

    Attributes:
        settings: of the task.
        images: number of images of each set.
        classes: number of classes of the set that the task reads.
        model: shape of the model.
        work: images that the task passes through the model.
        half: features are computed in 16 bit.
    """

    settings: Any
    images: ImageCounts
    classes: int
    model: Shape
    work: Work
    half: bool

    @property
    def width(self) -> int:
        """D."""
        return self.model.width

    def patches(self) -> int:
        """Patches of the largest image that the task reads."""
        return max((self.model.patches(one.height, one.width) for one in self.work.passes), default=0)

    def forward(self, batch: int = 0, blocks: int = 1) -> int:
        """Bytes of a forward pass of `batch` images, by default `device_batch`, with the tokens of `blocks` blocks."""
        return max(
            (self.forward_of(one, batch or self.settings.device_batch, blocks) for one in self.work.passes), default=0
        )

    def forward_of(self, images: Pass, batch: int, blocks: int = 1) -> int:
        """Bytes of a forward pass of `batch` images of one size, with the tokens of `blocks` blocks."""
        model = self.model
        tokens = batch * (model.prefix + model.patches(images.height, images.width))
        pixels = batch * images.height * images.width
        return pieces.forward(tokens, model.width, model.hidden, pixels, self.half, blocks)

    def waiting(self) -> int:
        """Bytes of batches that workers have decoded."""
        pixels = max((one.height * one.width for one in self.work.passes), default=0)
        batch = self.settings.device_batch * PIXEL * pixels
        return min(2 * self.settings.workers * batch, MOST_WAITING)

    def footprint(self, kept: int = 0, host: int = 0, **parts: "int | Part") -> Footprint:
        """Footprint from bytes kept on device and host through all parts, and those of the parts."""
        weights = FLOAT * self.model.parameters
        every = {name: Part(part) if isinstance(part, int) else part for name, part in parts.items()}
        host += self.waiting()
        return Footprint({name: Part(weights + kept + part.device, host + part.host) for name, part in every.items()})
