"""LaSt pooling against the full Fourier transform, planted stable tokens, and mean pooling."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regvit_lightning.models.arms import last_pooling
from regvit_lightning.models.arms.last_pooling import LastPoolingNorm


def patches(batch: int = 2, count: int = 9, channels: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, count, channels, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [15, 16])
def test_low_pass_is_the_inverse_transform_of_the_filtered_spectrum(channels):
    x = patches(channels=channels).double().numpy()
    gaussian = np.exp(-((np.fft.fftfreq(channels) * channels) ** 2) / (2 * channels))  # sigma is sqrt(channels)
    expected = np.fft.ifft(gaussian * np.fft.fft(x, axis=-1), axis=-1)
    assert np.abs(expected.imag).max() < 1e-12  # centred on frequency 0
    np.testing.assert_allclose(last_pooling.low_pass(torch.from_numpy(x)).numpy(), expected.real, atol=1e-5)


def test_a_token_that_is_constant_over_the_channels_wins_in_all():
    x = patches()
    x[:, 4] = 0.01  # small, but its spectrum is that of frequency 0 alone
    torch.testing.assert_close(last_pooling.pool(x, 1), torch.full((2, 16), 0.01))


def test_a_negative_constant_token_comes_last():
    x = patches()
    x[:, 4] = -0.01  # the score divides x, not |x|
    with_it, without = last_pooling.pool(x, 8), last_pooling.pool(torch.cat([x[:, :4], x[:, 5:]], dim=1), 8)
    torch.testing.assert_close(with_it, without)


def test_score_is_the_channel_over_what_the_filter_removes():
    x = patches().double()
    removed = last_pooling.low_pass(x).double() - x
    torch.testing.assert_close(last_pooling.scores(x).double(), x / removed.abs(), rtol=1e-3, atol=0)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_all_patches_are_mean_pooling(count, channels, seed):
    x = patches(count=count, channels=channels, seed=seed)
    torch.testing.assert_close(last_pooling.pool(x, count), x.mean(dim=1))
    torch.testing.assert_close(last_pooling.pool(x, count + 3), x.mean(dim=1))


def test_pooled_channels_are_means_over_the_patches_of_highest_score():
    x = patches()
    scores = last_pooling.scores(x)
    for count in (1, 4):
        pooled = last_pooling.pool(x, count)
        for image in range(2):
            for channel in range(16):
                order = sorted(range(9), key=lambda patch: -scores[image, patch, channel].item())
                expected = x[image, order[:count], channel].mean()
                torch.testing.assert_close(pooled[image, channel], expected)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-30, 1e30])
def test_scores_are_finite_where_the_filter_removes_nothing(value):
    x = patches()
    x[:, 2] = value
    assert last_pooling.scores(x).isfinite().all()
    assert last_pooling.pool(x, 3).isfinite().all()


def test_a_token_of_zeros_wins_nothing():
    x = patches().abs() + 0.1
    x[:, 2] = 0.0  # 0 / 0 would be taken first
    assert (last_pooling.pool(x, 1) > 0.05).all()


def test_scores_do_not_depend_on_the_scale():
    x = patches()
    torch.testing.assert_close(last_pooling.scores(1000 * x), last_pooling.scores(x), rtol=1e-3, atol=0)


def test_gradient_reaches_the_chosen_patches_alone():
    x = patches().requires_grad_()
    last_pooling.pool(x, 3).sum().backward()
    assert ((x.grad != 0).sum(dim=1) == 3).all()
    torch.testing.assert_close(x.grad.sum(dim=1), torch.ones(2, 16))


def test_norm_replaces_cls_alone():
    norm = LastPoolingNorm(16, prefix=3, count=2, eps=1e-6)
    torch.nn.init.normal_(norm.weight)
    x = patches(count=12)
    normed = torch.nn.functional.layer_norm(x, (16,), norm.weight, norm.bias, 1e-6)
    torch.testing.assert_close(norm(x)[:, 1:], normed[:, 1:])
    torch.testing.assert_close(norm(x)[:, 0], last_pooling.pool(normed[:, 3:], 2))
    assert set(dict(norm.named_parameters())) == {"weight", "bias"}
