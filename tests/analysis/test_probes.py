"""Probes on features that hold the class, the position or the pixels, and on noise that holds nothing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge

from benchmarks.speed.memory import peak_memory
from regvit_lightning import settings
from regvit_lightning.analysis import local_probes, logistic, probes
from regvit_lightning.analysis.local_probes import LocalSettings
from regvit_lightning.analysis.logistic import Linear, logistic_regression
from regvit_lightning.analysis.probes import Features, TokenSettings
from regvit_lightning.errors import UserError
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.settings import SettingsError

QUICK = {"draws": 3, "exponents": [-2.0, 0.0, 2.0], "iterations": 200}
GRID = (3, 4)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def first_patch_is_outlier(images):
    outliers = torch.zeros(images, *GRID, dtype=torch.bool)
    outliers[:, 0, 0] = True
    return outliers


# ------------------------------------------------------------------------------------------------ the single token


def batch(images, seed, outliers=None):
    """CLS, register 0 and outliers hold one of 4 classes; normal patches and register 1 hold nothing."""
    labels = torch.arange(images) % 4
    outliers = first_patch_is_outlier(images) if outliers is None else outliers
    patches, codes = random(images, *GRID, 6, seed=seed), 10 * torch.eye(4, 6)[labels]
    patches = torch.where(outliers[..., None], codes[:, None, None], patches)
    registers = torch.stack([codes, random(images, 6, seed=seed + 100)], dim=1)
    return Tokens(codes, registers, patches), patches.norm(dim=-1), outliers, labels


def drawn(images, seed, settings, outliers=None):
    return probes.single_tokens(*batch(images, seed, outliers), first=0, settings=settings)


def test_the_class_is_found_where_it_is_and_nowhere_else():
    settings = TokenSettings(**QUICK)
    train, test = drawn(80, 0, settings), drawn(400, 1, settings)
    assert list(train) == ["CLS", "normal", "outlier", "reg_0", "reg_1"]
    found = {name: probes.classify(train[name], test[name], settings) for name in train}
    for name in ("CLS", "outlier", "reg_0"):
        assert found[name].mean == 100.0
    for name in ("normal", "reg_1"):
        assert abs(found[name].mean - 25) < 8  # three standard deviations of 400 fair guesses are 6.5
    assert {name: score.right.shape for name, score in found.items()} == {
        "CLS": (1, 400), "normal": (3, 400), "outlier": (3, 400), "reg_0": (1, 400), "reg_1": (1, 400)
    }  # fmt: skip
    assert found["outlier"].spread == 0 < found["normal"].spread
    assert math.isnan(found["CLS"].spread)


@hypothesis_settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), split=st.integers(1, 7), share=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_tokens_are_drawn_from_their_kind_whatever_the_batch(seed, split, share):
    settings = TokenSettings(draws=4)
    outliers = torch.rand(8, *GRID, generator=torch.Generator().manual_seed(seed)) < share
    tokens, norms, outliers, labels = batch(8, seed, outliers)
    whole = probes.single_tokens(tokens, norms, outliers, labels, 0, settings, seed)
    parts = []
    for first, last in ((0, split), (split, 8)):
        some = slice(first, last)
        of_batch = Tokens(tokens.cls[some], tokens.registers[some], tokens.patches[some])
        parts.append(probes.single_tokens(of_batch, norms[some], outliers[some], labels[some], first, settings, seed))
    joined = probes.joined(parts)
    for name, features in whole.items():
        assert torch.equal(features.values, joined[name].values)
        assert torch.equal(features.labels, joined[name].labels)
    for name, mask in {"normal": ~outliers, "outlier": outliers}.items():
        images = mask.any(dim=(1, 2)).nonzero()[:, 0]
        assert whole[name].labels.tolist() == labels[images].tolist()
        for place, image in enumerate(images):
            candidates = tokens.patches[image][mask[image]]
            for value in whole[name].values[:, place]:
                assert (value == candidates).all(dim=1).any()


def test_every_candidate_is_drawn_equally_often():
    settings = TokenSettings(draws=3000)
    places = torch.arange(12.0).view(1, *GRID, 1)
    outliers = torch.zeros(1, *GRID, dtype=torch.bool)
    outliers[0, :2, :2] = True
    tokens = Tokens(None, torch.zeros(1, 0, 1), places)
    found = probes.single_tokens(tokens, places[..., 0], outliers, torch.tensor([0]), 0, settings)
    assert set(found) == {"normal", "outlier"}
    values, counts = found["outlier"].values.unique(return_counts=True)
    assert values.tolist() == [0, 1, 4, 5]
    assert (counts - 750).abs().max() < 100  # four standard deviations


def test_images_without_an_outlier():
    outliers = first_patch_is_outlier(6)
    outliers[2:] = False
    skip, largest = (
        drawn(6, 0, TokenSettings(draws=2, without_outlier=how), outliers)["outlier"] for how in ("skip", "largest")
    )
    assert skip.values.shape == (2, 2, 6)
    assert largest.values.shape == (2, 6, 6)
    tokens, norms, _, _ = batch(6, 0, outliers)
    expected = tokens.patches[3].flatten(0, 1)[norms[3].argmax()]
    assert torch.equal(largest.values[:, 3], expected.expand(2, -1))
    assert torch.equal(largest.values[:, :2], skip.values)


def test_without_any_outlier_there_is_no_score():
    settings = TokenSettings(**QUICK)
    nothing = drawn(8, 0, settings, torch.zeros(8, *GRID, dtype=torch.bool))["outlier"]
    assert probes.classify(nothing, nothing, settings) is None
    one_class = Features(random(1, 8, 6), torch.zeros(8, dtype=torch.long))
    assert probes.classify(one_class, one_class, settings) is None


def test_c_is_chosen_on_held_out_train():
    # The class is in 1 of 60 noisy dimensions: a strong penalty must be preferred to a weak one.
    labels = torch.arange(120) % 2
    values = random(1, 120, 60)
    values[..., 0] += 1.2 * (2 * labels - 1)
    few = Features(values, labels)
    found = probes.classify(few, few, TokenSettings(exponents=[-2.0, 5.0], held_out=0.5))
    assert found.C == 0.01
    assert probes.classify(few, few, TokenSettings(exponents=[5.0])).C == 1e5


@pytest.mark.parametrize("word", ["draws=0", "without_outlier=no", "exponents=[]", "held_out=1"])
def test_settings_out_of_range(word):
    with pytest.raises(SettingsError, match=word.partition("=")[0]):
        settings.build(TokenSettings, words=[word])
    with pytest.raises(SettingsError, match="pixels=grey: expected bytes or normalised"):
        LocalSettings(pixels="grey")


@pytest.mark.parametrize("C", [0.01, 1.0, 30.0])
def test_the_regression_is_that_of_scikit_learn(C):
    labels = torch.arange(60) % 3
    features = 2 * random(60, 5) + torch.eye(3, 5)[labels]
    theirs = LogisticRegression(C=C, tol=1e-10, max_iter=2000).fit(features.double().numpy(), labels.numpy())
    ours = logistic_regression(features, labels, 3, 1 / (2 * 60 * C), 2000)
    torch.testing.assert_close(ours.weight, torch.from_numpy(theirs.coef_).T, atol=2e-4, rtol=1e-3)


def unequal(images, width, seed=0):
    """Features that vary ten thousand times more along some directions than along others, far from zero; classes."""
    labels = torch.arange(images) % 4
    spread = torch.logspace(-2, 2, width)
    turn, _ = torch.linalg.qr(random(width, width, seed=seed + 1))
    return (random(images, width, seed=seed) * spread + torch.eye(4, width)[labels]) @ turn + 5, labels


@pytest.mark.parametrize("C", [1e-3, 1.0, 1e3])
def test_features_of_unequal_spread_have_the_optimum_of_scikit_learns_newton_method(C):
    features, labels = unequal(120, 24)
    ours = logistic_regression(features, labels, 4, 1 / (2 * 120 * C), 200)
    rows = features.double().numpy()
    theirs = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(rows, labels.numpy())
    shift = theirs.intercept_ - theirs.intercept_.mean()  # a constant for all classes is free
    np.testing.assert_allclose(ours.weight.T, theirs.coef_, rtol=1e-3, atol=1e-4 * abs(theirs.coef_).max())
    np.testing.assert_allclose(ours.bias - ours.bias.mean(), shift, rtol=1e-3, atol=1e-3 * abs(shift).max())
    np.testing.assert_array_equal(ours(features).argmax(dim=1), theirs.predict(rows))


@pytest.mark.parametrize("several", [False, True])
def test_at_the_optimum_autograd_finds_no_slope(several):
    """The loss written down anew; on such features plain L-BFGS is far from there after as many steps."""
    features, labels = unequal(120, 24)
    targets = torch.eye(4)[labels].masked_fill(random(120, 4, seed=5) > 1.5, torch.nan) if several else labels
    found = logistic_regression(features, targets, 4, 1e-5, 60)
    weight, bias = found.weight.requires_grad_(), found.bias.requires_grad_()
    logits = features.double() @ weight + bias
    if several:
        known = ~targets.isnan()
        summed = torch.nn.functional.binary_cross_entropy_with_logits(
            logits[known], targets[known].double(), reduction="sum"
        )
    else:
        summed = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    (summed / 120 + 1e-5 * weight.square().sum()).backward()
    assert weight.grad.norm() < 2e-5
    assert bias.grad.norm() < 1e-6


def test_a_small_regression_takes_one_thread_and_gives_the_others_back(monkeypatch):
    seen, before = set(), torch.get_num_threads()
    turn = logistic._turn
    monkeypatch.setattr(logistic, "_turn", lambda rows: seen.add(torch.get_num_threads()) or turn(rows))
    torch.set_num_threads(2)
    try:
        logistic_regression(random(40, 3), torch.arange(40) % 2, 2, 1.0, 5)
        assert (seen, torch.get_num_threads()) == ({1}, 2)
        monkeypatch.setattr(logistic, "PRODUCTS", 1)
        logistic_regression(random(40, 3), torch.arange(40) % 2, 2, 1.0, 5)
        assert seen == {1, 2}
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------------------------------------- position and pixels


def local(images, features, seed=0, scale="bytes"):
    """Random images of 3 x 4 patches of 2 px; the features of a patch are made by `features(positions, pixels)`."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 256, (images, 3, 6, 8), dtype=torch.uint8, generator=generator)
    mean, std, outliers = torch.full((3,), 0.5), torch.full((3,), 0.25), first_patch_is_outlier(images)
    empty = local_probes.patches(torch.zeros(images, *GRID, 1), outliers, pictures, mean, std, scale)
    made = features(empty.positions, empty.pixels).view(images, *GRID, -1)
    return local_probes.patches(made, outliers, pictures, mean, std, scale)


