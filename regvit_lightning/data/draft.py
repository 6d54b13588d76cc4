"""Crops of large JPEGs, decoded at a half, a quarter or an eighth of their size (Pillow's `Image.draft`).

libjpeg then computes only the low frequencies of each block of 8 × 8 pixels, in less time. The pixels differ slightly
from those of decoding in full, see docs/speed.md: for training only, where a recipe's `draft` asks for it.
"""

import math

from PIL import Image

from regvit_lightning.data.images import as_rgb

MARGIN = 2  # sides of a crop, as it is decoded, over those of the view that it is resized to
DIVISORS = (8, 4, 2)  # of the size, as libjpeg can decode

Box = tuple[int, int, int, int]  # left, top, right and bottom in pixels


def divisor(image: Image.Image, box: Box, size: int) -> int:
    """Largest divisor of an opened image's size that leaves the crop `MARGIN` times as large as `size`; 1 for none."""
    if image.format != "JPEG":
        return 1
    side = min(box[2] - box[0], box[3] - box[1])
    return next((by for by in DIVISORS if side >= by * MARGIN * size), 1)


def cropped(image: Image.Image, box: Box, size: int) -> Image.Image:
    """Crop as RGB, resized to `size` × `size` (bicubic), of an image that Pillow has opened and not decoded.

    Args:
        image: an opened file; its pixels stay as they are stored, whatever its EXIF orientation.
        box: in pixels of the whole image.
        size: side in pixels.

    Raises:
        ValueError: see `as_rgb`.
    """
    by = divisor(image, box, size)
    if by == 1:
        return as_rgb(image).crop(box).resize((size, size), Image.Resampling.BICUBIC)
    image.draft(None, (image.width // by, image.height // by))
    left, top = box[0] // by, box[1] // by
    right, bottom = (math.ceil(edge / by) for edge in box[2:])  # whole pixels of the smaller image around the box
    within = box[0] / by - left, box[1] / by - top, box[2] / by - left, box[3] / by - top
    part = as_rgb(image).crop((left, top, right, bottom))
    return part.resize((size, size), Image.Resampling.BICUBIC, within)
