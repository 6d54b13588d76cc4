"""Multi-crop augmentation of DINOv2: two global and several local crops of an image.

Sources: Caron et al. 2020 (arXiv 2006.09882, multi-crop), Grill et al. 2020 (arXiv 2006.07733, colour augmentation);
constants from DINOv2's released code.
"""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from regvit_lightning.data.transforms import BICUBIC

BLUR = {"global1": 1.0, "global2": 0.1, "local": 0.5}  # blur probabilities, as intended


@dataclass(frozen=True)
class Crops:
    """Sizes of the crops and settings of the blur.

    Attributes:
        size, local_size: side of the global and local crops in pixels.
        scale, local_scale: smallest and largest area of a crop, as a share of the image.
        local: number of local crops.
        invert_blur: blur with probability 1 - p, as the released code does.
        blur_sigma: smallest and largest standard deviation of the blur in pixels.
    """

    size: int
    scale: tuple[float, float]
    local: int
    local_size: int
    local_scale: tuple[float, float]
    invert_blur: bool
    blur_sigma: tuple[float, float]


class MultiCrop:
    """Transform of an image to `{"global": uint8 (2, 3, S, S), "local": uint8 (L, 3, s, s)}`, random by torch's RNG."""

    def __init__(self, crops: Crops) -> None:
        blur = {name: 1 - p if crops.invert_blur else p for name, p in BLUR.items()}
        sigma = crops.blur_sigma
        first = _view(crops.size, crops.scale, blur["global1"], sigma, 0.0)
        second = _view(crops.size, crops.scale, blur["global2"], sigma, 0.2)
        self.wide = (first, second)
        self.local = (_view(crops.local_size, crops.local_scale, blur["local"], sigma, 0.0),) * crops.local
        self.empty = torch.empty(0, 3, crops.local_size, crops.local_size, dtype=torch.uint8)

    def __call__(self, image: Image.Image) -> dict[str, Tensor]:
        local = torch.stack([view(image) for view in self.local]) if self.local else self.empty
        return {"global": torch.stack([view(image) for view in self.wide]), "local": local}


def _view(
    size: int, scale: tuple[float, float], blur: float, sigma: tuple[float, float], solarise: float
) -> v2.Compose:
    steps: list[Any] = [
        v2.RandomResizedCrop(size, scale=scale, interpolation=BICUBIC, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
        v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.GaussianBlur(9, sigma)], p=blur),
        v2.RandomSolarize(128, p=solarise),
        v2.PILToTensor(),
    ]
    return v2.Compose(steps)