def test_patches_carry_their_own_pixels():
    pictures = torch.arange(2 * 3 * 6 * 8).reshape(2, 3, 6, 8).to(torch.uint8)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    arguments = torch.zeros(2, *GRID, 5), first_patch_is_outlier(2), pictures, mean, std
    found = local_probes.patches(*arguments, "bytes")
    assert (found.features.shape, found.pixels.shape, found.grid) == ((24, 5), (24, 12), GRID)
    assert found.positions.tolist() == [*range(12), *range(12)]
    assert found.outliers.nonzero()[:, 0].tolist() == [0, 12]
    patch = pictures[1, :, 2:4, 6:8]  # row 1, column 3 of the second image
    assert torch.equal(found.pixels[12 + 7], patch.float().flatten())
    expected = (patch / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(local_probes.patches(*arguments, "normalised").pixels[12 + 7], expected.flatten())


def position(train, test, shared, tokens=100_000):
    """Scores of the position probe after all of `train` and `test`."""
    probe = local_probes.PositionProbe(shared, tokens, len(train))
    for image in train:
        probe.train(image)
    for image in test:
        probe.test(image)
    return probe.scores()


def pixels_of(train, held_out, test, shared):
    """Scores of the pixel probe after all of `train`, `held_out` and `test`."""
    probe = local_probes.PixelProbe(shared)
    for add, images in ((probe.train, train), (probe.held_out, held_out), (probe.test, test)):
        for image in images:
            add(image)
    return probe.scores()


def holds_position(positions, pixels):
    return torch.eye(12)[positions] @ random(12, 20, seed=9)


def holds_nothing(positions, pixels):
    return random(len(positions), 20, seed=int(pixels.sum()) % 1000)


@pytest.mark.parametrize("shared", [True, False])
@torch.inference_mode()
def test_position_is_found_where_it_is(shared):
    found = position([local(4, holds_position), local(3, holds_position, 1)], [local(5, holds_position, 2)], shared)
    assert found["normal"] == local_probes.PositionScore(100.0, 0.0, 55)
    assert found["outlier"] == local_probes.PositionScore(100.0, 0.0, 5)


def test_position_in_noise_is_chance():
    found = position([local(60, holds_nothing)], [local(100, holds_nothing, 1)], shared=True)["normal"]
    assert abs(found.top1 - 100 / 12) < 4  # three standard deviations of 1100 fair guesses are 2.5


def test_position_is_lost_in_outliers_only():
    def half(positions, pixels):
        return torch.where((positions == 0)[:, None], 0.0, holds_position(positions, pixels))

    train, test = [local(6, half)], [local(6, half, 1)]
    assert position(train, test, shared=True)["normal"].top1 == 100.0
    # Seen from the upper left patch, a guess at row 2 and column 3 is off by the square root of 13.
    last = Linear(torch.zeros(20, 12), torch.eye(12)[11])
    wrong = local_probes._position_score(local_probes._position_errors(last, test[0].kept(test[0].outliers)))
    assert (wrong.top1, wrong.patches) == (0.0, 6)
    assert wrong.distance == pytest.approx(math.sqrt(13))


def test_a_kind_that_is_missing_has_no_score():
    batch = local(4, holds_position)
    normal = batch.kept(~batch.outliers)
    assert position([normal], [batch], shared=False)["outlier"] is None
    assert position([batch], [normal], shared=True)["outlier"] is None
    assert pixels_of([normal], [batch], [batch], shared=False)["outlier"] is None
    assert pixels_of([batch], [batch], [normal], shared=True)["outlier"] is None


def test_as_many_random_tokens_of_each_train_image_as_the_bound_allows():
    images = [local(1, holds_position, seed) for seed in range(5)]
    probe = local_probes.PositionProbe(True, 24, len(images), seed=3)  # 60 tokens in all
    for image in images:
        probe.train(image)
    drawn = [part.positions.tolist() for part in probe._train]
    assert [len(set(positions)) for positions in drawn] == [4] * 5
    assert len({tuple(positions) for positions in drawn}) > 1
    for part, image in zip(probe._train, images, strict=True):
        assert torch.equal(part.features, image.features[part.positions])
        assert torch.equal(part.outliers, image.outliers[part.positions])
    again = local_probes.PositionProbe(True, 24, len(images), seed=4)
    again.train(images[0])
    assert again._train[0].positions.tolist() != drawn[0]
    assert position(images * 4, [local(5, holds_position, 9)], True, tokens=120)["normal"].top1 == 100


def test_the_regression_does_not_depend_on_its_blocks(monkeypatch):
    features, labels = random(50, 6), torch.arange(50) % 4
    whole = logistic_regression(features, labels, 4, 1e-2, 500)
    monkeypatch.setattr(logistic, "LOGITS", 4 * 7)
    parts = logistic_regression(features, labels, 4, 1e-2, 500)
    torch.testing.assert_close(parts.weight, whole.weight, atol=1e-8, rtol=1e-8)


def test_logits_of_518_px_are_never_in_memory_at_once():
    """60,000 tokens × 1,369 positions in float64 are 660 MB; features take 2 × 8 N D bytes, a block of logits 8 MiB.

    The rest of the bound is what libraries keep, which depends on what the process has done before.
    """
    tokens, width = 60_000, 64
    rows = local_probes.Patches(
        random(tokens, width), torch.arange(tokens) % 1369, torch.zeros(tokens, 0), torch.zeros(tokens) > 0, (37, 37)
    )
    with peak_memory() as peak, pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_probes, "POSITION_STEPS", 1)
        local_probes._standardised_regression(rows)
    assert peak.bytes < 16 * tokens * width + (200 << 20)


