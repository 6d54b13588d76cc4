"""Transforms from decoded images to uint8 tensors: evaluation crops and training augmentation.

Tensors stay uint8 until they are on the device: a quarter of the bytes to transfer, and only `normalise` applies
mean and std. Random draws come from torch's global generator, which `Drawn` seeds per sample.
"""

from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from regvit_lightning.data.augmentation import Jitter, ResizedCrop, ShiftedCrop, Step, as_tensor, flipped, three
from regvit_lightning.data.decoded import WHOLE, Decoded, Fixed
from regvit_lightning.data.headers import MOST_ELONGATED
from regvit_lightning.data.images import Transform
from regvit_lightning.data.three_augment import ThreeAugment
from regvit_lightning.settings import check

BICUBIC = InterpolationMode.BICUBIC


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Convert uint8 (B, 3, H, W) to float32, normalised by the model's mean and std (3,), in units of [0, 1]."""
    return (images.float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def not_elongated(image: Image.Image) -> Image.Image:
    """The middle of an image that is very much longer than wide; any other image is returned as it is.

    Resized by its short side, an image of 20,000 × 2 pixels would take gigabytes, of which a crop keeps the middle.
    """
    longest = MOST_ELONGATED * min(image.size)
    if max(image.size) <= longest:
        return image
    left, top = ((side - min(side, longest)) // 2 for side in image.size)
    return image.crop((left, top, left + min(image.width, longest), top + min(image.height, longest)))


def centre_crop(resize: int, crop: int) -> v2.Compose:
    """Resize the short side to `resize` pixels (bicubic), then crop the centre: DINOv2's and DeiT's evaluation view."""
    resized = v2.Resize(resize, BICUBIC, antialias=True)
    return v2.Compose([not_elongated, resized, v2.CenterCrop(crop), v2.PILToTensor()])


def released_view(resize: int, crop: int, mode: str, interpolation: str) -> v2.Compose:
    """The view of a release of timm: a centre crop of an image whose sides are resized as its configuration says.

    Args:
        mode: `center` resizes the short side to `resize` pixels, `squash` both sides.
        interpolation: `bicubic` or `bilinear`.

    Raises:
        SettingsError: another mode or interpolation.
    """
    known = f"crop_mode={mode}, interpolation={interpolation}: expected center or squash, bicubic or bilinear"
    check(mode in ("center", "squash") and interpolation in ("bicubic", "bilinear"), known)
    size = [resize, resize] if mode == "squash" else resize
    resized = v2.Resize(size, InterpolationMode(interpolation), antialias=True)
    first = [] if mode == "squash" else [not_elongated]
    return v2.Compose([*first, resized, v2.CenterCrop(crop), v2.PILToTensor()])


def wide_crop(resize: int, crop: int, more: int) -> v2.Compose:
    """A centre crop as in `centre_crop`, but `more` pixels wider, of an image resized so that it is wide enough."""
    resized = v2.Resize(max(resize, crop + more), BICUBIC, antialias=True)
    return v2.Compose([not_elongated, resized, v2.CenterCrop((crop, crop + more)), v2.PILToTensor()])


@dataclass(frozen=True)
class Steps:
    """Transform of an image to uint8 (3, H, W): the steps, one after another. Unlike a closure, it can be pickled.

    Attributes:
        steps: all that follows the fixed steps.
        fixed: first steps, without a random draw, whose result may be stored, see `Decoded`.
        together: the same as `steps` for many images at once, draws and pixels; None where there is no such code.
        drafted: random crop before the steps, which decodes large JPEGs by `draft`; None decodes them in full.
    """

    steps: tuple[Step, ...]
    fixed: Fixed = WHOLE
    together: ThreeAugment | None = None
    drafted: ResizedCrop | None = None

    def __call__(self, image: Image.Image) -> Tensor:
        return self.after_fixed(self.fixed(image))

    def after_fixed(self, image: Image.Image) -> Tensor:
        """Transform an image that has passed the fixed steps."""
        return self._after_crop(self.drafted(image) if self.drafted else image)

    def view(self, images: Decoded, index: int) -> Tensor:
        """Open and transform one of the images, or raise `DataError`."""
        if self.drafted:
            return self._after_crop(images.crop(index, self.drafted))
        return self.after_fixed(images.open(index))

    def _after_crop(self, image: Image.Image) -> Tensor:
        for step in self.steps:
            image = step(image)
        return as_tensor(image)


def read_view(transform: Transform, images: Decoded, index: int) -> Any:
    """Open and transform one of the images, or raise `DataError`; `Steps` may decode a large JPEG by `draft`."""
    return transform.view(images, index) if isinstance(transform, Steps) else transform(images.open(index))


def with_crop(crop: ResizedCrop, steps: tuple[Step, ...], draft: bool) -> Steps:
    """A random crop and further steps; with `draft`, large JPEGs are decoded at a part of their size."""
    return Steps(steps, drafted=crop) if draft else Steps((crop, *steps))


def random_resized_crop(size: int) -> Steps:
    """Inception crop of 8 to 100 % of the area to `size` pixels (bicubic), flipped with probability 1/2."""
    return Steps((ResizedCrop(size, (0.08, 1.0)), flipped))


def three_augment(size: int, crop: str, colour_jitter: float, draft: bool = False) -> Steps:
    """DeiT-III's augmentation (Touvron et al. 2022, section 3.1): crop, flip, 3-Augment, colour jitter.

    Args:
        size: side of the output in pixels.
        crop: `simple` (short side to `size`, then a random crop with 4 pixels of reflected border: ImageNet-22k) or
            `resized` (Inception crop with scale 0.08-1: ImageNet-1k).
        colour_jitter: strength of brightness, contrast and saturation jitter, always applied (0.3 in all recipes).
        draft: with crop `resized`, decode large JPEGs at a part of their size, see `draft`.

    Raises:
        SettingsError: unknown crop.
    """
    check(crop in ("simple", "resized"), f"crop={crop}: expected simple or resized")
    changes = flipped, three, Jitter(colour_jitter, colour_jitter, colour_jitter)
    if crop == "resized":
        return with_crop(ResizedCrop(size, (0.08, 1.0)), changes, draft)
    fixed = Fixed(f"{size}px", (not_elongated, v2.Resize(size, BICUBIC, antialias=True)))
    shifted = ShiftedCrop(size, border=4)
    return Steps((shifted, *changes), fixed, None if colour_jitter else ThreeAugment(shifted))
