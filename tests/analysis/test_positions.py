"""Places of outliers by hand, p-values against the exact distribution and without an effect, the planted patches."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from regvit_lightning.analysis import positions
from regvit_lightning.analysis.norms import measure
from regvit_lightning.analysis.outliers import Rules
from regvit_lightning.analysis.positions import compare_neighbours, gini, placement, rings
from tests.analysis.planted import planted


def test_rings_by_hand():
    assert rings(4, 5).tolist() == [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]
    assert rings(1, 3).tolist() == [[0, 0, 0]]


def test_shares_by_hand():
    mask = torch.zeros(4, 3, 3, dtype=torch.bool)
    mask[:3, 1, 1] = True
    mask[0, 0, 0] = True
    found = placement(mask)
    assert found.share.tolist() == [[0.25, 0, 0], [0, 0.75, 0], [0, 0, 0]]
    assert found.rings.tolist() == [0.25 / 8, 0.75]


def test_the_ring_p_value_is_that_of_the_exact_distribution():
    # One outlier in each of 10 images of 4 x 4: the number on the 12 border patches is binomial with p = 3/4.
    mask = torch.zeros(10, 16, dtype=torch.bool)
    mask[range(10), [0, 3, 5, 6, 9, 10, 5, 12, 6, 9]] = True  # 3 on the border, expected 7.5
    found = placement(mask.view(10, 4, 4))
    exact = stats.binom(10, 0.75)
    p = sum(exact.pmf(k) for k in range(11) if abs(k - 7.5) >= 4.5)
    assert float(found.p_rings[0]) == pytest.approx(p, abs=0.005)
    assert float(found.p_rings[1]) == pytest.approx(p, abs=0.005)
    assert found.rings.tolist() == pytest.approx([3 / 120, 7 / 40])
    assert found.null_rings[0].tolist() == pytest.approx([exact.ppf(q) / 120 for q in (0.025, 0.975)], abs=0.0085)


def test_the_null_keeps_the_number_in_each_image():
    mask = torch.zeros(3, 4, 4, dtype=torch.bool)
    mask[0].view(-1)[:7] = True
    mask[2].view(-1)[3] = True
    drawn = 3 * positions._shuffled(mask, seed=0)
    assert drawn.sum(dim=(1, 2)).unique().tolist() == [8]
    assert drawn.max() <= 2
    np.testing.assert_allclose(drawn.mean(0), np.full((4, 4), 0.5), atol=0.07)
    assert torch.equal(drawn, 3 * positions._shuffled(mask, seed=0))
    assert not torch.equal(drawn, 3 * positions._shuffled(mask, seed=1))


def test_stripes_are_unequal_and_random_places_are_not():
    generator = torch.Generator().manual_seed(1)
    anywhere = torch.rand(64, 8, 8, generator=generator) < 0.05
    stripes = anywhere & (torch.arange(8) % 4 == 0)
    found = placement(stripes)
    assert found.p_gini == pytest.approx(0.001)
    assert found.gini > found.null_gini + 0.2
    assert placement(anywhere).p_gini > 0.05
    assert float(placement(anywhere).p_rings.min()) > 0.01


def test_p_values_are_uniform_when_nothing_is_there():
    generator = torch.Generator().manual_seed(1)
    p = [placement(torch.rand(12, 4, 4, generator=generator) < 0.1, seed).p_gini for seed in range(25)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.floats(0.1, 10))
def test_gini_is_the_mean_difference(values, scale):
    shares = torch.tensor(values, dtype=torch.float64).view(2, 2)
    differences = sum(abs(a - b) for a in values for b in values) / 16
    mean = sum(values) / 4
    if mean > 1e-6:
        assert float(gini(shares)) == pytest.approx(differences / (2 * mean), abs=1e-9)
        assert float(gini(shares * scale)) == pytest.approx(float(gini(shares)), abs=1e-9)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 6))
def test_no_and_only_outliers_have_no_favourite_place(images, height, width):
    for mask in (torch.zeros(images, height, width, dtype=torch.bool), torch.ones(images, height, width) > 0):
        found = placement(mask)
        assert (found.gini, found.p_gini) == (pytest.approx(0, abs=1e-9), 1)
        assert set(found.p_rings.tolist()) == {1}


def test_neighbours_by_hand():
    similarity = torch.tensor([[[0.9, 0.1], [0.3, 0.2]], [[0.7, 0.5], [0.5, 0.4]]])
    mask = torch.tensor([[[True, False], [False, False]], [[True, True], [False, False]]])
    found = compare_neighbours(similarity, mask)
    assert found.outliers == pytest.approx(0.7)
    assert found.normal == pytest.approx(1.5 / 5)
    assert found.difference == pytest.approx(0.4)
    # The four resamplings of two images: 0.9 - 0.2, 0.6 - 0.45, and both.
    assert found.interval == pytest.approx((0.15, 0.7))


def test_neighbours_without_outliers():
    found = compare_neighbours(torch.ones(2, 2, 2), torch.zeros(2, 2, 2, dtype=torch.bool))
    assert math.isnan(found.outliers)
    assert math.isnan(found.difference)
    assert math.isnan(found.interval[0])
    assert found.normal == 1


def test_planted_positions():
    case = planted()
    found = measure(case.backbone, case.normalised())
    mask = Rules().masks(found.raw[:, case.block - 1])["factor"]
    assert torch.equal(placement(mask).share, case.flat.double().mean(0))
    assert placement(mask).p_gini > 0.01
    neighbours = compare_neighbours(found.neighbours, mask)
    flat = found.neighbours[case.flat].mean()
    assert neighbours.outliers == pytest.approx(float(flat), abs=1e-6)
    assert neighbours.interval[0] <= neighbours.difference <= neighbours.interval[1]
