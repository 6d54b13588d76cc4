"""Scores of single images: kept exactly, the same bytes, and intervals against closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats
from sklearn.metrics import recall_score

from regvit_lightning import statistics
from regvit_lightning.errors import UserError
from regvit_lightning.tasks import segmentation


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


def test_one_seed_is_the_paired_t_test():
    draw = np.random.default_rng(0)
    shared = draw.normal(50, 20, 400)  # what both models find hard: it cancels in the difference
    first, second = shared, shared + draw.normal(0.3, 2, 400)
    expected = stats.ttest_rel(second, first)
    compared = statistics.compare("rmse", [first], [second])
    assert (compared.p, compared.interval) == (
        pytest.approx(expected.pvalue),
        pytest.approx(tuple(expected.confidence_interval(0.95))),
    )
    assert compared.value == pytest.approx(second.mean() - first.mean())
    assert (compared.paired, compared.over_seeds, compared.beyond_noise) == (True, False, expected.pvalue < 0.05)


@pytest.mark.parametrize("counts", [(2, 2), (3, 3), (5, 5), (2, 5)])
def test_seeds_whose_images_agree_are_compared_by_welchs_test(counts):
    draw = np.random.default_rng(0)
    means = [draw.normal(50 + side, 1 + side, count) for side, count in enumerate(counts)]
    expected = stats.ttest_ind(means[1], means[0], equal_var=False)
    sides = [[np.full(30, mean) for mean in side] for side in means]
    compared = statistics.compare("rmse", *sides)
    assert (compared.p, compared.over_seeds) == (pytest.approx(expected.pvalue, rel=1e-4), True)
    assert compared.interval == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-4)


@pytest.mark.parametrize(
    ("counts", "most"),
    [((1, 1), 0.07), ((2, 2), 0.07), ((3, 3), 0.07), ((4, 4), 0.07), ((5, 5), 0.07), ((3, 5), 0.07), ((2, 5), 0.09)],
)
def test_equal_recipes_are_called_different_in_five_percent_of_trials(counts, most):
    """Seeds move the mean by as much as the choice of the images does, apart from a single seed: there images alone."""
    draw, trials, images = np.random.default_rng(1), 1500, 100

    def trained(hard):
        return hard + draw.normal(0, 0.4 * (max(counts) > 1)) + draw.normal(0, 3, images)

    alarms = 0
    for _ in range(trials):
        hard = draw.normal(50, 10, images)  # what is hard in an image is so for every model
        sides = [[trained(hard) for _ in range(count)] for count in counts]
        alarms += statistics.compare("rmse", *sides).beyond_noise
    assert 0.03 <= alarms / trials <= most


def test_a_difference_that_is_there_is_seen():
    draw = np.random.default_rng(2)
    hard = draw.normal(50, 10, 1000)
    sides = [[hard + by + draw.normal(0, 0.2) + draw.normal(0, 3, 1000) for _ in range(3)] for by in (0, 2)]
    low, high = statistics.compare("rmse", *sides).interval
    assert 1 < low < 2 < high < 3


def test_identical_models_differ_by_nothing_and_unscored_images_are_left_out():
    kept = np.array([1.0, np.nan, 3.0, 4.0])
    same = statistics.compare("rmse", [kept], [kept])
    assert (same.value, same.interval, same.p, same.beyond_noise) == (0, (0, 0), 1, False)
    other = np.array([np.nan, 7.0, 4.0, 5.0])  # one more where both have a score
    assert statistics.compare("rmse", [kept], [other]).interval == (1.0, 1.0)


def test_two_images_tell_nothing_about_accuracy_and_one_gives_no_interval():
    wrong, right = np.zeros(2), np.full(2, 100.0)
    few = statistics.compare("top1", [wrong], [right])
    assert (few.value, few.beyond_noise) == (100.0, False)
    # With Bonett and Price's two images: differences 100, 100, 100, -100, whose mean is 50 and standard error 50.
    assert few.interval == pytest.approx((50 - 50 * stats.t.ppf(0.975, 3), 50 + 50 * stats.t.ppf(0.975, 3)))
    assert statistics.compare("outlier_share", [wrong], [wrong]).interval == (0, 0)  # may be no accuracy at all
    one = statistics.compare("top1", [wrong[:1]], [right[:1]])
    assert (one.value, one.interval, one.p, one.beyond_noise) == (100.0, None, None, False)


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
    compared = statistics.compare("miou", [areas[0].numpy()], [areas[1].numpy()])
    low, high = compared.interval
    assert compared.value == pytest.approx(means[1] - means[0])
    assert 0 < low < means[1] - means[0] < high
    draw = np.random.default_rng(0)
    sets = [draw.integers(40, size=40) for _ in range(2000)]
    again = [statistics.miou(areas[1].numpy()[s].mean(0)) - statistics.miou(areas[0].numpy()[s].mean(0)) for s in sets]
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 39) * np.std(again), rel=0.1)


@pytest.mark.parametrize(
    ("interval", "beyond"),
    [((0.1, 2.0), True), ((-2.0, -0.1), True), ((-0.1, 2.0), False), ((0.0, 0.0), False), (None, False)],
)
def test_beyond_noise_is_an_interval_without_zero(interval, beyond):
    assert statistics.Comparison(1.0, interval).beyond_noise == beyond


def test_without_scores_of_images_both_sides_count_as_independent():
    """Against the textbook: standard errors add in squares; with seeds Welch's parts join them."""
    one = statistics.compare_summaries([50.0], (49.0, 51.0), [53.0], (50.5, 55.5))
    reach = np.hypot(1.0, 2.5)
    assert one.interval == pytest.approx((3 - reach, 3 + reach), rel=1e-5)
    assert (one.over_seeds, one.paired, one.beyond_noise) == (False, False, True)
    none = (0.0, 0.0)  # no noise of images at all: Welch's test alone
    seeds = statistics.compare_summaries([50.0, 51.0, 50.4], none, [53.0, 55.0, 57.0], none)
    expected = stats.ttest_ind([53.0, 55.0, 57.0], [50.0, 51.0, 50.4], equal_var=False)
    assert (seeds.p, seeds.over_seeds) == (pytest.approx(expected.pvalue), True)
    assert seeds.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_binomial_interval_is_scipys(case):
    low, high = stats.binomtest(*case).proportion_ci(0.95, "exact")
    assert statistics.binomial_interval(*case) == pytest.approx((low, high), abs=1e-9)


