"""Random steps of training augmentation on Pillow images; all draws come from torch's global generator.

Each step makes the draws of the torchvision transform that its docstring names, in the same order, and gives the same
pixels, in half the time for an image of 64 pixels: torchvision inspects and converts its inputs at every call.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageChops, ImageFilter
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.data import draft

Step = Callable[[Image.Image], Image.Image]

ATTEMPTS = 10  # to draw a crop that lies within the image, before its centre is taken
RATIO = (3 / 4, 4 / 3)  # smallest and largest width / height of a crop
LOG_RATIO = torch.tensor(RATIO).log().tolist()


def uniform(low: float, high: float) -> float:
    """A number from U(low, high)."""
    return torch.empty(()).uniform_(low, high).item()


def integer(count: int) -> int:
    """One of 0, …, count - 1, all equally probable."""
    return int(torch.randint(count, ()).item())


def chance(probability: float) -> bool:
    """True with the given probability."""
    return bool(torch.rand(()) < probability)


def one_of_three() -> int:
    """0, 1 or 2, all equally probable: the draw of `torch.multinomial(torch.ones(3), 1)`, in a third of its time."""
    return int(torch.empty(3).exponential_().reciprocal_().argmax())


def as_tensor(image: Image.Image) -> Tensor:
    """Convert an RGB image to uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@dataclass(frozen=True)
class ResizedCrop:
    """Inception crop of a share `scale` of the area, resized to `size` × `size` (v2.RandomResizedCrop, bicubic)."""

    size: int
    scale: tuple[float, float]

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.crop(self.box(*image.size)).resize((self.size, self.size), Image.Resampling.BICUBIC)

    def of_opened(self, image: Image.Image) -> Image.Image:
        """The same crop of a file that Pillow has opened and not decoded, of a large JPEG by `draft`."""
        return draft.cropped(image, self.box(*image.size), self.size)

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of a random crop of an image, in pixels."""
        for _ in range(ATTEMPTS):
            area = width * height * uniform(*self.scale)
            ratio = torch.empty(()).uniform_(*LOG_RATIO).exp().item()
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top, left = integer(height - h + 1), integer(width - w + 1)
                return left, top, left + w, top + h
        w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h


@dataclass(frozen=True)
class ShiftedCrop:
    """Random crop of `size` × `size` with `border` reflected pixels around the image (v2.RandomCrop)."""

    size: int
    border: int

    def __call__(self, image: Image.Image) -> Image.Image:
        rows, columns = (indices(self.first(side), side, self.size) for side in (image.height, image.width))
        return Image.fromarray(np.asarray(image).take(rows, axis=0).take(columns, axis=1))

    def first(self, side: int) -> int:
        """Draw the first row or column of a crop of an image of `side` pixels; negative inside the border."""
        return integer(side + 2 * self.border - self.size + 1) - self.border


@lru_cache(maxsize=1024)  # of the images of a set, most have the same sides
def indices(first: int, side: int, size: int) -> npt.NDArray[np.int64]:
    """Rows or columns of an image of `side` pixels in a crop of `size`; those of the border are reflected."""
    shown = np.abs(np.arange(first, first + size))
    shown = np.minimum(shown, 2 * (side - 1) - shown)
    shown.flags.writeable = False
    return shown


def flipped(image: Image.Image) -> Image.Image:
    """Mirror left and right with probability 1/2 (v2.RandomHorizontalFlip)."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if chance(0.5) else image


def grey(image: Image.Image) -> Image.Image:
    """Luma in all three channels (v2.Grayscale)."""
    return image.convert("L").convert("RGB")


def solarised(image: Image.Image) -> Image.Image:
    """Invert values from 128 on: the smaller one of v and 255 - v (v2.RandomSolarize(128, p=1))."""
    chance(1.0)  # torchvision draws a number here, too: those after it are the same
    return ImageChops.darker(image, ImageChops.invert(image))


def radius_blurred(image: Image.Image) -> Image.Image:
    """Gaussian blur with a radius (standard deviation, pixels) drawn from U(0.1, 2), by Pillow as in DeiT."""
    return image.filter(ImageFilter.GaussianBlur(uniform(0.1, 2.0)))


def three(image: Image.Image) -> Image.Image:
    """One of DeiT-III's three changes: to grey, solarised, blurred."""
    return (grey, solarised, radius_blurred)[one_of_three()](image)


class Blur:
    """Gaussian blur by a kernel of 9 × 9 pixels with reflected borders (v2.GaussianBlur).

    Args:
        sigma: smallest and largest standard deviation, in pixels.
    """

    REACH = 4  # pixels on each side

    def __init__(self, sigma: tuple[float, float]) -> None:
        self.sigma = sigma
        self.squares = torch.arange(-self.REACH, self.REACH + 1).square()

    def __call__(self, image: Tensor) -> Tensor:
        """Blur a uint8 image (3, H, W)."""
        weights = torch.softmax(self.squares / (-2 * uniform(*self.sigma) ** 2), dim=0)
        down, across = (self._banded(weights, side) for side in image.shape[1:])
        padded = F.pad(image.float(), (self.REACH,) * 4, mode="reflect")
        return (down @ padded @ across.T).round_().to(torch.uint8)

    def _banded(self, weights: Tensor, side: int) -> Tensor:
        """Matrix (side, side + 8) that blurs a padded column: a product is twice as fast as convolutions."""
        matrix = torch.zeros(side, side + len(weights) - 1)
        matrix.as_strided((side, len(weights)), (matrix.stride(0) + 1, 1)).copy_(weights.expand(side, -1))
        return matrix


@dataclass(frozen=True)
class Jitter:
    """Brightness, contrast, saturation and hue, changed in random order (v2.ColorJitter).

    Attributes:
        brightness, contrast, saturation: largest deviation of the factor from 1, in 0..1.
        hue: largest shift, as a share of the circle; 0 for none.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float = 0.0

    def __call__(self, image: Image.Image) -> Image.Image:
        order = torch.randperm(4).tolist()
        ranges = [(1 - most, 1 + most) for most in (self.brightness, self.contrast, self.saturation)]
        drawn = [uniform(*range) if range[1] > range[0] else None for range in (*ranges, (-self.hue, self.hue))]
        for number in order:
            if (value := drawn[number]) is not None:
                image = CHANGES[number](image, value)
        return image


def brightened(image: Image.Image, factor: float) -> Image.Image:
    """Blend with black; a factor of 1 changes nothing."""
    return Image.blend(Image.new("RGB", image.size), image, factor)


def contrasted(image: Image.Image, factor: float) -> Image.Image:
    """Blend with the rounded mean of the luma; a factor of 1 changes nothing."""
    counts = image.convert("L").histogram()
    mean = int(np.dot(counts, np.arange(256)) / sum(counts) + 0.5)
    return Image.blend(Image.new("RGB", image.size, (mean, mean, mean)), image, factor)


def saturated(image: Image.Image, factor: float) -> Image.Image:
    """Blend with the luma of each pixel; a factor of 1 changes nothing."""
    return Image.blend(grey(image), image, factor)


def shifted_hue(image: Image.Image, share: float) -> Image.Image:
    """Shift the hue by a share of the circle, -0.5..0.5."""
    hue, saturation, value = image.convert("HSV").split()
    shift = Image.new("L", image.size, int(share * 255) % 256)
    return Image.merge("HSV", (ImageChops.add_modulo(hue, shift), saturation, value)).convert("RGB")


CHANGES = (brightened, contrasted, saturated, shifted_hue)
