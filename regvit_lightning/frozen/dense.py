"""Shared code of the dense evaluations: patch features for any image size, windows, and choice of examples."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.frozen.module import Frozen
from regvit_lightning.models.tokens import Tokens


def centre_pad(images: Tensor, multiple: int) -> Tensor:
    """Zero-pad (B, C, H, W) on all sides to multiples of `multiple`; an extra row or column goes below or right.

    This is DINOv2's padding for patch size 14 (dinov2, hubconf and evaluation notebooks): 512 becomes 518, 480 × 640
    becomes 490 × 644.
    """
    height, width = images.shape[-2:]
    rows, columns = -height % multiple, -width % multiple
    if not rows and not columns:
        return images
    return F.pad(images, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


def features(frozen: Frozen, images: Tensor, blocks: Sequence[int], norm: bool, device_batch: int) -> list[Tokens]:
    """Tokens of normalised images (B, 3, H, W) of any size, centre-padded, `device_batch` images per forward pass.

    Args:
        blocks, norm: as for `Backbone.forward`.

    Returns:
        One `Tokens` for each block, float32, of all images.
    """
    padded = centre_pad(images, frozen.backbone.patch_size)
    parts = [frozen(part, blocks, norm) for part in padded.split(device_batch)]
    return [_joined(block) for block in zip(*parts, strict=True)]


def _joined(parts: Sequence[Tokens]) -> Tokens:
    if len(parts) == 1:
        return parts[0]
    cls = [part.cls for part in parts if part.cls is not None]
    registers, patches = torch.cat([p.registers for p in parts]), torch.cat([p.patches for p in parts])
    return Tokens(torch.cat(cls) if cls else None, registers, patches)


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Start offsets of windows along a side, as in mmsegmentation: `stride` apart, the last flush with the end."""
    return [min(start, length - window) for start in range(0, max(length - window + stride, 1), stride)]


def by_score(scores: Sequence[float], better: int) -> dict[str, int]:
    """Indices of the images with the worst, the median and the best score; fewer where there are fewer images.

    Args:
        scores: one for each image; NaN where an image has none, and at least one number.
        better: +1 if higher is better, -1 if lower is.
    """
    ordered = sorted((index for index, score in enumerate(scores) if score == score), key=lambda i: better * scores[i])
    chosen = {"worst": ordered[0], "median": ordered[(len(ordered) - 1) // 2], "best": ordered[-1]}
    return {name: index for name, index in chosen.items() if name == "worst" or index != ordered[0]}


def examples(images: int, wanted: int = 4) -> list[int]:
    """Indices of the test images shown in a picture: `wanted` of them, evenly spread, or all if there are fewer."""
    wanted = min(wanted, images)
    return [index * images // wanted for index in range(wanted)]
