"""Segmentation: scores by hand and by mmsegmentation's own, its slide inference, the head, the protocol around them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from torch import nn

from regvit_lightning import backbones, settings
from regvit_lightning.data import ade20k
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks import frozen, segmentation
from regvit_lightning.tasks.frozen import HEAD, LAST, How
from regvit_lightning.tasks.segmentation import Segmenter


def mini_settings(*words, task="ade20k_linear"):
    defaults = {"workers": "0", "precision": "32-true", "steps": "3", "batch_size": "4"}
    given = dict(word.split("=", 1) for word in words)
    return settings.load("tasks", task, "mini", [f"{k}={v}" for k, v in {**defaults, **given}.items()])[1]


def nano(name="random-vitn_reg4"):
    return backbones.load(name, Path("runs"), image_size=64)


def segmenter(*words, classes=5, **more):
    torch.manual_seed(0)
    return Segmenter(nano(), mini_settings(*words, **more), classes).eval()


# ------------------------------------------------------------------------------------------------------- scores


def test_scores_by_hand():
    truth = torch.tensor([[0, 0, 1], [1, 2, 255]])
    prediction = torch.tensor([[0, 1, 1], [1, 0, 2]])
    total = segmentation.areas(prediction, truth, classes=4)
    assert total.tolist() == [[1, 2, 0, 0], [2, 3, 0, 0], [2, 2, 1, 0]]
    assert segmentation.ious(total).tolist()[:3] == pytest.approx([100 / 3, 200 / 3, 0])
    assert segmentation.ious(total)[3].isnan()
    found = segmentation.scores(total)
    assert found == pytest.approx({"miou": 100 / 3, "mean_accuracy": 50.0, "pixel_accuracy": 60.0})


@effort(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.integers(1, 3))
def test_scores_are_those_of_mmsegmentation(seed, classes, images):
    from mmseg.evaluation import IoUMetric

    rng = np.random.default_rng(seed)
    maps = [torch.from_numpy(rng.choice([*range(classes), 255], (2, 6, 5))) for _ in range(images)]
    pairs = [(prediction.clamp(max=classes - 1), truth) for prediction, truth in maps]
    total = sum(segmentation.areas(*pair, classes) for pair in pairs)
    areas = [IoUMetric.intersect_and_union(*pair, classes, 255) for pair in pairs]
    if total[2].sum() == 0:
        return
    theirs = IoUMetric.total_area_to_metrics(*(sum(part) for part in zip(*areas, strict=True)))
    ours = segmentation.scores(total)
    expected = np.nanmean(theirs["IoU"]), np.nanmean(theirs["Acc"]), theirs["aAcc"]
    assert list(ours.values()) == pytest.approx([100 * float(value) for value in expected], rel=1e-5)


def test_a_perfect_predictor_scores_100_and_a_constant_one_what_it_should():
    truth = torch.tensor([[0, 0, 0, 1], [2, 2, 255, 0]])
    total = segmentation.areas(truth.clamp(max=2), truth, 3)
    assert segmentation.scores(total) == pytest.approx(dict.fromkeys(("miou", "mean_accuracy", "pixel_accuracy"), 100))
    floor = segmentation.constant(total, 0)
    assert floor == pytest.approx({"miou": 400 / 7 / 3, "mean_accuracy": 100 / 3, "pixel_accuracy": 400 / 7})
    assert floor == segmentation.scores(segmentation.areas(torch.zeros_like(truth), truth, 3))


# -------------------------------------------------------------------------------------------------- slide inference


def test_windows_are_those_of_mmsegmentation():
    from mmseg.models.segmentors import EncoderDecoder

    model = segmenter("crop=32", "stride=20", "device_batch=3").model
    for height, width in ((32, 32), (33, 71), (40, 20), (24, 60)):
        images = torch.randn(2, 3, height, width)
        with torch.inference_mode():
            ours = model.slide_inference(images, [])
            model.test_cfg["mode"] = "slide"
            theirs = EncoderDecoder.slide_inference(model, images, [{}, {}])
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_constant_logits_stay_constant():
    module = segmenter("crop=32", "stride=20", classes=3)
    values = torch.tensor([0.5, -1.0, 2.0])
    module.model.decode_head.conv_seg.weight.data.zero_()
    module.model.decode_head.conv_seg.bias.data = values
    found = module.model.slide_inference(torch.randn(1, 3, 45, 70), [])
    torch.testing.assert_close(found, values.view(1, 3, 1, 1).expand(1, 3, 45, 70))


def _batch(image, flips, truth=(20, 30)):
    """A test image (3, H, W) as the loader gives it, once for each of `flips`, with a mask of another size."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = []
    for flip in flips:
        facts = {"ori_shape": truth, "flip": flip, "flip_direction": "horizontal" if flip else None}
        sample = SegDataSample(metainfo=facts)
        sample.gt_sem_seg = PixelData(data=torch.zeros(1, *truth, dtype=torch.long))
        samples.append([sample])
    return {"inputs": [[image.flip(2) if flip else image] for flip in flips], "data_samples": samples}


