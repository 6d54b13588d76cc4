"""J and F on masks whose scores follow from their geometry, and against a plain version with dilated contours."""

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st

from regvit_lightning.tasks.video.mask_scores import contour, contour_f, jaccard, tolerance


def square(left, top, side, shape=(100, 100)):
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.mark.parametrize(("shift", "j"), [(0, 1), (5, 15 / 25), (10, 10 / 30), (20, 0)])
def test_j_of_a_shifted_square(shift, j):
    assert jaccard(square(10 + shift, 20, 20), square(10, 20, 20)) == pytest.approx(j)


def test_the_tolerance_is_a_share_of_the_diagonal_rounded_up():
    assert tolerance((480, 854)) == 8  # 0.008 × 979.7 = 7.8
    assert tolerance((300, 400)) == 4  # 0.008 × 500 exactly
    assert tolerance((301, 400)) == 5


@pytest.mark.parametrize(("shift", "f"), [(0, 1), (2, 1), (3, 0)])
def test_f_of_half_planes_is_one_within_the_tolerance(shift, f):
    columns = np.broadcast_to(np.arange(100), (100, 100))  # contours of 100 pixels, `shift` apart; the tolerance is 2
    assert contour_f(columns < 50 + shift, columns < 50) == f


def test_f_of_a_half_plane_with_a_step():
    rows, columns = np.indices((100, 100))
    predicted = columns < np.where(rows < 40, 50, 60)
    assert len(contour(predicted)) == 40 + 10 + 60
    # 40 pixels lie on the true contour and the next 2 are within 2 px; of the true ones those of 40 rows, and 2 more.
    assert contour_f(predicted, columns < 50) == pytest.approx(2 * 42 / (110 + 100))


def test_the_edge_of_the_image_is_no_contour():
    assert not len(contour(np.ones((5, 7), bool)))
    corner = square(0, 0, 2, (5, 7))  # of its four pixels three have a neighbour outside it: right, below or both
    assert contour(corner).tolist() == [[0, 1], [1, 0], [1, 1]]


NONE, ALL, SOME = np.zeros((20, 20), bool), np.ones((20, 20), bool), square(3, 3, 5, (20, 20))


@pytest.mark.parametrize(
    ("predicted", "truth", "j", "f"),
    [(NONE, NONE, 1, 1), (SOME, NONE, 0, 0), (NONE, SOME, 0, 0), (ALL, ALL, 1, 1), (ALL, SOME, 25 / 400, 0)],
)
def test_empty_masks_and_masks_without_a_contour(predicted, truth, j, f):
    assert (jaccard(predicted, truth), contour_f(predicted, truth)) == (j, f)


def dilated_f(predicted, truth):
    """F from its definition: contours that are dilated by a disk, and the pixels of the one that the other covers."""
    reach = int(np.ceil(0.008 * np.linalg.norm(truth.shape)))
    down, across = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    maps = [np.zeros(mask.shape, bool) for mask in (predicted, truth)]
    for mask, edges in zip((predicted, truth), maps, strict=True):
        for row, column in np.ndindex(mask.shape):
            below, right = min(row + 1, mask.shape[0] - 1), min(column + 1, mask.shape[1] - 1)
            others = mask[row, right], mask[below, column], mask[below, right]
            edges[row, column] = any(other != mask[row, column] for other in others)
    wide = [scipy.ndimage.binary_dilation(edges, down**2 + across**2 <= reach**2) for edges in maps]
    counts = [edges.sum() for edges in maps]
    if not all(counts):
        return float(counts[0] == counts[1])
    precision, recall = (maps[0] & wide[1]).sum() / counts[0], (maps[1] & wide[0]).sum() / counts[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@given(st.integers(0, 2**32 - 1))
def test_f_is_that_of_dilated_contours(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(3, 40, 2))
    smooth = [scipy.ndimage.gaussian_filter(rng.standard_normal(shape), rng.uniform(0.1, 3)) for _ in range(2)]
    predicted, truth = (values > np.quantile(values, rng.random()) for values in smooth)
    assert contour_f(predicted, truth) == pytest.approx(dilated_f(predicted, truth), abs=1e-12)