def test_the_penalty_of_the_pixels_is_chosen_on_held_out():
    # One image has 12 rows for 20 dimensions of noise: on those rows no penalty is best, on others the largest.
    train, held_out, test = ([local(n, holds_nothing, seed)] for seed, n in enumerate((1, 60, 20)))
    assert pixels_of(train, held_out, test, shared=True)["normal"].penalty == max(local_probes.PENALTIES)


def test_positions_need_one_grid():
    small = local(2, holds_position)
    other = local_probes.patches(
        torch.zeros(1, 2, 2, 20), torch.zeros(1, 2, 2, dtype=torch.bool), torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
        torch.zeros(3), torch.ones(3), "bytes",
    )  # fmt: skip
    with pytest.raises(UserError, match="images of one size"):
        position([small, other], [small], shared=True)
    with pytest.raises(UserError, match="train has \\(3, 4\\), test \\(2, 2\\)"):
        position([small], [other], shared=True)


def holds_pixels(positions, pixels):
    return pixels @ random(12, 20, seed=8) + 3


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("scale", ["bytes", "normalised"])
def test_pixels_are_found_where_they_are(shared, scale):
    train, held_out, test = ([local(20, holds_pixels, seed, scale)] for seed in range(3))
    for score in pixels_of(train, held_out, test, shared).values():
        assert score.l2 < 1e-3 * score.l2_of_mean
        assert score.penalty == local_probes.PENALTIES[0]


