"""Scores of saliency by hand, by scikit-learn, and by a count of every pixel."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, fbeta_score, jaccard_score
from torch.nn import functional as F

from regvit_lightning.statistics import highest
from regvit_lightning.tasks.discovery.saliency_scores import (
    accuracy,
    f_beta,
    f_curve,
    iou,
    patch_truth,
    scaled,
)

BETA = 0.3**0.5


def upsampled(values, size):
    return F.interpolate(values[None, None].double(), size, mode="nearest")[0, 0]


def test_scores_of_a_mask_by_hand():
    truth = torch.zeros(4, 6, dtype=torch.bool)
    truth[:2, :3] = True  # 6 of 24 pixels
    mask = torch.tensor([[True, True, False], [False, False, False]])  # 8 pixels of patches of 2 × 2, 6 of them right
    own = patch_truth(truth, (2, 3))
    assert float(iou(mask, own)) == pytest.approx(100 * 6 / 8)
    assert float(accuracy(mask, own)) == pytest.approx(100 * 22 / 24)
    assert float(f_beta(mask, own)) == pytest.approx(100 * 1.3 * 0.75 * 1 / (0.3 * 0.75 + 1))
    assert own.share == 0.25


@given(st.integers(0, 10_000))
def test_scores_are_those_of_scikit_learn_over_pixels(seed):
    generator = torch.Generator().manual_seed(seed)
    height, width, rows, columns = (int(torch.randint(low, 20, (), generator=generator)) for low in (5, 5, 1, 1))
    truth, mask = (torch.rand(*size, generator=generator) > 0.6 for size in ((height, width), (rows, columns)))
    own, pixels = patch_truth(truth, (rows, columns)), upsampled(mask, (height, width)) > 0.5
    if truth.any() and pixels.any():
        both = truth.flatten().numpy(), pixels.flatten().numpy()
        assert float(iou(mask, own)) == pytest.approx(100 * jaccard_score(*both))
        assert float(f_beta(mask, own)) == pytest.approx(100 * fbeta_score(*both, beta=BETA, zero_division=0))
        assert float(accuracy(mask, own)) == pytest.approx(100 * accuracy_score(*both))


def test_the_curve_is_the_score_of_every_threshold():
    generator = torch.Generator().manual_seed(3)
    values = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    values[0, :2] = torch.tensor([7 / 255, 1.0])  # at a threshold, and at the largest value
    truth = torch.rand(13, 17, generator=generator) > 0.5
    curve, pixels = f_curve(values, patch_truth(truth, (3, 4))), upsampled(values, (13, 17))
    assert curve.shape == (255,)
    for number in (0, 1, 6, 7, 8, 100, 254):
        above = pixels > number / 255
        expected = fbeta_score(truth.flatten().numpy(), above.flatten().numpy(), beta=BETA)
        assert float(curve[number]) == pytest.approx(100 * expected)


def test_a_binary_map_has_the_constant_curve_of_its_mask():
    truth = torch.rand(10, 10, generator=torch.Generator().manual_seed(0)) > 0.5
    mask = torch.tensor([[True, False], [False, True]])
    own = patch_truth(truth, (2, 2))
    assert torch.allclose(f_curve(mask.double(), own), f_beta(mask, own).expand(255))


def test_max_f_is_the_maximum_of_the_mean_over_images_not_the_mean_of_maxima():
    low, high = torch.tensor([[0.2, 0.1]]), torch.tensor([[1.0, 0.9]])  # best thresholds that exclude each other
    own = patch_truth(torch.tensor([[True, False]]), (1, 2))
    curves = torch.stack([f_curve(low, own), f_curve(high, own)])
    assert curves.amax(dim=1).tolist() == [100, 100]
    all_of_it = 100 * 1.3 * 0.5 / (0.3 * 0.5 + 1)
    assert highest(curves.mean(dim=0).numpy()) == pytest.approx((100 + all_of_it) / 2)


def test_empty_masks_and_truths():
    empty, full = patch_truth(torch.zeros(2, 2, dtype=torch.bool), (1, 1)), patch_truth(torch.ones(2, 2) > 0, (1, 1))
    nothing, everything = torch.tensor([[False]]), torch.tensor([[True]])
    assert [float(score(nothing, empty)) for score in (iou, accuracy, f_beta)] == [100, 100, 100]
    assert [float(score(everything, empty)) for score in (iou, accuracy, f_beta)] == [0, 0, 0]
    assert [float(score(nothing, full)) for score in (iou, accuracy, f_beta)] == [0, 0, 0]
    assert [float(score(everything, full)) for score in (iou, accuracy, f_beta)] == [100, 100, 100]


def test_a_map_is_scaled_to_its_range():
    assert scaled(torch.tensor([[2.0, 4.0, 3.0]])).tolist() == [[0, 1, 0.5]]
    assert scaled(torch.full((2, 2), 7.0)).tolist() == [[0, 0], [0, 0]]


def test_a_batch_of_masks_is_scored_at_once():
    own = patch_truth(torch.tensor([[True, False]]), (1, 2))
    assert iou(torch.tensor([[[[True, False]], [[True, True]]]]), own).tolist() == [[100, 50]]
