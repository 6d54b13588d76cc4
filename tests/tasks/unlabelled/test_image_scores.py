"""RankMe, alpha-ReQ and LiDAR: planted spectra, numpy and scipy, and the jackknife in closed form."""

import numpy as np
import pytest
import scipy.linalg
import torch

from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks.unlabelled import image_scores
from regvit_lightning.tasks.unlabelled.image_scores import alpha_req, interval, lidar, rankme, spectrum


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(eigenvalues, images=300, seed=0):
    """Features whose covariance has exactly these eigenvalues, in rotated directions."""
    width = len(eigenvalues)
    centred = random(images, width, seed=seed)
    columns, _ = torch.linalg.qr(centred - centred.mean(dim=0))
    rotation, _ = torch.linalg.qr(random(width, width, seed=seed + 1))
    return columns * (images * torch.tensor(eigenvalues, dtype=torch.float64)).sqrt() @ rotation + 5.0


@pytest.mark.parametrize("k", [1, 3, 20])
def test_rankme_counts_equal_singular_values(k):
    columns, _ = torch.linalg.qr(random(200, k))
    rotation, _ = torch.linalg.qr(random(20, 20, seed=1))
    assert rankme(7 * columns @ rotation[:k]) == pytest.approx(k, rel=1e-5)


def test_rankme_is_the_entropy_of_numpys_singular_values():
    features = random(60, 12) * torch.linspace(0.1, 3, 12) + 1
    values = np.linalg.svd(features.numpy(), compute_uv=False)  # without centring, as published
    share = values / values.sum()
    assert rankme(features) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-6)


def test_the_spectrum_is_that_of_numpys_covariance():
    for shape in ((50, 8), (6, 30)):
        features = random(*shape) + 3
        found = spectrum(features)
        expected = np.linalg.eigvalsh(np.cov(features.numpy().T, bias=True))[::-1]
        assert len(found) == min(shape[0] - 1, shape[1])  # of fewer images than dimensions the rest is rounding
        np.testing.assert_allclose(found, expected[: len(found)], rtol=1e-8)


@pytest.mark.parametrize("alpha", [0.0, 0.7, 2.0])
def test_a_planted_power_law_is_found_in_its_window_alone(alpha):
    law = np.arange(1, 101, dtype=float) ** -alpha
    law[:9], law[60:] = 50.0, 1e-7  # another law before and behind
    found = alpha_req(planted(law.tolist()), (10, 60))
    assert found.alpha == pytest.approx(alpha, abs=1e-6)
    assert (found.first, found.last) == (10, 60)


def test_the_slope_is_numpys_least_squares():
    features = random(300, 40) @ random(40, 40, seed=3)
    values = np.linalg.eigvalsh(np.cov(features.numpy().T, bias=True))[::-1]
    slope = np.polyfit(np.log(np.arange(5, 31)), np.log(values[4:30]), 1)[0]
    assert alpha_req(features, (5, 30)).alpha == pytest.approx(-slope)


def test_a_window_ends_with_the_eigenvalues():
    assert alpha_req(random(300, 12), (3, 100)).last == 12
    with pytest.raises(SettingsError, match=r"window=\[10, 100\]: there are 11 eigenvalues, of which three are needed"):
        alpha_req(random(12, 50), (10, 100))


@pytest.mark.parametrize("k", [1, 4])
def test_lidar_counts_the_axes_on_which_images_lie(k):
    means = torch.cat([torch.eye(k, 6), -torch.eye(k, 6)]).double()  # centred, and equally far along each axis
    assert lidar(means[:, None].expand(-1, 10, -1)) == pytest.approx(k, rel=1e-6)


def test_lidar_is_the_entropy_of_scipys_generalised_eigenvalues():
    views = random(40, 7, 5) + 2 * random(40, 1, 5, seed=1) * torch.tensor([1.0, 2, 3, 0.1, 0.5])
    means = views.mean(dim=1).numpy()
    between = np.cov(means.T, bias=True)
    left = (views.numpy() - means[:, None]).reshape(-1, 5)
    values = scipy.linalg.eigh(between, left.T @ left / len(left) + 1e-4 * np.eye(5), eigvals_only=True)
    share = values / values.sum()
    assert lidar(views) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-8)


def test_directions_in_which_views_differ_count_less():
    # Along the second axis images differ as much, but their views do, too: it hardly tells images apart.
    images = random(200, 1, 2)
    steady, noisy = (images + random(200, 20, 2, seed=1) * torch.tensor([0.1, noise]) for noise in (0.1, 30.0))
    assert lidar(steady) == pytest.approx(2, abs=0.05)
    assert lidar(noisy) < 1.2


def test_the_interval_of_a_mean_is_that_of_the_groups():
    images = random(40)
    order = torch.randperm(40, generator=image_scores.seeds.generator(5, "jackknife"))
    means = images[order].view(10, 4).mean(dim=1)
    half = scipy.stats.t.ppf(0.975, 9) * float(means.std()) / 10**0.5
    low, high = interval(lambda own: float(own.mean()), images, 5)
    assert (low, high) == pytest.approx((float(images.mean()) - half, float(images.mean()) + half), rel=1e-3)


@pytest.mark.parametrize("images", [10, 11, 12, 55, 81])
def test_each_image_is_left_out_once_however_many_there_are(images):
    every, out = set(range(images)), []

    def seen(own):
        out.append(every - set(own.tolist()))
        return float(len(own))

    interval(seen, torch.arange(images), 0)
    groups = [group for group in out if group]
    assert len(groups) == 10
    assert sorted(index for group in groups for index in group) == sorted(every)
