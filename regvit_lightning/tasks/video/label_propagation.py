"""Propagation of labels between frames: each patch takes the labels of the most similar patches of earlier frames.

Source: Jabri et al. 2020 (arXiv 2006.14613), as used by Caron et al. 2021 (DINO, arXiv 2104.14294, section 4.2.2, and
eval_video_segmentation.py) and Siméoni et al. 2025 (DINOv3, arXiv 2508.10104, and its notebook of segmentation
tracking).
"""

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SHAPES = ("square", "circle")
UPSAMPLING = ("bilinear", "nearest")
AFFINITIES = 16_000_000  # similarities in memory at a time: 64 MB


@dataclass(frozen=True)
class Rule:
    """How labels are propagated.

    Attributes:
        context: earlier frames that are keys, beside the first one.
        radius: a patch is compared with those at most so many patches away; the distance is that of `shape`.
        shape: `square`, the larger of the distances along rows and columns; or `circle`, the Euclidean one.
        neighbours: keys whose labels a patch takes.
        temperature: of the softmax over their cosines.
    """

    context: int
    radius: int
    shape: str
    neighbours: int
    temperature: float


@dataclass(frozen=True)
class Frame:
    """A frame whose labels are known or were propagated.

    Attributes:
        number: index of the frame.
        features: (h, w, D), of length 1.
        labels: (h, w, C), shares of the C classes.
    """

    number: int
    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Propagated:
    """Labels of a frame, and which patches they come from.

    Attributes:
        labels: (h, w, C), shares of the C classes.
        frames: (h, w, k), index of the frame of each of the k keys.
        patches: (h, w, k), index of its patch, row-major.
        weights: (h, w, k), summing to 1; 0 where a patch has fewer than k neighbours.
    """

    labels: Tensor
    frames: Tensor
    patches: Tensor
    weights: Tensor


class Propagation:
    """Labels of the frames of one video, one after the other.

    Args:
        rule: how labels are propagated.
        features: (h, w, D) of the first frame.
        labels: (h, w, C), its labels.
    """

    def __init__(self, rule: Rule, features: Tensor, labels: Tensor) -> None:
        self.rule = rule
        self._first = Frame(0, F.normalize(features, dim=-1), labels)
        self._recent: deque[Frame] = deque(maxlen=rule.context)
        self._number = 0

    def __call__(self, features: Tensor) -> Propagated:
        """Propagate to the next frame with features (h, w, D), which then is a key of those that follow."""
        queries, keys = F.normalize(features, dim=-1), [self._first, *self._recent]
        result = propagate(self.rule, queries, keys)
        self._number += 1
        self._recent.append(Frame(self._number, queries, result.labels))
        return result


def propagate(rule: Rule, queries: Tensor, keys: list[Frame]) -> Propagated:
    """Labels of the patches `queries` (h, w, D) of length 1 from those of the frames `keys`.

    Whole rows of patches are compared at a time, with the rows of the keys within the radius, so that memory does not
    grow with the square of the number of patches. Of equally similar keys, any are taken.
    """
    height, width = queries.shape[:2]
    reach = min(2 * rule.radius + 1, height)
    rows = min(max(AFFINITIES // (width * width * len(keys) * reach), 1), height)
    parts = [_of_rows(rule, queries, keys, start, min(start + rows, height)) for start in range(0, height, rows)]
    return Propagated(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _of_rows(rule: Rule, queries: Tensor, keys: list[Frame], start: int, stop: int) -> tuple[Tensor, ...]:
    """Fields of `Propagated` for the rows `start` to `stop`."""
    height, width = queries.shape[:2]
    first, last = max(start - rule.radius, 0), min(stop + rule.radius, height)
    features = torch.stack([key.features[first:last] for key in keys]).flatten(0, 2)  # (T × rows × w, D)
    labels = torch.stack([key.labels[first:last] for key in keys]).flatten(0, 2)
    far = ~neighbours(rule, height, width, queries.device, slice(start, stop), slice(first, last))
    cosines = queries[start:stop].flatten(0, 1) @ features.T
    cosines.unflatten(1, (len(keys), -1)).masked_fill_(far[:, None], -torch.inf)
    best, index = cosines.topk(min(rule.neighbours, cosines.shape[1]), dim=1)
    weights = (best / rule.temperature).softmax(dim=1)
    taken = torch.einsum("qk,qkc->qc", weights, labels[index])
    patches = (last - first) * width
    numbers = torch.tensor([key.number for key in keys], device=index.device)
    fields = taken, numbers[index // patches], index % patches + first * width, weights
    return tuple(part.unflatten(0, (stop - start, width)) for part in fields)


def neighbours(
    rule: Rule, height: int, width: int, device: torch.device, of: slice = slice(None), among: slice = slice(None)
) -> Tensor:
    """Which patches are within the radius of which, boolean (rows of `of` × w, rows of `among` × w)."""
    down, across = torch.arange(height, device=device), torch.arange(width, device=device)
    rows = (down[of, None] - down[None, among]).abs()[:, None, :, None]
    columns = (across[:, None] - across[None]).abs()[None, :, None, :]
    near = (
        torch.maximum(rows, columns) <= rule.radius
        if rule.shape == "square"
        else rows**2 + columns**2 <= rule.radius**2
    )
    return near.flatten(2, 3).flatten(0, 1)


def to_pixels(labels: Tensor, upsampling: str, grid_pixels: tuple[int, int], pixels: tuple[int, int]) -> Tensor:
    """Class of every pixel, uint8 (H, W), from labels (h, w, C) of patches.

    The shares of a class are scaled to 0..1 over the image before the largest is taken, in both protocols; a class with
    equal shares everywhere has none. `bilinear` decides at the size of the image that the model saw, and takes the
    nearest pixel of that; `nearest` decides at the size of the mask.

    Args:
        labels: shares of the classes, background first.
        upsampling: one of `UPSAMPLING`.
        grid_pixels: height and width of the image that the model saw.
        pixels: height and width of the mask.
    """
    maps = labels.permute(2, 0, 1)[None]
    if upsampling == "nearest":
        return _largest(F.interpolate(maps, pixels, mode="nearest"))
    classes = _largest(F.interpolate(maps, grid_pixels, mode="bilinear", align_corners=False))
    return F.interpolate(classes[None, None].float(), pixels, mode="nearest-exact")[0, 0].byte()


def _largest(maps: Tensor) -> Tensor:
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    scaled = (maps - low) / (high - low).where(high > low, torch.inf)
    return scaled[0].argmax(dim=0).byte()


def to_patches(classes: Tensor, count: int, upsampling: str, grid: tuple[int, int]) -> Tensor:
    """Labels (h, w, `count`) of patches, 0 or 1, from the class (H, W) of the pixel in the middle of each.

    With `nearest` it is the upper left one of torch's interpolation of that name, as in DINOv3's notebook.
    """
    mode = "nearest" if upsampling == "nearest" else "nearest-exact"
    small = F.interpolate(classes[None, None].float(), grid, mode=mode)[0, 0].long()
    return F.one_hot(small, count).float()