def test_intervals_are_those_of_the_kept_records():
    """Golden, of commit 5c0f96c: the draws of a seed stay what they were, so that old intervals can be made again."""
    scores = torch.arange(50.0).square()
    assert statistics.bootstrap(scores, seed=3) == pytest.approx((621.882, 1017.7255), rel=1e-12)


def test_the_best_constant_is_right_on_the_most_frequent_class():
    assert statistics.constant_accuracy(torch.tensor([3, 1, 3, 0, 3])) == 60.0
    assert statistics.constant_accuracy(torch.tensor([0])) == 100.0


@given(st.integers(0, 10**6), st.integers(1, 60))
def test_accuracy_by_class_is_sklearns_recall(seed, images):
    generator = np.random.default_rng(seed)
    labels, predicted = generator.integers(0, 4, (2, images))
    names = ["a", "b", "c", "d", "without an image"]
    found = statistics.accuracy_by_class(torch.from_numpy(100 * (labels == predicted)), torch.from_numpy(labels), names)
    assert list(found) == names
    recall = recall_score(labels, predicted, labels=range(5), average=None, zero_division=np.nan)
    for value, meant in zip(found.values(), recall, strict=True):
        assert value is None if np.isnan(meant) else value == pytest.approx(100 * meant)


@pytest.mark.parametrize("right", [0.0, 100.0])
def test_an_accuracy_of_none_or_all_has_an_exact_interval(right):
    low, high = statistics.accuracy_interval(torch.full((20,), right))
    far = 100 * (1 - 0.025 ** (1 / 20))  # the rule for none of 20
    assert (low, high) == pytest.approx((0, far) if right == 0 else (100 - far, 100))
    mixed = torch.tensor([0.0, 100, 100, 0, 100])
    assert statistics.accuracy_interval(mixed, 3) == statistics.bootstrap(mixed, 3)
