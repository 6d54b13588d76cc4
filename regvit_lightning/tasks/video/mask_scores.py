"""Scores of a predicted mask against the true one: J, the overlap of regions, and F, the agreement of contours.

Source: Perazzi et al. 2016 (CVPR, "A benchmark dataset and evaluation methodology for video object segmentation"),
section 5; the tolerance and the rules for empty masks are those of DAVIS 2017's official evaluation.
"""

import math

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

TOLERANCE = 0.008  # of the image's diagonal, rounded up to whole pixels


def jaccard(predicted: Mask, truth: Mask) -> float:
    """J in 0..1 of two masks (H, W): pixels in both over pixels in either; 1 where both are empty."""
    union = np.count_nonzero(predicted | truth)
    return np.count_nonzero(predicted & truth) / union if union else 1.0


def contour_f(predicted: Mask, truth: Mask) -> float:
    """F in 0..1 of two masks (H, W): harmonic mean of precision and recall of their contours.

    A contour pixel is right if one of the other mask is within `tolerance` of it (Euclidean). Without any contour pixel
    on one side, F is 0; without any on both sides, 1.
    """
    ours, theirs = contour(predicted), contour(truth)
    if not len(ours) or not len(theirs):
        return float(len(ours) == len(theirs))
    reach = tolerance(truth.shape)
    precision, recall = _near(ours, theirs, reach), _near(theirs, ours, reach)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def tolerance(shape: tuple[int, ...]) -> int:
    """Distance in pixels within which contours of an image (H, W) agree: 0.8 % of its diagonal, rounded up."""
    return math.ceil(TOLERANCE * math.hypot(*shape))


def contour(mask: Mask) -> npt.NDArray[np.intp]:
    """Contour pixels (M, 2) of a mask (H, W), as rows and columns.

    A pixel is on the contour if the mask differs between it and its neighbour to the right, below, or both; the last
    row and column have one neighbour only, and the edge of the image is no contour.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here, right, below, both = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return np.argwhere((here != right) | (here != below) | (here != both))


def _near(points: npt.NDArray[np.intp], others: npt.NDArray[np.intp], reach: int) -> float:
    """Share of the points that have one of the others within `reach` pixels."""
    from scipy.spatial import cKDTree

    distances, _ = cKDTree(others).query(points, distance_upper_bound=reach + 0.5)  # infinite beyond the bound
    return float(np.mean(distances <= reach))
