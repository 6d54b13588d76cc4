"""Convolutional and hierarchical models of timm as backbones: the last feature map as patches, and those of all stages.

Any model of timm with `forward_intermediates` and square maps will do: ConvNeXt, Swin, MambaOut, MaxViT, ResNet,
EfficientNet, and so on. Evaluations that need tokens alone take the last map, as of any model without CLS.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.norm import LayerNorm2d, LayerNorm2dFp32, RmsNorm, RmsNorm2d, RmsNorm2dFp32, RmsNormFp32
from timm.models.naflexvit import NaFlexVit
from torch import Tensor, nn

from regvit_lightning.errors import UserError, one_line
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.models.transform import SHARE

CHANNELS_FIRST = (LayerNorm2d, LayerNorm2dFp32, RmsNorm2d, RmsNorm2dFp32)
NORMS = (nn.LayerNorm, RmsNorm, RmsNormFp32, *CHANNELS_FIRST)  # those that treat every cell of a map by itself


@dataclass(frozen=True)
class StageMaps:
    """Feature maps of B images.

    Attributes:
        stem: (B, h, w, D), output of the stem or the patch embedding; of a model without such a module its first map.
        stages: one (B, h, w, D) for each stage, as the stage leaves it.
        normed: the same after the norm that follows the stage, see `FeatureMaps.norms`; None where there is none.
    """

    stem: Tensor
    stages: list[Tensor]
    normed: list[Tensor | None]


class FeatureMaps(Backbone):
    """A model of timm that is no plain ViT, behind the `Tokens` contract: one block, no CLS, no registers.

    Its patches are the cells of the last stage's map: after the norm that follows it, or with `norm=False` before it.

    Args:
        model: a model of timm with `forward_intermediates`; it is frozen in place, not copied.
        name, image_size, mean, std, share: see `Backbone`.

    Attributes:
        channels, reductions: width of each stage, and the side in pixels of the image patch behind a cell of its map.
        norms: the norm that follows each stage and treats cells one by one: that of the next stage's downsampling where
            it has the width of this stage (ConvNeXt), or the final norm, which some models apply after pooling. None
            where there is no such norm: Swin's patch merging normalises four cells at once, MaxViT has none between
            stages, and batch norms are no norm of a cell.

    Raises:
        UserError: a model that gives no square feature maps.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        share: float = SHARE,
    ) -> None:
        super().__init__(model, name, image_size, mean, std, share=share)
        self.depth, self.num_registers, self.has_cls = 1, 0, False
        self.patch_size, self.any_size, self._norms = 1, True, list[nn.Module | None]()
        maps = self._tried(image_size)
        self.channels = [part.shape[-1] for part in maps.stages]
        self.reductions = [image_size // part.shape[1] for part in maps.stages]
        self.embed_dim, self.patch_size = self.channels[-1], self.reductions[-1]
        self._norms = [_norm_after(model, index, self.channels) for index in range(len(self.channels))]
        self.any_size = self._accepts(image_size + 2 * self.patch_size)

    @property
    def norms(self) -> list[nn.Module | None]:
        """Norm after each stage; a list of references, not submodules, so that no tensor is listed twice."""
        return list(self._norms)

    def facts(self) -> dict[str, Any]:
        stages = [
            {"channels": channels, "pixels": pixels, "norm": type(norm).__name__ if norm is not None else None}
            for channels, pixels, norm in zip(self.channels, self.reductions, self._norms, strict=True)
        ]
        tokens = "cells of the last stage's feature map"
        return {**super().facts(), "positions": "the model's own", "tokens": tokens, "stages": stages}

    def stage_maps(self, images: Tensor) -> StageMaps:
        """Feature maps of all stages of normalised images (B, 3, H, W) in one forward pass.

        Raises:
            UserError: a size that the model does not support, or a map that is not finite.
        """
        self._check(images)
        maps = self._maps(images)
        whole = [(f"of stage {index}", part) for index, part in enumerate(maps.stages, 1)]
        self._require_finite((Tokens(None, part[:, :0, 0], part), where) for where, part in whole)
        return maps

    def windows(self) -> list[tuple[int, int] | None]:
        """Side in cells and shift of the attention windows of each stage; None for a stage without windows.

        The windows of a stage start at the upper left of its map. Shifted ones (Swin) start `shift` cells further on.
        """
        stages = _stage_modules(self.model)
        return [_windows(stages[index]) if index < len(stages) else None for index in range(len(self.channels))]

    def _tokens(self, images: Tensor, blocks: Sequence[int], norm: bool) -> list[Tokens]:
        self._check(images)
        for index in blocks:
            self._check_block(index)
        maps = self._maps(images)
        normed = maps.normed[-1]
        last = maps.stages[-1] if normed is None or not norm else normed
        return [Tokens(None, last[:, :0, 0], last)] * len(blocks)

    def _maps(self, images: Tensor) -> StageMaps:
        with _output_of(_stem(self.model)) as stem:
            given = self.model.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
        stages = [part.permute(0, 2, 3, 1) for part in given]
        first = _as_map(stem[0], getattr(self.model, "output_fmt", "NCHW"), stages[0]) if stem else None
        known = len(_stage_modules(self.model))
        listed = len(stages) > known if known else first is None or _same(first, stages[0])
        if first is None or listed:  # of MaxViT and ResNet the first map is that of the stem
            first, stages = stages[0], stages[1:]
        pairs = zip(stages, self._norms or [None] * len(stages), strict=True)
        return StageMaps(first, stages, [None if norm is None else _normed(norm, part) for part, norm in pairs])

    @torch.no_grad()
    def _tried(self, size: int) -> StageMaps:
        """Maps of noise, in which no two maps are alike; the model's own complaint becomes one line."""
        some = next(self.model.parameters())
        noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(some)
        try:
            maps = self._maps(noise)
        except Exception as error:  # whatever a model of timm raises
            raise UserError(f"{self.name}: gives no feature maps at {size} px: {one_line(error)}") from None
        sides = [part.shape[1:3] for part in maps.stages]
        if not sides or any(rows != columns or size % rows for rows, columns in sides):
            shapes = [tuple(part.shape) for part in maps.stages]
            raise UserError(f"{self.name}: its feature maps {shapes} are no square grids that divide {size} px")
        return maps

    def _accepts(self, size: int) -> bool:
        try:
            self._tried(size)
        except UserError:
            return False
        return True


def check_maps(model: nn.Module, name: str) -> None:
    """Raise `UserError` unless `model` gives feature maps."""
    if isinstance(model, NaFlexVit):
        raise UserError(
            f"{name}: a NaFlexVit is a ViT that is not read here; take the model of timm's VisionTransformer"
        )
    if not hasattr(model, "forward_intermediates"):
        kind, plain = type(model).__name__, "a plain ViT (timm's VisionTransformer, Eva or Beit)"
        raise UserError(f"{name}: a {kind} is neither {plain} nor a model that gives feature maps in timm")


@contextmanager
def replicate_padding(model: nn.Module) -> Iterator[int]:
    """Context in which convolutions continue a map beyond its border instead of padding it with zeros.

    Yields:
        The number of convolutions that this changes. Those that compute their padding from the size of the map
        (TensorFlow's "same") and attention windows that are filled up with zeros stay as they are.
    """
    padded = [
        module
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros" and any(_padding(module))
    ]
    try:
        for module in padded:
            module.padding_mode = "replicate"
        yield len(padded)
    finally:
        for module in padded:
            module.padding_mode = "zeros"


def _padding(convolution: nn.Conv2d) -> tuple[int, ...]:
    return tuple(convolution._reversed_padding_repeated_twice)


@contextmanager
def _output_of(module: nn.Module | None) -> Iterator[list[Any]]:
    outputs: list[Any] = []
    handle = None if module is None else module.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        yield outputs
    finally:
        if handle is not None:
            handle.remove()


def _stem(model: Any) -> nn.Module | None:
    """Stem or patch embedding of the first stage, by the names that timm's models give it; None if there is none."""
    several = getattr(model, "patch_embeds", None)
    first = several[0] if isinstance(several, nn.ModuleList) and len(several) else None
    named = [getattr(model, name, None) for name in ("stem", "patch_embed", "patch_embed1")]
    return next((module for module in (*named, first) if isinstance(module, nn.Module)), None)


def _as_map(output: Any, layout: str, like: Tensor) -> Tensor | None:
    """Output of a stem as (B, h, w, D): a map, or a sequence of the cells of a map `like`; None if it is neither.

    A map has its channels last if only its first two sides have the aspect of `like`, or if that is the model's layout.
    """
    output = output[0] if isinstance(output, tuple) and output else output
    if isinstance(output, Tensor) and output.ndim == 3 and output.shape[1] == like.shape[1] * like.shape[2]:
        return output.unflatten(1, like.shape[1:3])
    if not isinstance(output, Tensor) or output.ndim != 4:
        return None
    first, last = (_alike(sides, like.shape[1:3]) for sides in (output.shape[2:], output.shape[1:3]))
    return output if last and (layout == "NHWC" or not first) else output.permute(0, 2, 3, 1)


def _alike(sides: Sequence[int], others: Sequence[int]) -> bool:
    """Whether two maps have the same aspect, and the first at least as many cells."""
    return sides[0] * others[1] == sides[1] * others[0] and sides[0] >= others[0]


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and (one.is_meta or bool(torch.equal(one, other)))  # values unknown: shapes decide


def _stage_modules(model: Any) -> list[nn.Module]:
    stages = getattr(model, "stages", getattr(model, "layers", None))
    return list(stages) if isinstance(stages, (nn.Sequential, nn.ModuleList)) else []


def _norm_after(model: Any, index: int, channels: Sequence[int]) -> nn.Module | None:
    """Norm of single cells that follows a stage, see `FeatureMaps.norms`."""
    stages = _stage_modules(model)
    if index == len(channels) - 1:
        head = getattr(model, "head", None)
        candidates = [getattr(model, "norm_pre", None), getattr(model, "norm", None), getattr(head, "norm", None)]
    elif len(stages) == len(channels):
        following = getattr(stages[index + 1], "downsample", None)
        first = following[0] if isinstance(following, nn.Sequential) and len(following) else following
        candidates = [first, getattr(first, "norm", None)]
    else:
        candidates = []
    return next((norm for norm in candidates if _fits(norm, channels[index])), None)


def _fits(norm: Any, width: int) -> bool:
    """Whether `norm` normalises single cells of this width."""
    weight = getattr(norm, "weight", None)
    return isinstance(norm, NORMS) and weight is not None and tuple(weight.shape) == (width,)


def _normed(norm: nn.Module, maps: Tensor) -> Tensor:
    """Apply a norm of single cells to maps (B, h, w, D), whatever layout it takes."""
    if isinstance(norm, CHANNELS_FIRST):
        first: Tensor = norm(maps.permute(0, 3, 1, 2))
        return first.permute(0, 2, 3, 1)
    last: Tensor = norm(maps)
    return last


def _windows(stage: nn.Module) -> tuple[int, int] | None:
    sizes: list[tuple[int, int]] = []
    for module in stage.modules():
        size = getattr(module, "window_size", getattr(module, "partition_size", None))
        if size is not None and hasattr(module, "attn"):
            shift = getattr(module, "shift_size", 0)
            sizes.append((_side(size), _side(shift)))
    return max(sizes) if sizes else None  # of equal windows the shifted ones, which tell the shift


def _side(size: Any) -> int:
    return int(size[0] if isinstance(size, (tuple, list)) else size)
