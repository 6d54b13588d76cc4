"""Compute cost of a task or a recipe, known before it runs: images through the backbone, by size.

The matrix products of the backbone's blocks are counted, and those of a text tower where one is trained; heads,
metrics and decoding are not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ImageCounts = Mapping[str, Sequence[int]]
"""Number of images by the names of `DataSettings.counts`: [train, test], [trainval], [train], or [pairs, groups]."""


@dataclass(frozen=True)
class Pass:
    """Forward passes of images of one size through the backbone.

    Attributes:
        images: number of images; one that is processed several times counts as often.
        height, width: pixels.
        trained: the backbone itself is trained, so its backward pass costs twice the forward pass.
        more_macs: multiply-adds outside the backbone, per image and forward pass.
    """

    images: int
    height: int
    width: int
    trained: bool = False
    more_macs: int = 0


@dataclass(frozen=True)
class Work:
    """Compute cost of a cell.

    Attributes:
        passes: forward passes over images.
        kept: number of feature vectors (D,) float32 that stay on the device.
    """

    passes: Sequence[Pass]
    kept: int = 0


def landscape(short_side: int) -> tuple[int, int]:
    """Height and width of a typical photograph, 3 : 4, with this short side."""
    return short_side, round(short_side * 4 / 3)