def test_pixels_in_noise_are_those_of_the_mean_patch():
    train, held_out, test = ([local(60, holds_nothing, seed)] for seed in range(3))
    for score in pixels_of(train, held_out, test, shared=True).values():
        assert score.l2 == pytest.approx(score.l2_of_mean, rel=0.05)
        assert score.rms == pytest.approx(256 / math.sqrt(12), rel=0.05)  # the spread of a uniform byte
    assert score.patches == 60


@hypothesis_settings(max_examples=15, deadline=None)
@given(rows=st.integers(8, 40), exponent=st.integers(-4, 1), split=st.integers(1, 7), seed=st.integers(0, 99))
def test_ridge_in_batches_is_that_of_scikit_learn(rows, exponent, split, seed):
    features, targets = random(rows, 5, seed=seed) + 2, random(rows, 3, seed=seed + 1) - 4
    equations = local_probes.NormalEquations()
    for part in (slice(None, split), slice(split, None)):
        equations.add(features[part], targets[part])
    (model,) = equations.solve([10.0**exponent])
    centred = features.double().numpy() - features.double().numpy().mean(axis=0)
    alpha = 10.0**exponent * (centred**2).sum() / 5  # ours is in mean variances of the features
    expected = Ridge(alpha).fit(features.double().numpy(), targets.double().numpy())
    np.testing.assert_allclose(model.weight.T, expected.coef_, atol=1e-6)
    np.testing.assert_allclose(model.bias, expected.intercept_, atol=1e-6)
    error = (expected.predict(features.double().numpy()) - targets.double().numpy()) ** 2
    assert equations.squared_error(model) == pytest.approx(error.sum(), rel=1e-6)
