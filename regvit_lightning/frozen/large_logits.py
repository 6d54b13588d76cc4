"""Logits at the size of the image, a part at a time: their loss, and their largest class.

At 512 pixels the logits of 150 classes take 157 MB an image and pass through memory a dozen times, for a third of the
time of a ViT-B on a CPU. Here a part of them that fits into a cache is upsampled, used and forgotten. The values are
those of the whole but for rounding: sums are taken in another order, and rows are interpolated before columns.
Where all logits are below `SMALL`, callers compute them whole, with the bits of earlier versions.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SMALL = 64 * 2**20  # bytes of float32 logits at the size of the images
TILE = 16 * 2**20  # bytes of those of one part

Window = tuple[slice, slice]


def is_large(images: int, classes: int, height: int, width: int) -> bool:
    """Whether logits (images, classes, height, width) in float32 are better handled in parts."""
    return 4 * images * classes * height * width > SMALL


# --------------------------------------------------------------------------------------------------------- loss


def cross_entropy_sum(logits: Tensor, labels: Tensor, ignored: int) -> Tensor:
    """Cross-entropy of the bilinearly upsampled logits, summed over all labelled pixels; differentiable once.

    Args:
        logits: (B, K, h, w).
        labels: (B, H, W) class indices.
        ignored: label of pixels that do not count.
    """
    total: Tensor = _CrossEntropySum.apply(logits, labels, ignored)
    return total


class _CrossEntropySum(torch.autograd.Function):
    """The gradient is computed together with the value, part by part, so that nothing is kept at full size."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, ignored: int) -> Tensor:
        total, gradient = logits.new_zeros(()), torch.zeros_like(logits)
        for image in range(len(logits)):
            for rows in tiles(logits.shape[1], *labels.shape[1:]):
                with torch.enable_grad():
                    own = logits[image : image + 1].detach().requires_grad_()
                    fine = upsampled_rows(own, rows, labels.shape[1:])
                    flat = fine.permute(0, 2, 3, 1).flatten(0, 2)
                    wanted = labels[image, rows].flatten()
                    loss = F.cross_entropy(flat, wanted, ignore_index=ignored, reduction="sum")
                    gradient[image] += torch.autograd.grad(loss, own)[0][0]
                total += loss.detach()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * gradients[0], None, None


def tiles(classes: int, height: int, width: int) -> Iterator[slice]:
    """Rows of an image, in parts whose logits are at most `TILE` bytes, and at least one row each."""
    at_once = max(TILE // (4 * classes * width), 1)
    for first in range(0, height, at_once):
        yield slice(first, min(first + at_once, height))


def upsampled_rows(logits: Tensor, rows: slice, size: Sequence[int]) -> Tensor:
    """The rows `rows` of `F.interpolate(logits, size, mode="bilinear")`, (B, K, rows, W), for logits (B, K, h, w)."""
    below, above, share = _neighbours(logits.shape[2], size[0], rows, logits)
    part = torch.lerp(logits[:, :, below], logits[:, :, above], share[:, None])
    part = part.contiguous(memory_format=torch.channels_last)  # the classes of a pixel side by side
    return F.interpolate(part, (len(below), size[1]), mode="bilinear", align_corners=False)


def _neighbours(short: int, tall: int, rows: slice, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two rows of `short` for each of the rows of `tall`, and the share of the second; pixel centres correspond."""
    centres = (torch.arange(rows.start, rows.stop, dtype=torch.float64) + 0.5) * (short / tall) - 0.5
    places = centres.clamp(min=0)
    below = places.long().clamp(max=short - 1)
    share = (places - below).to(like)
    return below.to(like.device), (below + 1).clamp(max=short - 1).to(like.device), share


# ------------------------------------------------------------------------------------------------ largest class


def largest_class(
    logits: Sequence[Tensor], windows: Sequence[Window], image: Sequence[int], size: Sequence[int]
) -> Tensor:
    """Class with the largest logit at each pixel (H', W'): windows upsampled, averaged where they overlap, and resized.

    Args:
        logits: (K, h, w) of each window, upsampled bilinearly to the window.
        windows: rows and columns of the image that each window covers; together all of it.
        image: H, W of the image in which the windows lie.
        size: H', W' of the result, to which the averaged logits are resized bilinearly.
    """
    count = logits[0].new_zeros(*image)
    for window in windows:
        count[window] += 1
    best = logits[0].new_full(tuple(size), -torch.inf)
    found = torch.zeros(*size, dtype=torch.long, device=best.device)
    at_once = max(TILE // (4 * max(image[0] * image[1], size[0] * size[1])), 1)
    for first in range(0, len(logits[0]), at_once):
        total = _averaged([one[first : first + at_once] for one in logits], windows, count)
        if tuple(size) != tuple(image):
            total = F.interpolate(total[None], tuple(size), mode="bilinear", align_corners=False)[0]
        for number, own in enumerate(total, first):
            found.masked_fill_(own > best, number)  # the first of equal ones stays, as with argmax
            torch.maximum(best, own, out=best)
    return found


def _averaged(logits: Sequence[Tensor], windows: Sequence[Window], count: Tensor) -> Tensor:
    """Logits (k, H, W) of some classes: the mean over the windows that cover a pixel."""
    total = logits[0].new_zeros(len(logits[0]), *count.shape)
    for own, (rows, columns) in zip(logits, windows, strict=True):
        sides = rows.stop - rows.start, columns.stop - columns.start
        total[:, rows, columns] += F.interpolate(own[None], sides, mode="bilinear", align_corners=False)[0]
    return total.div_(count)
