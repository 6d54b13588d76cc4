"""Properties of an image: texture and clutter from its pixels, size and number of objects from boxes and masks.

Measured ones need no annotation. Texture is the median over the image of the local standard deviation of grey values:
the outlines of a few objects do not change a median, a textured surface does. Clutter is the density of edges, a
standard measure (Mack and Oliva 2004; Rosenholtz, Li and Nakano 2007, Journal of Vision 7(2):17, section 2.4).
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

SHORT_SIDE = 224  # pixels at which images are measured, so that their resolution does not matter
LONG_SIDE = 2048  # pixels, the most that the other side may have: a narrow image is measured at a shorter short side
WINDOW = 7  # pixels, side of the window of the local standard deviation
EDGES = (100, 200)  # thresholds of Canny's detector on grey values, as in OpenCV's own examples
LEAST_SEGMENT = 0.001  # share of the pixels below which a connected region of a mask is not counted

TEXTURE = ("texture", "grey levels", "median local standard deviation of grey values, in windows of 7 pixels, measured")
CLUTTER = ("clutter", "% edges", "share of pixels on an edge of Canny's detector, measured")
OBJECT_SIZE = ("object size", "%", "share of the image that the box of the largest object takes")
OBJECTS = ("objects", "", "number of objects with a box")
SEGMENTS = ("segments", "", "connected regions of one class with at least 0.1 % of the pixels")
SEGMENT_SIZE = ("segment size", "%", "mean share of the image of such a region")
DISTANCE = ("depth", "m", "median measured depth")


def pixels(image: Image.Image) -> tuple[float, float]:
    """Texture in grey levels of 0..255, and clutter in percent of pixels, of an RGB image at a short side of 224."""
    scale = min(SHORT_SIDE / min(image.size), LONG_SIDE / max(image.size))
    size = [max(round(side * scale), 1) for side in image.size]
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC))
    return texture(grey), clutter(grey)


def texture(grey: npt.NDArray[np.uint8]) -> float:
    """Median over the pixels of the standard deviation in a window around them, of grey values (H, W)."""
    values, window = grey.astype(np.float64), (WINDOW, WINDOW)
    mean = cv2.blur(values, window)
    variance = cv2.blur(values**2, window) - mean**2
    return float(np.median(np.sqrt(np.maximum(variance, 0.0))))


def clutter(grey: npt.NDArray[np.uint8]) -> float:
    """Percent of pixels on an edge, of grey values (H, W)."""
    return 100.0 * float((cv2.Canny(grey, *EDGES) > 0).mean())


def objects(boxes: npt.NDArray[Any], width: float, height: float) -> tuple[float | None, int]:
    """Percent of the image in the largest of boxes (M, 4), and their number; no size without a box."""
    if not len(boxes):
        return None, 0
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return 100.0 * float(areas.max()) / (width * height), len(boxes)


def segments(classes: npt.NDArray[np.uint8], ignored: int) -> tuple[int, float | None]:
    """Number of connected regions of one class, and their mean share of the image in percent; no share without one.

    Args:
        classes: (H, W) class indices.
        ignored: index of pixels without a class.
    """
    sizes: list[int] = []
    for label in np.unique(classes[classes != ignored]):
        _, _, statistics, _ = cv2.connectedComponentsWithStats((classes == label).astype(np.uint8), connectivity=8)
        sizes += [int(size) for size in statistics[1:, cv2.CC_STAT_AREA] if size >= LEAST_SEGMENT * classes.size]
    return len(sizes), 100.0 * float(np.mean(sizes)) / classes.size if sizes else None
