"""Preprocessing of single images for a model: resize, centre crop, normalisation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from regvit_lightning.data.images import as_rgb
from regvit_lightning.data.transforms import centre_crop, normalise
from regvit_lightning.errors import UserError

SHARE = 224 / 256  # fraction of the resized short side that the crop keeps: the evaluation view of DINOv2 and DeiT

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def statistics(mean: Any, std: Any) -> Statistics:
    """Mean and std per channel as floats, for images in 0..1.

    Raises:
        ValueError: not three numbers each, a mean outside 0..1, or a std outside 0..1 or 0.
    """
    try:
        means, stds = tuple(float(value) for value in mean), tuple(float(value) for value in std)
    except (TypeError, ValueError):
        means, stds = (), ()
    if len(means) != 3 or len(stds) != 3 or isinstance(mean, str) or isinstance(std, str):
        raise ValueError("mean and std are three numbers each")
    if not all(math.isfinite(value) and 0 <= value <= 1 for value in (*means, *stds)) or not all(stds):
        raise ValueError(f"mean {list(means)} and std {list(stds)} are not those of images in 0..1")
    return means, stds


@dataclass(frozen=True)
class Transform:
    """Evaluation view of a model: short side to `resize` pixels (bicubic), then the central `crop` square.

    Attributes:
        resize: short side in pixels before the crop.
        crop: side of the output in pixels.
        mean, std: per channel, for images in 0..1.
    """

    resize: int
    crop: int
    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, image: Image.Image | np.ndarray | Tensor) -> Tensor:
        """Preprocess one image, including normalisation.

        Args:
            image: a PIL image of any mode, or uint8 RGB as an array or tensor of (H, W, 3) or (3, H, W). All of them
                are processed alike, so that they give the same numbers.

        Returns:
            (3, crop, crop) float32; `[None]` makes it a batch of one.

        Raises:
            UserError: any other input, such as floats, which may or may not be normalised already.
        """
        pixels = centre_crop(self.resize, self.crop)(_as_picture(image))
        return normalise(pixels, torch.tensor(self.mean), torch.tensor(self.std))


def _as_picture(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        try:
            return as_rgb(image)
        except ValueError as error:
            raise UserError(f"image: {error}") from None
    if isinstance(image, (np.ndarray, Tensor)):
        pixels = image.cpu().numpy() if isinstance(image, Tensor) else image
        if pixels.dtype == np.uint8 and pixels.ndim == 3 and 3 in (pixels.shape[0], pixels.shape[2]):
            last = pixels.shape[2] == 3 and (pixels.shape[0] != 3 or isinstance(image, np.ndarray))
            return Image.fromarray(np.ascontiguousarray(pixels if last else pixels.transpose(1, 2, 0)))
    kind = f"{image.dtype} {tuple(image.shape)}" if hasattr(image, "shape") else type(image).__name__
    raise UserError(f"image: expected a PIL image, or uint8 of (H, W, 3) or (3, H, W), one image; got {kind}")
