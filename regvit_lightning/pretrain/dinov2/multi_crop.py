"""Multi-crop augmentation of DINOv2: two global and several local crops of an image.

Sources: Caron et al. 2020 (arXiv 2006.09882, multi-crop), Grill et al. 2020 (arXiv 2006.07733, colour augmentation);
constants from DINOv2's released code.
"""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from regvit_lightning.data.augmentation import Blur, Jitter, ResizedCrop, as_tensor, chance, flipped, grey

BLUR = {"global1": 1.0, "global2": 0.1, "local": 0.5}  # blur probabilities, as intended
JITTER = Jitter(0.4, 0.4, 0.2, 0.1)


@dataclass(frozen=True)
class Crops:
    """Sizes of the crops and settings of the blur.

    Attributes:
        size, local_size: side of the global and local crops in pixels.
        scale, local_scale: smallest and largest area of a crop, as a share of the image.
        local: number of local crops.
        grey: probability of a grey crop.
        invert_blur: blur with probability 1 - p, as the released code does.
        blur_sigma: smallest and largest standard deviation of the blur in pixels.
    """

    size: int
    scale: tuple[float, float]
    local: int
    local_size: int
    local_scale: tuple[float, float]
    grey: float
    invert_blur: bool
    blur_sigma: tuple[float, float]


@dataclass(frozen=True)
class View:
    """One crop with its colour augmentation, uint8 (3, size, size).

    Attributes:
        crop, blur: the random crop, and the blur that is applied with probability `blurred`.
        greyed, blurred, solarised: probabilities.
    """

    crop: ResizedCrop
    blur: Blur
    greyed: float
    blurred: float
    solarised: float

    def __call__(self, image: Image.Image) -> Tensor:
        image = flipped(self.crop(image))
        image = JITTER(image) if chance(0.8) else image
        image = grey(image) if chance(self.greyed) else image
        view = as_tensor(image)
        view = self.blur(view) if chance(self.blurred) else view
        return torch.where(view < 128, view, 255 - view) if chance(self.solarised) else view


class MultiCrop:
    """Transform of an image to `{"global": uint8 (2, 3, S, S), "local": uint8 (L, 3, s, s)}`, random by torch's RNG."""

    def __init__(self, crops: Crops) -> None:
        blur = {name: 1 - p if crops.invert_blur else p for name, p in BLUR.items()}
        sigma = Blur(crops.blur_sigma)
        wide, near = ResizedCrop(crops.size, crops.scale), ResizedCrop(crops.local_size, crops.local_scale)
        self.wide = (
            View(wide, sigma, crops.grey, blur["global1"], 0.0),
            View(wide, sigma, crops.grey, blur["global2"], 0.2),
        )
        self.local = (View(near, sigma, crops.grey, blur["local"], 0.0),) * crops.local
        self.empty = torch.empty(0, 3, crops.local_size, crops.local_size, dtype=torch.uint8)

    def __call__(self, image: Image.Image) -> dict[str, Tensor]:
        local = torch.stack([view(image) for view in self.local]) if self.local else self.empty
        return {"global": torch.stack([view(image) for view in self.wide]), "local": local}
