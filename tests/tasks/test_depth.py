"""Depth: schedules by torch's own, the head by hand, the protocol around them."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.nn import functional as F

from regvit_lightning import schedules, settings
from regvit_lightning.data import nyu
from regvit_lightning.data.depth_pairs import FRAME, Augmentation
from regvit_lightning.data.stream import Stream
from regvit_lightning.frozen import trainer
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.frozen.trainer import HEAD, LAST
from regvit_lightning.models import sources
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks import depth
from regvit_lightning.tasks.depth import DepthHead
from regvit_lightning.tasks.depth_scores import SCORES
from tests.data.test_nyu import write_bts
from tests.tasks.test_depth_scores import by_numpy


def mini_settings(*words, task="nyud_linear1"):
    defaults = {"workers": "0", "precision": "32-true", "steps": "3", "batch_size": "4", "warmup_steps": "1"}
    chosen = {**defaults, **dict(word.split("=", 1) for word in words)}
    return settings.load_settings("tasks", task, "mini", [f"{key}={value}" for key, value in chosen.items()])[1]


def nano(name="random-vitn_reg4"):
    return sources.load_backbone(name, Path("runs"), image_size=64)


def head(*words, **more):
    torch.manual_seed(0)
    return DepthHead(nano(), mini_settings(*words, **more)).eval()


def pictures(number, rows=64, columns=96):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (number, 3, rows, columns), dtype=torch.uint8, generator=generator)


# ------------------------------------------------------------------------------------------------------ schedules


@pytest.mark.parametrize("steps", [3, 10, 97, 1000])
def test_momentum_is_that_of_torchs_one_cycle(steps):
    optimiser = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1.0, betas=(0.95, 0.999))
    ends = {"base_momentum": 0.85, "max_momentum": 0.95}
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.0, total_steps=steps, **ends)
    for step in range(steps):
        found = schedules.one_cycle(step, steps, 0.95, 0.85)
        assert found == pytest.approx(optimiser.param_groups[0]["betas"][0], abs=1e-12)
        optimiser.step()
        if step < steps - 1:
            cycle.step()
    assert found == pytest.approx(0.95)


def test_the_published_momentum():
    # mmcv's hook turns at step 0.3 × 38,400 - 1 and is half-way at half of that.
    points = {0: 0.95, 11519: 0.85, 38399: 0.95}
    for step, expected in points.items():
        assert schedules.one_cycle(step, 38400, 0.95, 0.85) == pytest.approx(expected, abs=1e-12)
    assert schedules.one_cycle(11519 // 2, 38400, 0.95, 0.85) == pytest.approx(0.9, abs=1e-4)


def test_the_published_learning_rate():
    options = settings.load_settings("tasks", "nyud_linear1")[1]
    assert depth.learning_rate(0, options) == pytest.approx(1e-4 * 1e-3)
    # The warm-up ends a third of the way down the cosine: (1 + cos(pi / 3)) / 2 = 3 / 4.
    assert depth.learning_rate(12800, options) == pytest.approx(0.75e-4, rel=1e-6)
    # Half the warm-up: factor 0.5005, cosine at a sixth.
    assert depth.learning_rate(6400, options) == pytest.approx(0.5005e-4 * (1 + math.cos(math.pi / 6)) / 2, rel=1e-6)
    assert depth.learning_rate(38400, options) == pytest.approx(1e-12)


# ---------------------------------------------------------------------------------------------------------- head


def test_the_blocks_of_lin_1_and_lin_4():
    one_based = {12: [3, 6, 9, 12], 24: [5, 12, 18, 24], 40: [10, 20, 30, 40], 32: [8, 16, 24, 32], 4: [1, 2, 3, 4]}
    for blocks, expected in one_based.items():
        assert [block + 1 for block in depth.feature_blocks(blocks, 4)] == expected
        assert depth.feature_blocks(blocks, 1) == [blocks - 1]
    for blocks in range(4, 60):
        assert len(set(depth.feature_blocks(blocks, 4))) == 4
    with pytest.raises(SettingsError, match="blocks=4: the model has 3"):
        depth.feature_blocks(3, 4)


def test_inputs_by_hand():
    ones, none = torch.ones(1, 2, 3, 2), torch.zeros(1, 0, 2)
    blocks = [Tokens(torch.full((1, 2), 10.0 * n), none, n * ones) for n in (1, 2)]
    with_cls, without = depth.inputs(blocks, True), depth.inputs(blocks, False)
    assert with_cls.shape == (1, 2, 3, 8)
    assert (with_cls == torch.tensor([1.0, 1, 10, 10, 2, 2, 20, 20])).all()
    assert (without == torch.tensor([1.0, 1, 2, 2])).all()


def test_expectation_by_hand():
    centres = torch.linspace(1e-3, 10, 256)
    uniform = depth.expectation(torch.zeros(1, 256, 2, 3), centres)
    torch.testing.assert_close(uniform, torch.full((1, 2, 3), (1e-3 + 10) / 2))
    negative = depth.expectation(torch.full((1, 256, 1, 1), -5.0), centres)
    torch.testing.assert_close(negative, uniform[:, :1, :1])
    # Scores 0, 0.9 and -1 become weights 0.1, 1.0 and 0.1.
    found = depth.expectation(torch.tensor([0.0, 0.9, -1.0]).view(1, 3, 1, 1), torch.tensor([1.0, 2.0, 6.0]))
    assert found.item() == pytest.approx((0.1 * 1 + 1.0 * 2 + 0.1 * 6) / 1.2)


def test_the_convolution_before_the_upsampling_is_the_one_after_it():
    features, convolution = torch.randn(3, 10, 5, 7), nn.Conv2d(10, 16, 1)
    centres = torch.linspace(1e-3, 10, 16)
    fine = F.interpolate(features, scale_factor=4, mode="bilinear", align_corners=False)
    weights = convolution(fine).relu() + 0.1  # as released: on the upsampled features, normalised, then the mean
    expected = ((weights / weights.sum(dim=1, keepdim=True)) * centres.view(-1, 1, 1)).sum(dim=1)
    torch.testing.assert_close(depth.decode(convolution(features), centres), expected, rtol=1e-5, atol=1e-5)


def test_the_head_is_the_published_one():
    published = settings.load_settings("tasks", "nyud_linear4", words=["precision=32-true"])[1]
    module = DepthHead(nano(), published)
    assert module.head.weight.shape == (256, 4 * 2 * 96)
    assert module.centres[[0, -1]].tolist() == pytest.approx([1e-3, 10])
    torch.testing.assert_close(module.centres.diff(), torch.full((255,), (10 - 1e-3) / 255), rtol=1e-3, atol=0)


@pytest.mark.parametrize(("task", "inputs"), [("nyud_linear1", 2 * 96), ("nyud_linear4", 4 * 2 * 96)])
def test_the_head_starts_as_torchs_1_by_1_convolution(task, inputs):
    """The released depth head has no initialisation of its own: uniform within 1 / sqrt(inputs), bias, too."""
    torch.manual_seed(0)
    found = DepthHead(nano(), settings.load_settings("tasks", task, words=["precision=32-true"])[1]).head
    bound = inputs**-0.5
    for ours, theirs in zip(found.parameters(), nn.Conv2d(inputs, 256, 1).parameters(), strict=True):
        assert ours.shape == theirs.squeeze().shape
        for parameter in (ours, theirs):
            assert 0.95 * bound < parameter.abs().max().item() <= bound
            assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
            assert parameter.mean().item() == pytest.approx(0, abs=0.12 * bound)  # 3 standard deviations for the bias


def test_features_are_the_raw_residual_stream_unless_asked_for():
    images, module = pictures(1), head()
    normalised = (images / 255 - module.mean.view(3, 1, 1)) / module.std.view(3, 1, 1)
    raw, normed = (module.frozen(normalised, [-1], norm)[0] for norm in (False, True))
    for tokens, final_norm in ((raw, "false"), (normed, "true")):
        module = head(f"final_norm={final_norm}")
        logits = module.head(depth.inputs([tokens], True)).permute(0, 3, 1, 2)
        expected = F.interpolate(depth.decode(logits, module.centres)[:, None], (50, 70), mode="bilinear")[:, 0]
        torch.testing.assert_close(module.depth(images, (50, 70)), expected)


def test_images_that_are_no_multiple_of_the_patch_are_padded():
    module = head()
    assert module.depth(pictures(1, 60, 90), (60, 90)).shape == (1, 60, 90)


def test_with_flip_the_mirror_image_has_the_mirrored_prediction():
    images = pictures(2)
    apart = {}
    for flip in ("true", "false"):
        module = head(f"flip_test={flip}")
        found, of_mirrored = (module.predict(one, (64, 96)) for one in (images, images.flip(-1)))
        assert (found - found.flip(-1)).abs().max() > 1e-2  # not a symmetric prediction
        apart[flip] = (of_mirrored.flip(-1) - found).abs().max().item()
    assert apart["true"] < 1e-5
    assert apart["false"] > 1e-2  # by itself the backbone knows left from right


def test_flip_averages_depths_and_changes_nothing_where_the_model_mirrors(monkeypatch):
    images, (with_flip, without) = pictures(2), (head(), head("flip_test=false"))
    monkeypatch.setattr(DepthHead, "depth", lambda _, images, size: images.float().mean(dim=1) / 30)
    torch.testing.assert_close(with_flip.predict(images, (64, 96)), without.predict(images, (64, 96)))
    columns = torch.linspace(1, 3, 96).expand(2, 64, 96)
    monkeypatch.setattr(DepthHead, "depth", lambda *_: columns)
    torch.testing.assert_close(with_flip.predict(images, (64, 96)), torch.full((2, 64, 96), 2.0))
    monkeypatch.setattr(DepthHead, "depth", lambda *_: 20 * columns - 40)
    assert without.predict(images, (64, 96)).aminmax() == pytest.approx((1e-3, 10))


def test_without_cls_only_the_patches_are_taken():
    backbone = nano("random-timm/vit_wee_patch16_reg1_gap_256")
    module = DepthHead(backbone, mini_settings())
    assert module.head.in_features == backbone.embed_dim
    assert depth._protocol(module, 1)["cls"] == "left out: the backbone has none"
    assert head("cls=false").head.in_features == 96


def test_only_the_head_is_trained_and_kept():
    module = head().train()
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert trained == {"head.weight", "head.bias"}
    assert set(module.head_state()) == {*trained, "seen"}
    module.depth(pictures(2), (64, 96)).mean().backward()
    assert all(parameter.grad is None for parameter in module.frozen.parameters())
    assert module.head.weight.grad.any()
    assert not module.frozen.backbone.model.training


# ----------------------------------------------------------------------------------------------------------- run


def room(number, size=FRAME):
    """Blocks whose brightness tells their depth, 1 to 9 m: (image, depth in millimetres)."""
    rng = np.random.default_rng(number)
    metres = rng.uniform(1, 9, (6, 8))
    tiles = np.ones((size[0] // 6, size[1] // 8))
    metres = np.kron(metres, tiles)
    image = (255 - 25 * metres)[..., None].repeat(3, axis=2)
    return image.astype(np.uint8), (1000 * metres).astype(np.uint16)


def tiles(number):
    """A frame of 6 × 8 tiles: an image of brightness n tells a depth of n × 50 mm; a tenth was not measured."""
    rng = np.random.default_rng(number)
    values = rng.integers(10, 190, (6, 8)).repeat(80, 0).repeat(80, 1)
    measured = rng.random(values.shape) > 0.1
    return values[..., None].repeat(3, axis=2).astype(np.uint8), (50 * values * measured).astype(np.uint16)


def by_brightness(_, images, size):
    """In place of the network: the depth that the middle of a tile tells."""
    side = images.shape[-2] // 6
    told = images[:, 0, side // 2 :: side, side // 2 :: side].float() * 50 / 1000
    assert told.shape[1:] == (6, 8)
    return told.repeat_interleave(size[0] // 6, dim=1).repeat_interleave(size[1] // 8, dim=2)


@torch.inference_mode()
@pytest.mark.parametrize("flip", ["true", "false"])
def test_a_perfect_predictor_scores_perfectly_through_all_of_test(tmp_path, monkeypatch, flip):
    data = write_bts(tmp_path, [tiles(0)], [tiles(1), tiles(2)])
    module, samples = head(f"flip_test={flip}"), nyu.OrderedPairs(nyu.test_pairs(data), 120, (1e-3, 10.0), True)
    monkeypatch.setattr(DepthHead, "depth", by_brightness)
    batch = nyu.by_size([samples[0], samples[1]])
    assert batch[0]["image"].shape == (2, 3, 120, 160)
    assert batch[0]["depth"].shape == (2, 480, 640)
    module.tested(module.test_step(batch, 0))
    assert sorted(module.scores) == [0, 1]
    for place in (0, 1):
        found = dict(zip(SCORES, module.scores[place][0].tolist(), strict=True))
        assert found == pytest.approx({name: float(name in ("a1", "a2", "a3")) for name in SCORES}, abs=1e-7)
    # And one that says 20 % too much is off by that, but for what is clamped to 10 m.
    monkeypatch.setattr(DepthHead, "depth", lambda *call: 1.2 * by_brightness(*call))
    module.tested(module.test_step(batch, 0))
    truth = samples[0]["depth"][samples[0]["mask"]].double()
    error = (1.2 * truth).clamp(max=10) - truth
    found = dict(zip(SCORES, module.scores[0][0].tolist(), strict=True))
    assert found["abs_rel"] == pytest.approx((error / truth).mean().item(), rel=1e-5)
    assert found["rmse"] == pytest.approx(error.square().mean().sqrt().item(), rel=1e-5)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    root = tmp_path_factory.mktemp("rooms")
    return write_bts(root, [room(number) for number in range(6)], [room(number) for number in (10, 11, 12)])


@pytest.fixture(scope="module")
def outcome(rooms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cell")
    return depth.run(nano(), rooms, mini_settings(), RunOptions(folder=folder)), folder


def test_the_outcome_states_its_protocol(outcome):
    found, folder = outcome
    assert list(found.metrics) == list(SCORES)
    assert found.images == 3
    for name in ("rmse", "abs_rel", "a1"):
        low, high = found.intervals[name]
        assert low <= found.metrics[name] <= high
    assert found.scores["rmse"].shape == (3,)
    assert found.scores["rmse"].mean().item() == pytest.approx(found.metrics["rmse"])
    assert found.protocol["layers"] == [4]
    assert found.protocol["cls"] == "of the same block, beside each patch"
    assert found.protocol["averaging"] == "per image"
    assert found.protocol["checkpoint"] == "last; nothing chosen on test"
    assert found.protocol["gradient_loss"].startswith("none")
    texts = [text.get_text() for axes in found.picture.axes for text in axes.texts if " of 3: " in text.get_text()]
    ordered = sorted(found.scores["rmse"].tolist(), reverse=True)
    names = zip(("worst", "median", "best"), ordered, strict=True)
    assert texts == [f"{name} of 3: rmse {rmse:.2f} m" for name, rmse in names]
    assert (folder / HEAD).exists()
    state = torch.load(folder / LAST, weights_only=True)["state_dict"]
    assert set(state) == {"head.weight", "head.bias", "seen"}


def test_the_floor_is_the_mean_depth_of_the_training_pixels(outcome, rooms):
    options = mini_settings()
    view = Augmentation((104, 136), 120, True, 2.5)
    drawn, stream = nyu.DrawnDepthPairs(nyu.train_pairs(rooms), view, 0), Stream(6, 4, options.steps, 0)
    places = [place for step in range(options.steps) for place in stream.indices(step).tolist()]
    seen = [drawn[draw]["depth"].numpy().astype(np.float64) for draw in enumerate(places)]
    mean = np.concatenate([values[values > 0] for values in seen]).mean()
    rows = []
    for pair in nyu.test_pairs(rooms):
        window = pair.depth[45:471, 41:601].astype(np.float64)
        rows.append(by_numpy(np.full((1, *window.shape), mean), window[None], np.ones((1, *window.shape), bool))[0])
    floor = outcome[0].floors["mean depth"]
    np.testing.assert_allclose(list(floor.values()), np.mean(rows, axis=0), rtol=1e-5)
    assert list(floor) == list(SCORES)


def test_learning_rate_and_momentum_of_every_step(rooms):
    steps = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, *_):
            group = trainer.optimizers[0].param_groups[0]
            steps.append((group["lr"], *group["betas"], group["weight_decay"], trainer.gradient_clip_val))

    options = mini_settings("steps=5", "warmup_steps=2", "lr=0.01")
    depth.run(nano(), rooms, options, RunOptions(callbacks=[Watch()]))
    rates, momenta, second, decay, clip = zip(*steps, strict=True)
    cosine = [(1 + math.cos(math.pi * step / 5)) / 2 for step in range(5)]
    expected = [0.01 * 1e-3, 0.01 * 0.5005 * cosine[1], *(0.01 * value for value in cosine[2:])]
    assert rates == pytest.approx(expected, rel=1e-6)
    assert momenta == pytest.approx([schedules.one_cycle(step, 5, 0.95, 0.85) for step in range(5)])
    assert set(second) == {0.999}
    assert set(decay) == {0.01}
    assert set(clip) == {35.0}


@pytest.mark.parametrize("words", [["device_batch=1"], ["workers=2"]])
def test_how_it_is_run_changes_nothing(outcome, rooms, words):
    found = depth.run(nano(), rooms, mini_settings(*words))
    assert found.metrics == pytest.approx(outcome[0].metrics, rel=1e-4)
    assert found.floors["mean depth"] == pytest.approx(outcome[0].floors["mean depth"])


def test_an_interrupted_training_ends_with_the_same_head_and_floor(rooms, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "CHECKPOINT_EVERY", 2)
    options, step = mini_settings("steps=5"), DepthHead.training_step
    whole, broken = (RunOptions(folder=tmp_path / name) for name in ("whole", "broken"))
    expected = depth.run(nano(), rooms, options, whole)

    def dying(self, *arguments):
        if self.global_step == 3:
            raise KeyError("dies")
        return step(self, *arguments)

    monkeypatch.setattr(DepthHead, "training_step", dying)
    with pytest.raises(KeyError):
        depth.run(nano(), rooms, options, broken)
    monkeypatch.setattr(DepthHead, "training_step", step)
    found = depth.run(nano(), rooms, options, broken)
    assert (tmp_path / "broken" / HEAD).read_bytes() == (tmp_path / "whole" / HEAD).read_bytes()
    assert found.metrics == expected.metrics
    assert found.floors == expected.floors


def test_a_head_learns_what_is_there_to_learn(rooms):
    """Brightness tells the depth, and even random features tell brightness."""
    found = depth.run(nano(), rooms, mini_settings("steps=60", "lr=0.03", "crop=[64,80]", "short_side=80"))
    assert found.metrics["rmse"] < 0.7 * found.floors["mean depth"]["rmse"]
    assert found.metrics["a1"] > 1.5 * found.floors["mean depth"]["a1"]


def test_sizes_may_differ_and_the_gradient_loss_is_another_protocol(tmp_path):
    train = [room(0, (96, 128)), room(1, (120, 80))]
    data = write_bts(tmp_path, train, [room(2, (96, 128)), room(3, (60, 160)), room(4, (96, 128))])
    words = ["border_crop=false", "eigen_crop=false", "short_side=0", "crop=[64,64]"]
    found = depth.run(nano(), data, mini_settings(*words, task="nyud_linear1_gradient"))
    assert found.images == 3
    assert found.protocol["gradient_loss"].startswith("0.5 ×")
    assert found.protocol["view"] == "whole images at their own size"
    without = depth.run(nano(), data, mini_settings(*words))
    assert without.metrics["rmse"] != found.metrics["rmse"]


def test_the_variance_joins_the_loss_after_the_warm_up(rooms, monkeypatch):
    asked, plain = [], depth.sig_loss

    def watched(prediction, truth, images, warmup):
        asked.append((images, warmup))
        return plain(prediction, truth, images, warmup)

    monkeypatch.setattr(depth, "sig_loss", watched)
    depth.run(nano(), rooms, mini_settings("sig_warmup=2"))
    assert asked == [(2, True), (2, True), (2, False)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["blocks=2"], "blocks=2: expected 1 or 4"),
        (["min_depth=0"], r"min_depth=0: must lie in \(0, 1e6\]"),
        (["min_depth=20"], "min_depth=20.0, max_depth=10.0: expected min_depth < max_depth"),
        (["crop=[416]"], r"crop=\[416\]: expected \[rows,columns\]"),
        (["bins=1"], r"bins=1: must lie in \[2, 1e5\]"),
        (["clip=0"], r"clip=0: must lie in \(0, 1e9\]"),
        (["short_side=-1"], r"short_side=-1: must lie in \[0, 1e4\]"),
    ],
)
def test_settings_out_of_range_are_told(words, message):
    with pytest.raises(SettingsError, match=message):
        mini_settings(*words)


def test_a_batch_that_does_not_divide_into_pairs_is_told(rooms):
    with pytest.raises(SettingsError, match=r"batch_size=6: must be a multiple of 4, loss_images=2 × 2 devices"):
        depth.run(nano(), rooms, mini_settings("batch_size=6"), RunOptions(devices=2))


def test_the_three_protocols_differ_in_what_they_say():
    names = "nyud_linear1", "nyud_linear4", "nyud_linear1_gradient"
    one, four, gradient = (dataclasses.asdict(settings.load_settings("tasks", name)[1]) for name in names)
    assert {key for key in one if one[key] != four[key]} == {"blocks"}
    assert {key for key in one if one[key] != gradient[key]} == {"gradient_weight"}
