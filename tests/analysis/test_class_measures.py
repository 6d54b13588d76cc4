"""Measures of classification against scikit-learn, a resampled set written out, and cases by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, precision_recall_curve

from regvit_lightning.analysis import class_measures


def drawn(seed, images=60, classes=5):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, generator=generator)
    return logits, torch.randint(classes, (images,), generator=generator), generator


@pytest.mark.parametrize("seed", range(3))
def test_mean_per_class_is_sklearns_balanced_accuracy(seed):
    logits, targets, _ = drawn(seed)
    targets[targets == 3] = 0  # a class without an image does not count
    expected = 100 * balanced_accuracy_score(targets, logits.argmax(dim=1))
    assert class_measures.value("mean_per_class", logits, targets) == pytest.approx(expected)
    assert class_measures.value("top1", logits, targets) == pytest.approx(
        100 * float((logits.argmax(dim=1) == targets).double().mean())
    )


def by_curve(scores, truth, weights=None):
    """The definition, from scikit-learn's curve: the largest precision at each recall or above."""
    precision, recall, _ = precision_recall_curve(truth, scores, sample_weight=weights)
    return 100 * np.mean([precision[:-1][recall[:-1] >= level - 1e-9].max() for level in np.linspace(0, 1, 11)])


@given(st.integers(0, 10_000), st.booleans())
def test_the_average_precision_is_that_of_sklearns_curve(seed, ties):
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(30, 2)).round(0 if ties else 6)
    truths = (generator.random((30, 2)) < 0.3).astype(float)
    truths[0] = 1
    found = class_measures.average_precisions(torch.tensor(scores), torch.tensor(truths))
    assert found == pytest.approx([by_curve(scores[:, k], truths[:, k]) for k in range(2)])
    weights = generator.integers(0, 3, (4, 30)).astype(float)
    weights[:, 0] = 1
    weighted = class_measures.average_precisions(torch.tensor(scores), torch.tensor(truths), weights)
    for number, own in enumerate(weights):
        assert weighted[number] == pytest.approx([by_curve(scores[:, k], truths[:, k], own) for k in range(2)])


def test_an_average_precision_by_hand():
    # Right, wrong, right, wrong: recall 1/2 at precision 1, recall 1 at 2/3. Six levels at 1, five at 2/3.
    logits, targets = torch.tensor([[4.0], [3.0], [2.0], [1.0]]), torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    assert class_measures.value("map", logits, targets) == pytest.approx(100 * (6 + 5 * 2 / 3) / 11)


def test_images_that_are_not_known_do_not_count():
    logits, targets = torch.tensor([[4.0], [3.0], [2.0]]), torch.tensor([[np.nan], [1.0], [0.0]])
    assert class_measures.value("map", logits, targets) == 100
    both = torch.cat([targets, torch.zeros(3, 1), torch.full((3, 1), np.nan)], dim=1)
    assert np.isnan(class_measures.average_precisions(logits.repeat(1, 3), both)).tolist() == [False, True, True]


def test_equal_scores_have_the_precision_of_the_class():
    targets = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    assert class_measures.value("map", torch.zeros(4, 1), targets) == 25


def test_intervals_hold_their_values():
    logits, targets, generator = drawn(0, 200)
    logits += 2 * torch.nn.functional.one_hot(targets, 5)
    for measure in ("top1", "mean_per_class"):
        low, high = class_measures.interval(measure, logits, targets)
        assert low < class_measures.value(measure, logits, targets) < high
        assert 4 < high - low < 20  # about 2 × 1.96 × sqrt(0.75 × 0.25 / 200)
    several = (torch.rand(200, 3, generator=generator) < 0.3).double()
    scored = several + 0.8 * torch.randn(200, 3, generator=generator)
    low, high = class_measures.interval("map", scored, several)
    assert low < class_measures.value("map", scored, several) < high
    assert (low, high) == class_measures.interval("map", scored, several)
    assert high - low < 20


def test_the_interval_of_a_mean_over_classes_is_that_of_resampled_sets():
    # A class of 90 images, and one of 10, whose share differs between resampled sets.
    targets, logits = torch.tensor([0] * 90 + [1] * 10), torch.zeros(100, 2)
    logits[torch.arange(100), targets] = 1
    assert class_measures.interval("mean_per_class", logits, targets) == (pytest.approx(100 * 0.025**0.01), 100)
    logits[[0, 95]] = logits[[0, 95]].flip(1)
    predicted, generator = logits.argmax(dim=1), class_measures.seeds.generator(3, "bootstrap")
    sets = [torch.randint(100, (100,), generator=generator) for _ in range(1000)]
    drawn = [100 * np.nanmean([(predicted[s][targets[s] == k] == k).double().mean() for k in (0, 1)]) for s in sets]
    expected = np.quantile(drawn, (0.025, 0.975))
    assert class_measures.interval("mean_per_class", logits, targets, 3) == pytest.approx(tuple(expected))
    assert expected[1] <= 100
