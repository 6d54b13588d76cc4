"""The probe of row and column: scikit-learn's ridge regression, planted coordinates, and features without any."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from regvit_lightning.analysis.local_probes import PENALTIES
from regvit_lightning.analysis.position_probe import RidgeProbe, coordinates


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features(images, noise, seed):
    """Features (images, 3, 4, 8) that hold the coordinates in some directions, and noise in all."""
    hidden = coordinates(3, 4).float() @ random(2, 8, seed=100)
    return hidden.view(3, 4, 8) + noise * random(images, 3, 4, 8, seed=seed)


def scored(noise):
    probe = RidgeProbe()
    parts = [features(images, noise, seed) for seed, images in enumerate((30, 10, 20))]
    for add, part in zip((probe.train, probe.held_out, probe.test), parts, strict=True):
        for batch in part.split(7):
            add(batch)
    return probe, parts


def test_coordinates_are_the_middles_row_by_row():
    assert coordinates(2, 4)[[0, 1, 4]].tolist() == [[0.25, 0.125], [0.25, 0.375], [0.75, 0.125]]


def test_r2_is_that_of_scikit_learns_ridge_regression():
    probe, parts = scored(0.7)
    rows = [part.flatten(0, 2).double().numpy() for part in parts]
    targets = [np.tile(coordinates(3, 4).numpy(), (len(part), 1)) for part in parts]

    def fitted(features, wanted, penalty):
        scale = features.var(axis=0).mean()
        return Ridge(alpha=penalty * scale * len(features)).fit(features, wanted)

    errors = [((fitted(rows[0], targets[0], p).predict(rows[1]) - targets[1]) ** 2).sum() for p in PENALTIES]
    both = np.concatenate(rows[:2]), np.concatenate(targets[:2])
    expected = fitted(*both, PENALTIES[int(np.argmin(errors))]).predict(rows[2])
    assert float(probe.r2().mean()) == pytest.approx(r2_score(targets[2], expected), abs=1e-6)
    assert len(probe.r2()) == 20


def test_coordinates_are_found_exactly_and_noise_holds_none():
    assert scored(0.0)[0].r2().tolist() == pytest.approx([1.0] * 20, abs=1e-6)
    probe = RidgeProbe()
    for seed, add in enumerate((probe.train, probe.held_out, probe.test)):
        add(random(60, 3, 4, 8, seed=seed))
    assert float(probe.r2().mean()) == pytest.approx(0, abs=0.02)