@torch.inference_mode()
def test_a_prediction_has_the_size_of_the_mask_and_two_flips_change_nothing():
    module, image = segmenter("crop=32", "stride=20"), torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    once = module.predict(_batch(image, flips=[False]))
    assert once.shape == (20, 30)
    assert len(once.unique()) > 1
    assert (module.predict(_batch(image, flips=[False, False])) == once).all()
    both = module.predict(_batch(image, flips=[False, True]))
    mirrored = module.predict(_batch(image.flip(2), flips=[False, True]))
    assert (mirrored.flip(1) == both).float().mean() > 0.99  # ties fall to rounding


# ------------------------------------------------------------------------------------------------------------ head


def test_the_norm_is_torchs_batch_norm_and_follows_it():
    ours, theirs = segmentation.FeatureNorm(4), nn.BatchNorm2d(4)
    for _ in range(3):
        features = 5 + 2 * torch.randn(2, 4, 3, 6)
        torch.testing.assert_close(ours(features), theirs(features), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(features), theirs(features))


def test_the_loss_is_that_of_mmsegmentation_with_its_gradient():
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    head = segmenter().model.decode_head
    samples = [sample[0] for sample in _batch(torch.zeros(3, 8, 8), [False, False], (16, 24))["data_samples"]]
    for sample in samples:
        sample.gt_sem_seg.data = torch.randint(0, 5, (1, 16, 24))
        sample.gt_sem_seg.data[0, :4] = 255
    logits = torch.randn(2, 5, 4, 6, requires_grad=True)
    losses = [kind.loss_by_feat(head, logits, samples)["loss_ce"] for kind in (segmentation.BNHead, BaseDecodeHead)]
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in losses]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


def test_the_published_head_has_the_published_size():
    options = settings.load("tasks", "ade20k_linear")[1]
    head = Segmenter(nano(), options, 150).model.decode_head
    assert {name: tuple(p.shape) for name, p in head.named_parameters()} == {
        "conv_seg.weight": (150, 96, 1, 1),
        "conv_seg.bias": (150,),
        "norm.weight": (96,),
        "norm.bias": (96,),
    }
    assert head.dropout is None
    assert head.conv_seg.weight.std().item() == pytest.approx(0.01, rel=0.05)
    ms = Segmenter(nano(), settings.load("tasks", "ade20k_ms")[1], 150).model.decode_head
    assert ms.conv_seg.weight.shape == (150, 4 * 96, 1, 1)


def test_learning_rates_at_the_points_of_the_schedule():
    options = settings.load("tasks", "ade20k_linear")[1]
    rate = [segmentation.learning_rate(step, options) for step in (0, 750, 1500, 20000, 40000)]
    halfway = 1e-3 * (1 - 0.5 * (1 - 1e-6)) * (1 - 750 / 40000)
    assert rate == pytest.approx([1e-9, halfway, 1e-3 * (1 - 1500 / 40000), 5e-4, 0])


