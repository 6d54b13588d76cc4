"""Speed of this machine, measured on one transformer block in about a second; and formatting of durations."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from regvit_lightning.work import Pass

if TYPE_CHECKING:
    from regvit_lightning.models.backbone import Backbone

AIM = {"cpu": 1e10, "cuda": 2e12}  # FLOPs of one call, which occupy the device for a tenth of a second or less
BUDGET = 0.5  # seconds of calls
MOST_CALLS = 20


@dataclass(frozen=True)
class BlockShape:
    """Shapes of one ViT block at work.

    Attributes:
        width: dimension D of the tokens.
        heads: number of attention heads.
        hidden: width of the MLP's hidden layer.
        tokens: number of tokens T of an image.
        trained: forward and backward pass, else only the forward pass.
    """

    width: int
    heads: int
    hidden: int
    tokens: int
    trained: bool

    @property
    def flops(self) -> float:
        """FLOPs of one image: twice T (4 D² + 2 D hidden) + 2 T² D multiply-adds, three times that if trained."""
        macs = self.tokens * self.width * (4 * self.width + 2 * self.hidden + 2 * self.tokens)
        return 2.0 * macs * (3 if self.trained else 1)


def tokens_of(backbone: "Backbone", images: Pass) -> int:
    """Number of tokens T of an image of a pass: CLS, registers and patches."""
    return backbone.has_cls + backbone.num_registers + _patches(backbone, images)


def shape_of(backbone: "Backbone", images: Pass) -> BlockShape:
    """Shape of a ViT's block for images of a pass.

    Raises:
        UserError: the backbone is not a ViT (raised by `linears`).
    """
    hidden, width = max(linear.out_features for linear in backbone.linears()), backbone.embed_dim
    heads = getattr(backbone.model.blocks[0].attn, "num_heads", max(width // 64, 1))
    return BlockShape(width, heads, hidden, tokens_of(backbone, images), images.trained)


def flops(backbone: "Backbone", images: Pass) -> float:
    """FLOPs of all images of a pass: twice the multiply-adds, three times that if the backbone is trained."""
    from regvit_lightning.analysis import cost
    from regvit_lightning.models.feature_maps import FeatureMaps

    if isinstance(backbone, FeatureMaps):
        macs = cost.macs_of_maps(backbone, *_whole(backbone, images))
    else:
        macs = cost.macs_of_patches(backbone, backbone.num_registers, _patches(backbone, images))
    return 2.0 * (macs + images.more_macs) * images.images * (3 if images.trained else 1)


def _patches(backbone: "Backbone", images: Pass) -> int:
    height, width = _whole(backbone, images)
    return (height // backbone.patch_size) * (width // backbone.patch_size)


def _whole(backbone: "Backbone", images: Pass) -> tuple[int, int]:
    """Height and width of images of a pass in pixels, up to whole patches."""
    patch = backbone.patch_size
    return -(-images.height // patch) * patch, -(-images.width // patch) * patch


def block_speed(shape: BlockShape, most_images: int, precision: str = "auto") -> float:
    """Measure the FLOP/s of this machine, or its first GPU, on one block of random weights; takes a second or two.

    Args:
        shape: shape of the block. Fewer tokens are computed if an image takes a CPU too long.
        most_images: maximum batch size; reduced if fewer images fill the device.
        precision: precision as in settings.
    """
    from regvit_lightning.runtime import hardware

    device = hardware.accelerator()
    shape = replace(shape, tokens=max(int(shape.tokens * min(AIM[device] / shape.flops, 1)), 1))
    images = int(min(max(AIM[device] / shape.flops, 1), most_images))
    step = _step(shape, images, device, hardware.precision(precision))
    return images * shape.flops / _seconds(step)


def _step(shape: BlockShape, images: int, device: str, precision: str) -> Callable[[], object]:
    """Timed step: forward pass of the block, and backward if trained, with device synchronisation."""
    import torch
    from timm.models.vision_transformer import Block

    from regvit_lightning.runtime import hardware

    with torch.random.fork_rng(devices=[]):  # keeps the random state of the training unchanged
        block: Any = Block(shape.width, shape.heads, mlp_ratio=shape.hidden / shape.width).to(device)
        tokens = torch.randn(images, shape.tokens, shape.width).to(device).requires_grad_(shape.trained)
    block.attn.fused_attn = device == "cuda" or not shape.trained  # as in recipes: its backward pass is slow on CPUs

    def step() -> None:
        with torch.set_grad_enabled(shape.trained), hardware.autocast(device, precision):
            output = block(tokens)
        if shape.trained:
            output.float().sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def _seconds(step: Callable[[], object]) -> float:
    """Median time of several calls after a warm-up call, or that of the warm-up if it used up the budget."""
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 2 or (len(times) <= MOST_CALLS and time.perf_counter() - begun < BUDGET):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
        if times[0] > BUDGET:
            break
    return statistics.median(times[1:] or times)


def duration(seconds: float) -> str:
    """Format seconds in words, rounded down: `under 1 s`, `36 s`, `3 min`, `2 h 10 min`, `38 days 15 h`, `never`."""
    if seconds == float("inf"):
        return "never"
    minutes, hours = int(seconds / 60), int(seconds / 3600)
    days = hours // 24
    if days:
        return f"{days} day{'s' if days > 1 else ''}" + (f" {hours % 24} h" if hours % 24 else "")
    if hours:
        return f"{hours} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    if minutes:
        return f"{minutes} min"
    return f"{int(seconds)} s" if seconds >= 1 else "under 1 s"
