"""Views of whole images of any size and aspect for a backbone: pixels whose sides are multiples of its patch size."""

import warnings
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from regvit_lightning.data.images import as_rgb
from regvit_lightning.errors import Notice, UserError
from regvit_lightning.models.backbone import Backbone

MOST_PATCHES = 20_000  # of an image: its attention takes minutes on a CPU, its similarities 1.6 GB


@dataclass(frozen=True)
class View:
    """What a backbone sees of an image.

    Attributes:
        pixels: (3, H, W) uint8, H and W multiples of the patch size.
        region: left, top, right, bottom of that part of the image, in pixels of the stored image.
    """

    pixels: Tensor
    region: tuple[float, float, float, float]


def view(backbone: Backbone, image: Image.Image, size: int | None) -> View:
    """The whole image for a backbone that accepts any size; the central square for one that accepts one size alone.

    Args:
        backbone: the model.
        image: of any mode and size; EXIF orientation is not applied.
        size: short side in pixels, rounded like the long side to a multiple of the patch size, so that the aspect
            changes by at most half a patch; None for the model's own.

    Raises:
        UserError: pixels without a stated range, fewer than 2 × 2 patches, or more than `MOST_PATCHES`.
    """
    try:
        picture = as_rgb(image)
    except ValueError as error:
        raise UserError(f"image: {error}") from None
    width, height = picture.size
    if not backbone.any_size:
        return _square(backbone, picture, size)
    patch, short = backbone.patch_size, size or backbone.image_size
    rows, columns = (max(round(side * short / min(width, height) / patch), 1) for side in (height, width))
    if min(rows, columns) < 2 or rows * columns > MOST_PATCHES:
        limits = f"from 2 × 2 to {MOST_PATCHES:,} patches are shown; give another size="
        raise UserError(
            f"{backbone.name}: an image of {width} × {height} px becomes {rows} × {columns} patches; {limits}"
        )
    return View(_resized(picture, rows * patch, columns * patch), (0, 0, width, height))


def _square(backbone: Backbone, picture: Image.Image, size: int | None) -> View:
    side, own = min(picture.size), backbone.image_size
    if size not in (None, own):
        message = (
            f"{backbone.name}: takes images of {own} px only: size={size} is not used, nor what is beside the square"
        )
        warnings.warn(message, Notice, stacklevel=2)
    left, top = ((length - side) // 2 for length in picture.size)
    region = (left, top, left + side, top + side)
    return View(_resized(picture.crop(region), own, own), region)


def _resized(picture: Image.Image, height: int, width: int) -> Tensor:
    resized = TF.resize(picture, [height, width], InterpolationMode.BICUBIC, antialias=True)
    pixels: Tensor = TF.pil_to_tensor(resized)
    return pixels


def of_normalised(backbone: Backbone, image: Tensor) -> View:
    """View of an image (3, H, W) that is normalised already, with the pixels it was made from, rounded to uint8."""
    mean, std = (torch.tensor(values, device=image.device).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    pixels = (255 * (image * std + mean)).round().clamp(0, 255).to(torch.uint8).cpu()
    return View(pixels, (0, 0, image.shape[2], image.shape[1]))
