"""Depth: metrics by hand and by NumPy, losses by hand, by NumPy and in closed form."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from regvit_lightning.tasks import depth_scores
from regvit_lightning.tasks.depth_scores import SCORES

# ------------------------------------------------------------------------------------------------------- metrics


def metrics(prediction, truth, mask=None):
    prediction, truth = torch.tensor(prediction)[None], torch.tensor(truth)[None]
    mask = torch.ones_like(truth, dtype=torch.bool) if mask is None else torch.tensor(mask)[None]
    found = depth_scores.scores(prediction, truth, mask)
    assert found.dtype == torch.float64
    return dict(zip(SCORES, found[0].tolist(), strict=True))


def test_metrics_by_hand():
    # Ratios 2, 0.8 (so 1.25, which is not below 1.25), 1 and 1.5; errors 1, -1, 0 and 2 metres.
    found = metrics([[2.0, 4.0, 3.0, 6.0]], [[1.0, 5.0, 3.0, 4.0]])
    logs = np.log([2, 0.8, 1, 1.5])
    assert found == pytest.approx(
        {
            "rmse": math.sqrt(6 / 4),
            "abs_rel": (1 / 1 + 1 / 5 + 0 + 2 / 4) / 4,
            "sq_rel": (1 / 1 + 1 / 5 + 0 + 4 / 4) / 4,
            "a1": 1 / 4,
            "a2": 3 / 4,  # 1.5 < 1.5625 < 2
            "a3": 3 / 4,  # 1.953 < 2
            "log10": (math.log10(2) + math.log10(1.25) + math.log10(1.5)) / 4,
            "rmse_log": math.sqrt((logs**2).sum() / 4),
            "silog": 100 * logs.std(),
        }
    )


def test_a_perfect_prediction_and_one_off_by_a_factor():
    truth = [[1.0, 2.5, 7.3]]
    perfect = metrics(truth, truth)
    assert [perfect[name] for name in ("a1", "a2", "a3")] == [1, 1, 1]
    assert all(perfect[name] == 0 for name in SCORES if name not in ("a1", "a2", "a3"))
    scaled = metrics([[1.2 * value for value in truth[0]]], truth)
    assert scaled["silog"] == pytest.approx(0, abs=1e-4)  # float32 in
    assert scaled["abs_rel"] == pytest.approx(0.2)
    assert scaled["rmse_log"] == pytest.approx(math.log(1.2))


def test_pixels_outside_the_mask_count_nowhere():
    inside = metrics([[2.0, 4.0]], [[1.0, 5.0]])
    masked = metrics([[2.0, 9.0, 4.0, 0.5]], [[1.0, 0.0, 5.0, float("nan")]], [[True, False, True, False]])
    assert masked == pytest.approx(inside)


def by_numpy(prediction, truth, mask):
    """The same by one image at a time, on the chosen pixels only."""
    rows = []
    for p, t, m in zip(*(array.astype(np.float64) for array in (prediction, truth)), mask, strict=True):
        p, t = p[m], t[m]
        worse = np.max([p / t, t / p], axis=0)
        logs = np.log(p) - np.log(t)
        rows.append(
            [
                np.sqrt(np.mean((p - t) ** 2)),
                np.mean(np.abs(p - t) / t),
                np.mean((p - t) ** 2 / t),
                *[np.mean(worse < 1.25**n) for n in (1, 2, 3)],
                np.mean(np.abs(np.log10(p / t))),
                np.sqrt(np.mean(logs**2)),
                100 * np.sqrt(np.mean(logs**2) - np.mean(logs) ** 2),
            ]
        )
    return np.array(rows)


@effort(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.floats(0.02, 1.0))
def test_metrics_are_those_of_numpy(seed, images, share):
    rng = np.random.default_rng(seed)
    shape = (images, 7, 9)
    truth = rng.uniform(0.01, 10, shape).astype(np.float32)
    prediction = (truth * rng.lognormal(0, 0.3, shape)).clip(1e-3, 10).astype(np.float32)
    mask = rng.random(shape) < share
    mask[:, 3, 4] = True
    found = depth_scores.scores(*(torch.from_numpy(array) for array in (prediction, truth, mask)))
    np.testing.assert_allclose(found.numpy(), by_numpy(prediction, truth, mask), rtol=1e-7, atol=1e-6)


# -------------------------------------------------------------------------------------------------------- losses


def maps(seed, images=2, holes=True):
    generator = torch.Generator().manual_seed(seed)
    truth = 0.5 + 9 * torch.rand(images, 12, 16, generator=generator)
    if holes:
        truth[torch.rand(truth.shape, generator=generator) < 0.2] = 0
    prediction = (0.4 + 9 * torch.rand(truth.shape, generator=generator)).requires_grad_()
    return prediction, truth


@pytest.mark.parametrize("factor", [0.5, 1.3, 2.0])
def test_sig_loss_of_a_scaled_truth(factor):
    # g is log(factor) everywhere but for the 1 mm inside the logarithms: no variance, and sqrt(0.15) × |mean|.
    truth = maps(0)[1]
    for warmup in (True, False):
        found = depth_scores.sig_loss(factor * truth, truth, 2, warmup).item()
        assert found == pytest.approx(math.sqrt(0.15) * abs(math.log(factor)), rel=3e-3)


@pytest.mark.parametrize("seed", range(3))
def test_sig_loss_by_numpy(seed):
    prediction, truth = maps(seed, images=4)
    expected, warm = [], []
    for pair in (slice(0, 2), slice(2, 4)):  # the pixels of two images make one value
        valid = truth[pair].numpy() > 0
        p, t = (tensor[pair].detach().numpy().astype(np.float64)[valid] for tensor in (prediction, truth))
        g = np.log(p + 0.001) - np.log(t + 0.001)
        expected.append(np.sqrt(g.var(ddof=1) + 0.15 * g.mean() ** 2))
        warm.append(np.sqrt(0.15) * abs(g.mean()))
    assert depth_scores.sig_loss(prediction, truth, 2).item() == pytest.approx(np.mean(expected), rel=1e-5)
    assert depth_scores.sig_loss(prediction, truth, 2, warmup=True).item() == pytest.approx(np.mean(warm), rel=1e-5)


@pytest.mark.parametrize("warmup", [True, False])
def test_a_group_without_a_measurement_counts_as_0(warmup):
    prediction, truth = maps(0, images=4)
    half = depth_scores.sig_loss(prediction[:2], truth[:2], 2, warmup) / 2
    truth[2:] = 0
    found = depth_scores.sig_loss(prediction, truth, 2, warmup)
    assert found.item() == pytest.approx(half.item())
    nothing = depth_scores.sig_loss(prediction, torch.zeros_like(truth), 2, warmup)
    nothing.backward()
    assert nothing.item() == 0
    assert not prediction.grad.any()


@pytest.mark.parametrize("pixels", [1, 12 * 16])
def test_a_single_pixel_and_a_perfect_prediction_have_finite_gradients(pixels):
    truth = maps(0, images=1, holes=False)[1]
    truth.view(-1)[pixels:] = 0
    for factor in (1.0, 1.5):
        prediction = (factor * truth + (truth == 0)).requires_grad_()
        (depth_scores.sig_loss(prediction, truth, 1) + depth_scores.gradient_loss(prediction, truth, 1)).backward()
        assert prediction.grad.isfinite().all()


def test_gradient_loss_of_a_scaled_truth_is_0():
    # Depths so large that the 1 mm inside the logarithms is nothing.
    truth = 1000 * maps(0)[1]
    assert depth_scores.gradient_loss(2 * truth, truth, 2).item() == pytest.approx(0, abs=1e-5)


def test_gradient_loss_by_hand():
    # The log error is 1 at row 0, column 0 and 0 elsewhere. Stride 1: a difference of 1 down and one to the right, over
    # 4 × 5 pixels. Stride 2: 2 × 3 pixels, so no rows two apart, one difference to the right. Strides 4, 6: none.
    truth = torch.full((1, 4, 5), 1.0)
    prediction = truth.clone()
    prediction[0, 0, 0] = math.e * 1.001 - 0.001
    assert depth_scores.gradient_loss(prediction, truth, 1).item() == pytest.approx(2 / 20 + 1 / 6, rel=1e-5)
    truth[0, 2, 0] = 0  # the pixel two below is not measured: neither the difference to it nor itself counts
    assert depth_scores.gradient_loss(prediction, truth, 1).item() == pytest.approx(1 / 19 + 1 / 5, rel=1e-5)
    masked = truth.clone()
    masked[0] = 0
    assert depth_scores.gradient_loss(prediction, masked, 1).item() == 0
