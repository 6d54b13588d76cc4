"""How much a task or a recipe computes, known before it runs: images through the backbone, by size.

Counted are the matrix products of the backbone's blocks, and of a text tower where one is trained; heads, metrics and
decoding are not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ImageCounts = Mapping[str, Sequence[int]]
"""Number of images by the names of `DataSettings.counts`: [train, test], [trainval], or [train]."""


@dataclass(frozen=True)
class Pass:
    """Images of one size through the backbone.

    Attributes:
        images: how many; one that goes through several times counts as often.
        height, width: pixels.
        trained: the backbone itself is trained: its backward pass takes twice the forward pass.
        more_macs: multiply-adds beside the backbone's, per image and forward pass.
    """

    images: int
    height: int
    width: int
    trained: bool = False
    more_macs: int = 0


@dataclass(frozen=True)
class Work:
    """What a cell computes.

    Attributes:
        passes: over images.
        kept: feature vectors (D,) float32 that stay on the device.
    """

    passes: Sequence[Pass]
    kept: int = 0


def landscape(short_side: int) -> tuple[int, int]:
    """Height and width of a usual photograph, 3 : 4, with this short side."""
    return short_side, round(short_side * 4 / 3)
