"""Logistic regression by DINOv2's protocol against scikit-learn: one class and several, the choice of C, the refit."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from regvit_lightning.analysis import token_scores
from regvit_lightning.analysis.logistic import regressions
from regvit_lightning.analysis.probes import TokenSettings
from regvit_lightning.analysis.token_scores import Labelled

GRID = [-3.0, -1.0, 1.0]


def points(images, seed, noise=1.2):
    """Three overlapping classes in five dimensions."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(3, (images,), generator=generator)
    centres = torch.eye(3, 5)
    return Labelled((centres[targets] + noise * torch.randn(images, 5, generator=generator))[None], targets)


def several(part):
    """The class, and as a second one whether the first feature is large; some labels are not known."""
    truth = torch.stack([(part.targets == 0).float(), (part.values[0, :, 1] > 0.3).float()], dim=1)
    truth[::7, 0] = torch.nan
    return Labelled(part.values, truth)


def sklearns(features, targets, C):
    return LogisticRegression(C=C, max_iter=10_000, tol=1e-10).fit(features.numpy(), targets.numpy())


def test_several_classes_are_sklearns_regressions_one_by_one():
    part = several(points(80, 0))
    for C, ours in zip(GRID, regressions(part.values[0], part.targets, 2, [10.0**c for c in GRID], 2000), strict=True):
        for number in range(2):
            known = ~part.targets[:, number].isnan()
            theirs = sklearns(part.values[0, known], part.targets[known, number], 10.0**C)
            np.testing.assert_allclose(ours.weight[:, number], theirs.coef_[0], rtol=2e-3, atol=1e-4)
            assert float(ours.bias[number]) == pytest.approx(theirs.intercept_[0], abs=1e-3)


def test_c_is_chosen_on_the_held_out_split_and_both_are_fitted():
    train, held_out, test = points(60, 1), points(40, 2), points(50, 3)
    found = token_scores.score(train, held_out, test, "top1", 3, TokenSettings(exponents=GRID, draws=1), 0)
    reached = [
        float(sklearns(train.values[0], train.targets, 10.0**C).score(held_out.values[0], held_out.targets))
        for C in GRID
    ]
    assert len(set(reached)) > 1
    assert 10.0 ** GRID[reached.index(max(reached))] == found.C
    both = torch.cat([train.values, held_out.values], dim=1)[0], torch.cat([train.targets, held_out.targets])
    theirs = sklearns(*both, found.C)
    assert found.mean == pytest.approx(100 * theirs.score(test.values[0], test.targets))
    assert (found.fitted_on, len(found.targets)) == (100, 50)
    assert found.facts()["std_over_draws"] is None


def test_without_a_held_out_split_a_share_of_train_is_held_out():
    train, test = points(60, 1), points(50, 3)
    settings = TokenSettings(exponents=[0.0], draws=1, held_out=0.25)
    found = token_scores.score(train, None, test, "top1", 3, settings, 0)
    assert found.fitted_on == 60
    theirs = sklearns(train.values[0], train.targets, 1.0)
    assert found.mean == pytest.approx(100 * theirs.score(test.values[0], test.targets))


def test_the_choice_is_by_the_sets_own_measure(monkeypatch):
    asked = set()
    monkeypatch.setattr(token_scores.class_measures, "value", lambda measure, *_: asked.add(measure) or 1.0)
    token_scores.score(points(30, 1), None, points(30, 2), "mean_per_class", 3, TokenSettings(exponents=GRID), 0)
    assert asked == {"mean_per_class"}


def test_draws_are_scored_one_by_one():
    train, test = points(60, 1), points(50, 3, noise=0.1)
    worse = points(50, 4, noise=5.0)
    drawn = Labelled(torch.cat([test.values, worse.values]), test.targets)
    twice = Labelled(train.values.repeat(2, 1, 1), train.targets)
    found = token_scores.score(twice, None, drawn, "top1", 3, TokenSettings(exponents=[0.0]), 0)
    alone = token_scores.score(train, None, test, "top1", 3, TokenSettings(exponents=[0.0]), 0)
    assert found.values[0] == alone.mean > found.values[1]
    assert float(found.image_scores.mean()) == pytest.approx(found.mean) == pytest.approx(np.mean(found.values))
    assert found.facts()["std_over_draws"] == pytest.approx(np.std(found.values, ddof=1))


def test_several_classes_have_an_average_precision_and_no_scores_of_images():
    train, test = several(points(60, 1, 0.2)), several(points(50, 3, 0.2))
    found = token_scores.score(train, None, test, "map", 2, TokenSettings(exponents=[3.0]), 0)
    assert found.image_scores is None
    assert 80 < found.mean <= 100


def test_nothing_to_learn_is_no_score():
    one = Labelled(torch.randn(1, 20, 3), torch.zeros(20, dtype=torch.long))
    nothing = Labelled(torch.zeros(1, 0, 5), torch.zeros(0, dtype=torch.long))
    settings, none = TokenSettings(exponents=[0.0, 1.0]), several(points(20, 0))
    none.targets[:] = 0
    assert token_scores.score(several(points(20, 0)), none, several(points(20, 0)), "map", 2, settings, 0) is None
    assert token_scores.score(one, None, one, "top1", 3, settings, 0) is None
    assert token_scores.score(points(20, 0), None, nothing, "top1", 3, settings, 0) is None
