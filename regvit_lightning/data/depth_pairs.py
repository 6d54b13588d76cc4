"""Pairs of an image and its depth map, and what is done to both alike: crops, augmentation, the mask of scored pixels.

The augmentation is that of BTS (Lee et al. 2019, arXiv 1907.10326), as used in DINOv2's depth evaluation, which takes
it from the Monocular-Depth-Estimation-Toolbox.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from regvit_lightning.data.layout import DataError

FRAME = (480, 640)  # rows and columns of an NYU image, the size that the two crops assume
BORDER_CROP = (slice(45, 472), slice(43, 608))  # training: without the white frame of the rectified images
EIGEN_CROP = (slice(45, 471), slice(41, 601))  # scoring (Eigen et al. 2014, arXiv 1406.2283)


@dataclass(frozen=True, eq=False)
class DepthPair:
    """An image and its measured depth.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        depth: float32 (H, W), metres; 0 where nothing was measured.
        name: name of the depth map, for messages.
    """

    image: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    name: str


class DepthPairs(Protocol):
    """Depth pairs of one split."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> DepthPair:
        """Read one pair.

        Raises:
            DataError: a file that cannot be read, has another format or has no measured pixel.
        """
        ...


@dataclass(frozen=True)
class Augmentation:
    """Training augmentation: border crop; rotation, flip and colour, each with probability 1/2; and a random crop.

    Attributes:
        crop: rows and columns of the output.
        short_side: short side of the whole frame in pixels, to which image and depth are resized; 0 keeps their size.
        border_crop: first crop the border of NYU's images.
        rotation: largest angle in degrees.
        drawn: whether anything is random; if not, the middle is cropped, and nothing is rotated, mirrored or coloured.
    """

    crop: tuple[int, int]
    short_side: int
    border_crop: bool
    rotation: float
    drawn: bool = True

    def __call__(self, pair: DepthPair, rng: np.random.Generator) -> DepthPair:
        """Augment `pair`, with output (H, W) = crop.

        Raises:
            DataError: the image is smaller than the crop, or does not have NYU's border.
        """
        scale = scale_to(pair, self.short_side)
        if self.border_crop:
            _check_frame(pair, "border_crop")
            pair = cropped(pair, BORDER_CROP)
        pair = resized(pair, scale)
        if not self.drawn:
            return cropped(pair, self._window(pair, rng))
        if rng.random() < 0.5:
            pair = rotated(pair, rng.uniform(-self.rotation, self.rotation))
        if rng.random() < 0.5:
            pair = mirrored(pair)
        pair = cropped(pair, self._window(pair, rng))
        return coloured(pair, rng) if rng.random() < 0.5 else pair

    def _window(self, pair: DepthPair, rng: np.random.Generator) -> tuple[slice, slice]:
        free = [side - wanted for side, wanted in zip(pair.depth.shape, self.crop, strict=True)]
        if min(free) < 0:
            size = "{} × {}".format(*pair.depth.shape)
            raise DataError(f"image of depth {pair.name} has {size} rows and columns: below crop={list(self.crop)}")
        starts = [int(rng.integers(margin + 1)) if self.drawn else margin // 2 for margin in free]
        top, left = (slice(start, start + side) for start, side in zip(starts, self.crop, strict=True))
        return top, left


def cropped(pair: DepthPair, window: tuple[slice, slice]) -> DepthPair:
    """Crop image and depth to the same window."""
    return replace(pair, image=pair.image[window], depth=pair.depth[window])


def resized(pair: DepthPair, scale: float) -> DepthPair:
    """Resize image and depth by the factor `scale`: bilinear with antialiasing, and nearest neighbour."""
    if scale == 1:
        return pair
    height, width = (round(side * scale) for side in pair.depth.shape)
    image = Image.fromarray(pair.image).resize((width, height), Image.Resampling.BILINEAR)
    depth = Image.fromarray(pair.depth).resize((width, height), Image.Resampling.NEAREST)
    return replace(pair, image=np.asarray(image), depth=np.asarray(depth))


def rotated(pair: DepthPair, degrees: float) -> DepthPair:
    """Rotate image and depth about the centre, anticlockwise, at the same size: bilinear, and nearest neighbour.

    Pixels from outside the frame are 0: black and not measured.
    """
    image = Image.fromarray(pair.image).rotate(degrees, Image.Resampling.BILINEAR)
    depth = Image.fromarray(pair.depth).rotate(degrees, Image.Resampling.NEAREST)
    return replace(pair, image=np.asarray(image), depth=np.asarray(depth))


def mirrored(pair: DepthPair) -> DepthPair:
    """Flip image and depth horizontally."""
    return replace(pair, image=pair.image[:, ::-1], depth=pair.depth[:, ::-1])


def coloured(pair: DepthPair, rng: np.random.Generator) -> DepthPair:
    """The toolbox's colour augmentation: gamma 0.9-1.1, brightness 0.75-1.25, each channel 0.9-1.1.

    Its gamma is applied to values in 0..255, not in 0..1 as in BTS, so it makes an image brighter or darker by up to
    two thirds; the published heads were trained this way.
    """
    gamma, brightness, colours = rng.uniform(0.9, 1.1), rng.uniform(0.75, 1.25), rng.uniform(0.9, 1.1, size=3)
    values = np.arange(256.0) ** gamma * brightness
    tables = np.round(np.clip(np.outer(colours, values), 0, 255)).astype(np.uint8)
    return replace(pair, image=np.stack([tables[c][pair.image[..., c]] for c in range(3)], axis=-1))


def evaluation_mask(pair: DepthPair, low: float, high: float, eigen_crop: bool) -> npt.NDArray[np.bool_]:
    """Mask of the scored pixels, (H, W): low < depth < high, inside the Eigen crop if requested.

    Raises:
        DataError: the mask is empty, or the image does not have the size that the Eigen crop is defined for.
    """
    mask = (pair.depth > low) & (pair.depth < high)
    if eigen_crop:
        _check_frame(pair, "eigen_crop")
        inside = np.zeros_like(mask)
        inside[EIGEN_CROP] = True
        mask &= inside
    if not mask.any():
        raise DataError(f"depth {pair.name} has no pixel to score: restore it or take it off the list")
    return mask


def scale_to(pair: DepthPair, short_side: int) -> float:
    """Factor by which `resized` gives a pair this short side in pixels; 1 for 0, which keeps the size."""
    return short_side / min(pair.depth.shape) if short_side else 1.0


def _check_frame(pair: DepthPair, setting: str) -> None:
    if pair.depth.shape != FRAME:
        height, width = pair.depth.shape
        raise DataError(f"depth {pair.name} is {width} × {height} px, not NYU's 640 × 480: give {setting}=false")
