"""k-means: Lloyd's iterations are scikit-learn's, and k-means++ finds planted groups."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from regvit_lightning.tasks.patches import kmeans
from tests.tasks.patches.planted import torch_seed


def test_lloyds_iterations_are_those_of_scikit_learn():
    points = torch.randn(400, 5, generator=torch_seed(0))
    first = kmeans.first_centres(points, 7, seed=3)
    expected = KMeans(7, init=first.numpy(), n_init=1, max_iter=300, tol=0, algorithm="lloyd").fit(points)
    centres = kmeans.kmeans(points, 7, 300, seed=3)
    np.testing.assert_allclose(centres.numpy(), expected.cluster_centers_, atol=1e-5)
    assert np.array_equal(kmeans.assigned(points, centres).numpy(), expected.labels_)


def test_first_centres_are_points_far_apart():
    groups = 100 * torch.eye(9)
    points = (groups[:, None] + torch.randn(9, 30, 9, generator=torch_seed(1))).flatten(0, 1)
    for seed in range(20):
        centres = kmeans.first_centres(points, 9, seed)
        assert sorted(kmeans.assigned(centres, groups).tolist()) == list(range(9))
        assert (centres[:, None] == points).all(dim=2).any(dim=1).all()


def test_a_draw_is_in_proportion_to_the_squared_distance():
    points = torch.tensor([[0.0], [1.0], [3.0]])
    second = [kmeans.first_centres(points, 2, seed).flatten().tolist() for seed in range(3000)]
    from_zero = [pair[1] for pair in second if pair[0] == 0]
    assert np.mean([centre == 3 for centre in from_zero]) == pytest.approx(9 / 10, abs=0.03)
    assert 0 not in from_zero


def test_equal_points_and_clusters_without_points():
    centres = kmeans.kmeans(torch.ones(5, 2), 3, 10, seed=0)
    assert torch.equal(centres, torch.ones(3, 2))
    assert kmeans.assigned(torch.ones(2, 2), centres).tolist() == [0, 0]


def test_the_result_does_not_depend_on_the_parts(monkeypatch):
    points = torch.randn(100, 4, generator=torch_seed(2))
    whole = kmeans.kmeans(points, 5, 50, seed=0)
    monkeypatch.setattr(kmeans, "AT_ONCE", 7)
    torch.testing.assert_close(kmeans.kmeans(points, 5, 50, seed=0), whole)
