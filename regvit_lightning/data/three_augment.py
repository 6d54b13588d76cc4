"""DeiT-III's augmentation of a whole batch of small images: the draws and the pixels of doing it image by image.

At 64 pixels most of the time per image is spent on calls, not on pixels. Here the random numbers are drawn image by
image, in the order of the single steps in augmentation.py, and the pixels of a batch are then changed together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from regvit_lightning.data.augmentation import ShiftedCrop, indices, one_of_three, uniform
from regvit_lightning.data.decoded import Pixels

GREY, SOLARISED, BLURRED = range(3)


class Drawing(NamedTuple):
    """Random numbers of one image.

    Attributes:
        first_row, first_column: upper left corner of the crop; negative inside the reflected border.
        flipped: mirrored left and right.
        change: `GREY`, `SOLARISED` or `BLURRED`.
        radius: of the blur, pixels.
    """

    first_row: int
    first_column: int
    flipped: bool
    change: int
    radius: float


@dataclass(frozen=True)
class ThreeAugment:
    """Simple random crop, flip and one of three changes (Touvron et al. 2022, section 3.1), without colour jitter."""

    crop: ShiftedCrop

    def draw(self, image: Pixels) -> Drawing:
        """Draw for one image from torch's global generator, in the order of the single steps."""
        corner = self.crop.first(image.shape[0]), self.crop.first(image.shape[1])
        flipped, change = torch.rand(()).item() < 0.5, one_of_three()
        return Drawing(*corner, flipped, change, uniform(0.1, 2.0) if change == BLURRED else 0.0)

    def __call__(self, images: Sequence[Pixels], draws: Sequence[Drawing]) -> Tensor:
        """Augment images with their draws; uint8 (B, 3, S, S)."""
        views = np.stack([self._cropped(*pair) for pair in zip(images, draws, strict=True)])
        changes = np.array([drawing.change for drawing in draws])
        views[changes == GREY] = _grey(views[changes == GREY])
        views[changes == SOLARISED] = _solarised(views[changes == SOLARISED])
        for view, drawing in zip(views, draws, strict=True):
            if drawing.change == BLURRED:  # Pillow is as fast as numpy here
                view[:] = np.asarray(Image.fromarray(view).filter(ImageFilter.GaussianBlur(drawing.radius)))
        return torch.from_numpy(views).permute(0, 3, 1, 2)

    def _cropped(self, image: Pixels, drawing: Drawing) -> Pixels:
        rows = indices(drawing.first_row, image.shape[0], self.crop.size)
        columns = indices(drawing.first_column, image.shape[1], self.crop.size)
        return image.take(rows, axis=0).take(columns[::-1] if drawing.flipped else columns, axis=1)


def _grey(views: Pixels) -> Pixels:
    rows = views.reshape(-1, *views.shape[2:])  # one tall image
    return np.asarray(Image.fromarray(rows).convert("L")).reshape(*views.shape[:3], 1) if len(views) else views


def _solarised(views: Pixels) -> Pixels:
    return np.minimum(views, 255 - views)