UPER = "{type: UPerHead, channels: 16, pool_scales: [1, 2], norm_cfg: {type: BN}}"


@pytest.mark.parametrize(
    ("task", "head"),
    [
        ("ade20k_ms", UPER),
        ("ade20k_linear", "{type: FCNHead, channels: 16, num_convs: 1, norm_cfg: {type: BN}}"),
        ("ade20k_ms", "{type: FCNHead, channels: 16, num_convs: 1, input_transform: resize_concat}"),
    ],
)
def test_other_heads_of_mmsegmentation_learn(tiny, task, head):
    options = mini_settings(f"decode_head={head}", "test_scales=[1.0]", task=task)
    outcome = segmentation.run(nano(), tiny, options)
    assert 0 <= outcome.metrics["miou"] <= 100
    assert outcome.protocol["head"]["type"] in ("UPerHead", "FCNHead")


def test_upernet_takes_the_maps_of_four_blocks():
    module = segmenter(f"decode_head={UPER}", task="ade20k_ms")
    maps = module.model.extract_feat(torch.randn(1, 3, 64, 48))
    assert [tuple(one.shape) for one in maps] == [(1, 96, 8, 6)] * 4
    assert module.model.decode_head(maps).shape == (1, 5, 8, 6)


def test_a_head_that_does_not_exist_or_does_not_fit_is_told_in_a_line():
    with pytest.raises(SettingsError, match="has no 'UperHead'; nearest: UPerHead"):
        segmenter("decode_head={type: UperHead}")
    for head in ("{type: BNHead, chanels: 3}", "{type: BNHead, loss_decode: {type: DiceLoss}}"):
        with pytest.raises(SettingsError, match="decode_head=") as error:
            segmenter(f"decode_head={head}")
        assert "\n" not in str(error.value)


def test_an_operator_that_needs_compiling_says_so():
    from mmcv.ops import nms

    from regvit_lightning.errors import UserError

    with pytest.raises(UserError, match="compiled operator 'nms' is needed"):
        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)


# -------------------------------------------------------------------------------------------------------- protocol


def test_nothing_of_the_backbone_is_trained_or_kept():
    module = segmenter()
    module.train()
    assert {name.split(".")[1] for name, p in module.named_parameters() if p.requires_grad} == {"decode_head"}
    maps = module.model.extract_feat(torch.randn(1, 3, 64, 64))
    assert not maps[0].requires_grad
    assert not maps[0].is_inference()
    assert maps[0].dtype == torch.float32
    assert not module.model.backbone.frozen.backbone.model.training
    assert set(module.head_state()) == {
        "seen",
        *(f"model.decode_head.{name}" for name in module.model.decode_head.state_dict()),
    }


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_features_are_computed_without_a_graph_in_the_asked_precision(precision, dtype):
    module, seen = segmenter(f"precision={precision}"), []
    block = module.frozen.backbone.model.blocks[1]
    block.mlp.fc1.register_forward_hook(lambda *call: seen.append((torch.is_inference_mode_enabled(), call[2].dtype)))
    logits = module.model.decode_head(module.model.extract_feat(torch.randn(1, 3, 64, 64)))
    assert seen == [(True, dtype)]
    assert logits.dtype == torch.float32
    assert logits.requires_grad


