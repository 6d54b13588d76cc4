"""Scores of single images: kept exactly, the same bytes, and intervals against closed forms."""

from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import binomtest

from regvit_lightning import statistics
from regvit_lightning.errors import UserError
from regvit_lightning.tasks import segmentation

WITHIN = NormalDist().inv_cdf(0.975)


@settings(max_examples=30, deadline=None)
@given(arrays.arrays(np.int32, (4, 3, 5), elements=st.integers(0, 2**31 - 1)))
def test_whole_numbers_come_back_exactly(areas):
    found = statistics.unpack(statistics.pack({"miou": areas}), "file")
    assert found["miou"].dtype == np.float64
    np.testing.assert_array_equal(found["miou"], areas)


def test_other_numbers_come_back_as_float32_and_nan_stays():
    kept = {"rmse": torch.tensor([0.1, float("nan"), 2.5]), "top1": torch.tensor([0.0, 100.0, 0.0])}
    found = statistics.unpack(statistics.pack(kept), "file")
    np.testing.assert_array_equal(found["rmse"], np.float32([0.1, np.nan, 2.5]))
    np.testing.assert_array_equal(found["top1"], [0, 100, 0])


def test_the_same_scores_give_the_same_bytes_and_few_of_them():
    right = 100.0 * (torch.rand(50_000, generator=torch.Generator().manual_seed(0)) < 0.8)
    assert statistics.pack({"top1": right}) == statistics.pack({"top1": right.clone()})
    assert len(statistics.pack({"top1": right})) < 10_000  # 0.72 bits of information an image make 4,513 bytes


def test_what_is_no_file_of_scores_is_refused():
    with pytest.raises(UserError, match=r"a\.npz: not readable"):
        statistics.unpack(b"PK nothing", "a.npz")


def test_paired_interval_is_that_of_the_normal_approximation():
    draw = np.random.default_rng(0)
    shared = draw.normal(50, 20, 4000)  # what both models find hard: it cancels in the difference
    first, second = shared, shared + draw.normal(0.3, 2, 4000)
    low, high = statistics.paired_interval("rmse", [(first, second)])
    difference = second - first
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    assert low == pytest.approx(difference.mean() - WITHIN * error, abs=0.1 * error + 1e-3)
    assert high == pytest.approx(difference.mean() + WITHIN * error, abs=0.1 * error + 1e-3)
    alone = [(side.mean(), (side.mean() - w, side.mean() + w)) for side in (first, second) for w in [0.62]]
    unpaired = statistics.unpaired_interval(*alone[0], *alone[1])
    assert unpaired[1] - unpaired[0] == pytest.approx(2 * 0.62 * np.sqrt(2))
    assert unpaired[1] - unpaired[0] > 10 * (high - low)


def test_identical_models_differ_by_nothing_and_unscored_images_are_left_out():
    kept = np.array([1.0, np.nan, 3.0, 4.0])
    assert statistics.paired_interval("rmse", [(kept, kept)]) == (0.0, 0.0)
    other = np.array([np.nan, 7.0, 4.0, 5.0])  # one more where both are scored
    assert statistics.paired_interval("rmse", [(kept, other)]) == (1.0, 1.0)


def test_seeds_that_disagree_widen_the_interval():
    first = np.zeros(1000)
    pairs = [(first, first + 1.0), (first, first + 3.0)]  # no spread over images at all
    assert statistics.paired_interval("rmse", pairs) == (1.0, 3.0)  # both draws of one seed: a quarter each
    assert statistics.paired_interval("rmse", [pairs[0], pairs[0]]) == (1.0, 1.0)


def test_miou_is_that_of_the_segmentation_task_and_pairs_over_images():
    generator = torch.Generator().manual_seed(1)
    truth, guess = (torch.randint(6, (40, 8, 8), generator=generator) for _ in range(2))
    better = torch.where(torch.rand(truth.shape, generator=generator) < 0.5, truth, guess)
    areas = [
        torch.stack([segmentation.areas(p, t, 8) for p, t in zip(side, truth, strict=True)]) for side in (guess, better)
    ]
    means = [statistics.miou(side.double().mean(dim=0).numpy()) for side in areas]
    for side, mean in zip(areas, means, strict=True):
        assert mean == pytest.approx(segmentation.scores(side.sum(dim=0))["miou"])
    low, high = statistics.paired_interval("miou", [(areas[0].numpy(), areas[1].numpy())])
    assert low < means[1] - means[0] < high
    assert statistics.excludes_zero((low, high))


def test_excludes_zero():
    assert statistics.excludes_zero((0.1, 2.0))
    assert statistics.excludes_zero((-2.0, -0.1))
    assert not statistics.excludes_zero((-0.1, 2.0))
    assert not statistics.excludes_zero((0.0, 0.0))
    assert not statistics.excludes_zero(None)


def test_intervals_are_those_of_the_kept_records_and_tables():
    """Golden, of commit 5c0f96c: the draws of a seed stay what they were, so that old intervals can be made again."""
    scores = torch.arange(50.0).square()
    assert statistics.bootstrap(scores, seed=3) == pytest.approx((621.882, 1017.7255), rel=1e-12)
    first, second = scores.double().numpy(), scores.double().flip(0).numpy()
    assert statistics.paired_interval("rmse", [(first, second)]) == pytest.approx((-386.12, 401.849), rel=1e-12)
    pairs = [(first, second), (first, first + 1)]
    assert statistics.paired_interval("rmse", pairs) == pytest.approx((-243.089, 264.8575), rel=1e-12)


@given(st.integers(1, 300).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_the_binomial_interval_is_that_of_scipy(case):
    successes, trials = case
    truth = binomtest(successes, trials).proportion_ci(0.95, "exact")
    assert statistics.binomial_interval(successes, trials) == pytest.approx((truth.low, truth.high), abs=1e-9)


@pytest.mark.parametrize("right", [0.0, 100.0])
def test_an_accuracy_of_none_or_all_has_an_exact_interval(right):
    low, high = statistics.accuracy_interval(torch.full((20,), right))
    far = 100 * (1 - 0.025 ** (1 / 20))  # the rule for none of 20
    assert (low, high) == pytest.approx((0, far) if right == 0 else (100 - far, 100))
    mixed = torch.tensor([0.0, 100, 100, 0, 100])
    assert statistics.accuracy_interval(mixed, 3) == statistics.bootstrap(mixed, 3)
