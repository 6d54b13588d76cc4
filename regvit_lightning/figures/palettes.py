"""Colours of classes: of any set, and of the rendered scenes."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import numpy.typing as npt

from regvit_lightning.data.mini.scenes import CLASSES, SEMANTIC_IDS


def palette(classes: int) -> npt.NDArray[np.uint8]:
    """Default colours (classes, 3) for class indices 0..classes-1; none is near white.

    The hue advances by the golden angle, lightness and saturation by fixed steps of their own, so more classes change
    no colour. The two steps are from a random search for a large minimum distance in CIELAB among the first 8, 21, 60,
    150 and 255 colours, and among those of the rendered scenes: it is 18 among the first 21, and 4 among all 255 that
    a uint8 label map can hold.
    """
    number = np.arange(classes)
    hue = number * (math.sqrt(5) - 1) / 2 % 1
    lightness, saturation = 0.3 + 0.45 * (number * 0.193 % 1), 0.4 + 0.6 * (number * 0.456 % 1)
    rows = [colorsys.hls_to_rgb(*row) for row in zip(hue, lightness, saturation, strict=True)]
    return np.round(255 * np.array(rows).reshape(-1, 3)).astype(np.uint8)


def semantic_palette() -> npt.NDArray[np.uint8]:
    """Colours (256, 3) of the semantic ids; 0, unlabelled, is white.

    Grounds and walls are pale, objects are saturated, each with hues once around the wheel; ids that the
    rendered scenes do not use are grey.
    """
    palette = np.full((256, 3), 160, np.uint8)
    palette[0] = 255
    surfaces = len(SEMANTIC_IDS) - len(CLASSES)
    for rank, number in enumerate(SEMANTIC_IDS.values()):
        if rank < surfaces:
            colour = colorsys.hsv_to_rgb(rank * 5 / surfaces % 1, 0.22, (0.93, 0.72)[rank % 2])
        else:
            colour = colorsys.hsv_to_rgb(rank / len(CLASSES) % 1, 0.85, (0.95, 0.58)[rank % 2])
        palette[number] = np.round(255 * np.array(colour))
    return palette