@pytest.fixture(scope="module")
def outcome(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cell")
    return segmentation.run(nano(), tiny, mini_settings(), How(folder=folder)), folder


def test_the_outcome_states_its_protocol(outcome):
    found, folder = outcome
    assert set(found.metrics) == set(found.intervals) == {"miou", "mean_accuracy", "pixel_accuracy"}
    assert found.images == 1
    assert len(found.per_class) == 150
    assert any(value is None for value in found.per_class.values())
    assert set(found.floors["most frequent class"]) == set(found.metrics)
    assert found.protocol["scored_at"] == "the masks' own size"
    assert found.protocol["classes"] == 150
    assert len(found.picture.axes) > 2
    assert (folder / HEAD).exists()
    assert (folder / LAST).exists()
    assert list((folder / "log").glob("events*"))


def test_running_again_gives_the_same_and_goes_on_from_the_checkpoint(outcome, tiny, tmp_path):
    again = segmentation.run(nano(), tiny, mini_settings(), How(folder=tmp_path))
    assert again.metrics == outcome[0].metrics
    # The checkpoint of the finished training is there: another run only tests.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Segmenter, "training_step", lambda *_: pytest.fail("it trains again"))
        assert segmentation.run(nano(), tiny, mini_settings(), How(folder=tmp_path)).metrics == again.metrics


def test_an_interrupted_training_ends_with_the_same_head(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(frozen, "CHECKPOINT_EVERY", 2)
    whole, broken = (How(folder=tmp_path / name) for name in ("whole", "broken"))
    options = mini_settings("steps=5", "decode_head={type: FCNHead, channels: 8, num_convs: 1, dropout_ratio: 0.5}")
    expected = segmentation.run(nano(), tiny, options, whole)
    step = Segmenter.training_step

    def dying(self, *arguments):
        if self.global_step == 3:
            raise KeyError("dies")
        return step(self, *arguments)

    monkeypatch.setattr(Segmenter, "training_step", dying)
    with pytest.raises(KeyError):
        segmentation.run(nano(), tiny, options, broken)
    monkeypatch.setattr(Segmenter, "training_step", step)
    found = segmentation.run(nano(), tiny, options, broken)
    assert (tmp_path / "broken" / HEAD).read_bytes() == (tmp_path / "whole" / HEAD).read_bytes()
    assert found.metrics == expected.metrics


@pytest.mark.parametrize("words", [["device_batch=1"], ["workers=1"], ["device_batch=3"]])
def test_how_it_is_run_changes_nothing(outcome, tiny, words):
    found = segmentation.run(nano(), tiny, mini_settings(*words))
    assert found.metrics == pytest.approx(outcome[0].metrics, abs=0.5)


def test_a_head_learns_what_is_there_to_learn(tiny):
    """On one image with its own mask the head beats the constant predictor."""
    found = segmentation.run(nano(), tiny, mini_settings("steps=40", "lr=0.03"))
    assert found.metrics["pixel_accuracy"] > found.floors["most frequent class"]["pixel_accuracy"]


def test_vocs_rules_on_a_folder_of_its_own(tmp_path):
    """Three classes, 0 is one of them, 255 is not scored: colours that can be told apart by their patches."""
    from PIL import Image

    colours = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250]], np.uint8)
    for split in ("train", "val"):
        for number in range(6):
            rng = np.random.default_rng([number, len(split)])
            mask = rng.integers(0, 3, (4, 5)).repeat(24, 0).repeat(24, 1).astype(np.uint8)
            for kind, picture, suffix in (("images", colours[mask], "jpg"), ("masks", mask, "png")):
                folder = tmp_path / kind / split
                folder.mkdir(parents=True, exist_ok=True)
                if kind == "masks":
                    picture = np.where(rng.random(mask.shape) < 0.1, 255, picture).astype(np.uint8)
                Image.fromarray(picture).save(folder / f"{number}.{suffix}", quality=95)
    layout = ade20k.Segmentation(
        images=["images/train", "images/val"],
        masks=["masks/train", "masks/val"],
        vocabulary="",
        classes=3,
        zero_is_unlabelled=False,
    )
    data = ade20k.DataSettings(name="own", root=str(tmp_path), segmentation=layout)
    found = segmentation.run(nano(), data, mini_settings("steps=60", "lr=0.05", "short_side=96"))
    assert found.images == 6
    assert found.metrics["miou"] > 60
    assert list(found.per_class) == ["class 0", "class 1", "class 2"]
