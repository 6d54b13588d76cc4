"""Segmentation: scores by hand and by mmsegmentation's own, its slide inference, the head, the protocol around them."""

import copy
import math
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback
from mmengine.dataset import pseudo_collate
from PIL import Image
from torch import nn

from regvit_lightning import settings, statistics
from regvit_lightning.data import ade20k, mmsegmentation
from regvit_lightning.data.image_sets import Segmentation
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.errors import Stopped, UserError
from regvit_lightning.frozen import trainer
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.frozen.trainer import HEAD, LAST
from regvit_lightning.models import sources
from regvit_lightning.settings import SettingsError
from regvit_lightning.statistics import bootstrap
from regvit_lightning.tasks import segmentation
from regvit_lightning.tasks.batch_norm import BatchNorm
from regvit_lightning.tasks.segmentation import Segmenter

mmsegmentation.prepare()  # tests import mmseg, too


def mini_settings(*words, task="ade20k_linear"):
    defaults = {"workers": "0", "precision": "32-true", "steps": "3", "batch_size": "4"}
    given = dict(word.split("=", 1) for word in words)
    return settings.load_settings("tasks", task, "mini", [f"{k}={v}" for k, v in {**defaults, **given}.items()])[1]


def nano(name="random-vitn_reg4"):
    return sources.load_backbone(name, Path("runs"), image_size=64)


def segmenter(*words, classes=5, **more):
    torch.manual_seed(0)
    return Segmenter(nano(), mini_settings(*words, **more), classes).eval()


# ------------------------------------------------------------------------------------------------------- scores


def test_scores_by_hand():
    truth = torch.tensor([[0, 0, 1], [1, 2, 255]])
    prediction = torch.tensor([[0, 1, 1], [1, 0, 2]])
    total = segmentation.areas(prediction, truth, classes=4)
    assert total.tolist() == [[1, 2, 0, 0], [2, 3, 0, 0], [2, 2, 1, 0]]
    assert statistics.ious(total).tolist()[:3] == pytest.approx([100 / 3, 200 / 3, 0])
    assert np.isnan(statistics.ious(total)[3])
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


def test_without_a_labelled_pixel_there_is_no_score(recwarn):
    """No record then; and an interval leaves out the resampled sets that hold unlabelled images only."""
    assert all(math.isnan(value) for value in segmentation.scores(torch.zeros(3, 4)).values())
    empty, right = torch.zeros(3, 4), torch.ones(3, 4)
    low, high = bootstrap(torch.stack([empty, right]), 0, lambda mean: segmentation.scores(mean)["miou"])
    assert (low, high) == (100, 100)
    module = SimpleNamespace(areas=torch.zeros(5, 3, 4, dtype=torch.long))
    data = DataSettings(name="none", segmentation=Segmentation(classes=4, vocabulary=""))
    with pytest.raises(UserError, match="miou is undefined: no pixel of the 5 test masks has a label"):
        segmentation._outcome(module, data, 1, [], 0)
    assert not recwarn.list


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
def test_a_prediction_has_the_size_of_the_mask():
    module, image = segmenter("crop=32", "stride=20"), torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    found = module.predict(_batch(image, flips=[False]))
    assert found.shape == (20, 30)
    assert len(found.unique()) > 1


@torch.inference_mode()
def test_with_flip_the_mirror_image_has_the_mirrored_prediction():
    module, image = segmenter("crop=32", "stride=20"), torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)

    def agreement(flips):
        found, of_mirrored = (module.predict(_batch(one, flips)) for one in (image, image.flip(2)))
        return (of_mirrored.flip(1) == found).float().mean().item()

    assert agreement([False, True]) > 0.99  # ties fall to rounding
    assert agreement([True, False]) > 0.99
    assert agreement([False]) < 0.9  # by itself the backbone knows left from right
    assert agreement([True]) < 0.9


@torch.inference_mode()
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_views_probabilities_are_averaged(monkeypatch, order):
    """Softmax (0.73, 0.27, 0.00) and (0.01, 0.02, 0.98): the mean (0.37, 0.14, 0.49) says class 2.

    The mean of the sigmoids (0.75, 0.86, 0.52) would say class 1, that of the logits 0 (or 1).
    """
    module, images = segmenter("crop=32", "stride=32", classes=3), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    images[1] = 255
    logits = torch.tensor([[6.0, 5.0, -3.0], [0.0, 1.0, 5.0]])

    def by_brightness(windows, _):
        return logits[int(windows.mean() > 0)].view(1, 3, 1, 1).expand(len(windows), 3, *windows.shape[2:])

    monkeypatch.setattr(module.model, "encode_decode", by_brightness)
    samples = _batch(images[0], flips=[False, False])["data_samples"]
    alone = [module.predict({"inputs": [[image]], "data_samples": samples[:1]}).unique().tolist() for image in images]
    assert alone == [[0], [2]]
    found = module.predict({"inputs": [[images[number]] for number in order], "data_samples": samples})
    assert found.unique().tolist() == [2]


# ------------------------------------------------------------------------------------------------- images to backbone


def write_split(root, colours, masks):
    """The same images (PNG) and masks (numbers as they are) as train and test split: (data settings)."""
    layout = Segmentation(
        images=["images/train", "images/val"],
        masks=["masks/train", "masks/val"],
        image_suffix=".png",
        vocabulary="",
        classes=3,
        zero_is_unlabelled=False,
    )
    for folder, pictures in zip((*layout.images, *layout.masks), (colours, colours, masks, masks), strict=True):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures):
            Image.fromarray(np.asarray(picture, np.uint8)).save(root / folder / f"{number}.png")
    return DataSettings(name="own", root=str(root), segmentation=layout)


# A red pixel under the mean and standard deviation of ImageNet, in the order red, green, blue.
RED = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0 - 0.406) / 0.225]


@torch.inference_mode()
@pytest.mark.parametrize("training", [False, True])
def test_a_red_image_arrives_at_the_backbone_as_red(tmp_path, training):
    red = np.zeros((64, 80, 3), np.uint8)
    red[..., 0] = 255
    data, module, seen = write_split(tmp_path, [red], [red[..., 1]]), segmenter(classes=3), []
    module.frozen.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    if training:
        pipeline = ade20k.train_pipeline(data.segmentation, 64, [1.0, 1.0], 64)
        pipeline = [step for step in pipeline if "PhotoMetric" not in type(step).__name__]
        batch = pseudo_collate([ade20k.train_images(data, pipeline)[0]])
        module.model.extract_feat(module.model.data_preprocessor(batch, training=True)["inputs"])
    else:
        pipeline = ade20k.test_pipeline(data.segmentation, 64, [1.0], True)
        module.predict(pseudo_collate([ade20k.test_images(data, pipeline)[0]]))
    assert seen
    for images in seen:
        torch.testing.assert_close(images, torch.tensor(RED).view(1, 3, 1, 1).expand_as(images), rtol=1e-4, atol=1e-4)


def test_a_crop_that_is_too_small_is_filled_below_and_right(tmp_path):
    """The image with 0 after normalisation, the mask with no label."""
    red, numbers = np.zeros((20, 28, 3), np.uint8), np.random.default_rng(0).integers(0, 3, (20, 28))
    red[..., 0] = 255
    data, module = write_split(tmp_path, [red], [numbers]), segmenter("crop=32", "stride=20", classes=3)
    pipeline = ade20k.train_pipeline(data.segmentation, 20, [1.0, 1.0], 32)
    pipeline = [step for step in pipeline if type(step).__name__ not in ("PhotoMetricDistortion", "RandomFlip")]
    images = ade20k.train_images(data, pipeline)
    found = module.model.data_preprocessor(pseudo_collate([images[0], images[0]]), training=True)
    inputs = found["inputs"]
    assert inputs.shape == (2, 3, 32, 32)
    expected = torch.tensor(RED).view(1, 3, 1, 1).expand(2, 3, 20, 28)
    torch.testing.assert_close(inputs[..., :20, :28], expected, rtol=1e-4, atol=1e-4)
    assert not inputs[..., 20:, :].any()
    assert not inputs[..., 28:].any()
    for sample in found["data_samples"]:
        labels = sample.gt_sem_seg.data[0]
        assert labels.shape == (32, 32)
        assert (labels[:20, :28].numpy() == numbers).all()
        assert (labels[20:] == 255).all()
        assert (labels[:, 28:] == 255).all()


@torch.inference_mode()
def test_windows_are_padded_around_to_whole_patches():
    module, seen = segmenter("crop=60", "stride=40"), []
    module.frozen.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    image = torch.full((3, 60, 60), 255, dtype=torch.uint8)
    module.predict(_batch(image, flips=[False]))
    (window,) = seen
    assert window.shape == (1, 3, 64, 64)  # patches of 8
    assert (window[..., 2:62, 2:62] > 1).all()
    window[..., 2:62, 2:62] = 0
    assert not window.any()


TILES = np.random.default_rng(5).integers(0, 3, (5, 6))  # of 8 × 8 pixels


def by_colour(module):
    """In place of the network: the logits of the classes are the red, green and blue of a pixel."""
    mean, std = (getattr(module, name).view(3, 1, 1) for name in ("mean", "std"))
    return lambda windows, _: 20 * (windows * std + mean)


@torch.inference_mode()
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("side", [40, 80])
def test_a_perfect_predictor_scores_100_through_all_of_test(tmp_path, monkeypatch, flip, side):
    masks = [TILES.repeat(8, 0).repeat(8, 1), TILES.T.repeat(8, 0).repeat(8, 1)]
    colours = [255 * np.eye(3, dtype=np.uint8)[mask] for mask in masks]
    masks = [np.where(np.indices(mask.shape).sum(0) % 11 == 0, 255, mask) for mask in masks]  # some without a label
    data, module = write_split(tmp_path, colours, masks), segmenter("crop=32", "stride=20", classes=3)
    images = ade20k.test_images(data, ade20k.test_pipeline(data.segmentation, side, [1.0], flip))
    monkeypatch.setattr(module.model, "encode_decode", by_colour(module))
    for place in range(2):
        batch = pseudo_collate([images[place]])
        assert [tuple(view[0].shape[1:])[place] for view in batch["inputs"]] == [side] * (1 + flip)
        module.tested(module.test_step(batch, place))
    module.on_test_epoch_end()
    assert module.areas.shape == (2, 3, 3)
    assert module.areas[:, 2].sum(1).tolist() == [(mask != 255).sum() for mask in masks]
    assert segmentation.scores(module.areas.sum(0)) == dict.fromkeys(("miou", "mean_accuracy", "pixel_accuracy"), 100)
    # And one that takes green for red is wrong about exactly those.
    monkeypatch.setattr(module.model, "encode_decode", lambda *call: by_colour(module)(*call)[:, [1, 0, 2]])
    module._areas.clear()
    module.tested(module.test_step(pseudo_collate([images[0]]), 0))
    module.on_test_epoch_end()
    assert statistics.ious(module.areas[0]).tolist() == [0, 0, 100]


# ------------------------------------------------------------------------------------------------------------ head


def test_the_loss_is_that_of_mmsegmentation_with_its_gradient():
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    from regvit_lightning.tasks.segmentor import BNHead

    head = segmenter().model.decode_head
    samples = [sample[0] for sample in _batch(torch.zeros(3, 8, 8), [False, False], (16, 24))["data_samples"]]
    for sample in samples:
        sample.gt_sem_seg.data = torch.randint(0, 5, (1, 16, 24))
        sample.gt_sem_seg.data[0, :4] = 255
    logits = torch.randn(2, 5, 4, 6, requires_grad=True)
    losses = [kind.loss_by_feat(head, logits, samples)["loss_ce"] for kind in (BNHead, BaseDecodeHead)]
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in losses]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


def test_the_published_head_has_the_published_size():
    options = settings.load_settings("tasks", "ade20k_linear")[1]
    head = Segmenter(nano(), options, 150).model.decode_head
    assert {name: tuple(p.shape) for name, p in head.named_parameters()} == {
        "conv_seg.weight": (150, 96, 1, 1),
        "conv_seg.bias": (150,),
        "norm.weight": (96,),
        "norm.bias": (96,),
    }
    assert head.dropout is None
    assert head.conv_seg.weight.std().item() == pytest.approx(0.01, rel=0.05)
    ms = Segmenter(nano(), settings.load_settings("tasks", "ade20k_ms")[1], 150).model.decode_head
    assert ms.conv_seg.weight.shape == (150, 4 * 96, 1, 1)


def test_learning_rates_at_the_points_of_the_schedule():
    options = settings.load_settings("tasks", "ade20k_linear")[1]
    rate = [segmentation.learning_rate(step, options) for step in (0, 750, 1500, 20000, 40000)]
    halfway = 1e-3 * (1 - 0.5 * (1 - 1e-6)) * (1 - 750 / 40000)
    assert rate == pytest.approx([1e-9, halfway, 1e-3 * (1 - 1500 / 40000), 5e-4, 0])


UPER = "{type: UPerHead, channels: 16, pool_scales: [1, 2], norm_cfg: {type: BN}}"


@pytest.fixture(scope="module")
def crops(tiny):
    """Four training crops."""
    pipeline = ade20k.train_pipeline(tiny.segmentation, 96, [0.5, 2.0], 64)
    images = ade20k.Augmented(ade20k.train_images(tiny, pipeline), 0)
    return [images[(position, position % 2)] for position in range(4)]


@pytest.mark.parametrize(
    ("task", "head"),
    [
        ("ade20k_linear", "{type: BNHead}"),
        ("ade20k_ms", UPER),
        ("ade20k_linear", "{type: FCNHead, channels: 16, num_convs: 1, norm_cfg: {type: BN}}"),
        ("ade20k_ms", "{type: FCNHead, channels: 16, num_convs: 1, input_transform: resize_concat}"),
    ],
)
def test_heads_learn(crops, monkeypatch, task, head):
    """Fifteen steps on one batch: the loss falls, and there is a gradient for every number of the head."""
    module = segmenter(f"decode_head={head}", "lr=0.01", classes=150, task=task).train()
    monkeypatch.setattr(module, "log", lambda *_: None)  # there is no Trainer
    optimiser, losses = module.configure_optimizers(), []
    trained = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in module.model.decode_head.parameters()}
    for _ in range(15):
        loss = module.training_step(pseudo_collate(copy.deepcopy(crops)), 0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        for name, parameter in module.model.decode_head.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
    assert losses[0] < 1.3 * np.log(150)  # it starts with all classes about alike
    assert np.mean(losses[-3:]) < 0.6 * losses[0]
    assert all(parameter.grad is None for parameter in module.frozen.parameters())
    norms = [part for part in module.model.decode_head.modules() if isinstance(part, BatchNorm)]
    assert all(norm.running_mean.abs().max() > 0 for norm in norms)  # what test will normalise by


def test_every_norm_of_a_head_is_that_over_all_devices():
    for task, head in (
        ("ade20k_ms", UPER),
        ("ade20k_ms", UPER.replace("BN}", "SyncBN}")),
        ("ade20k_linear", "{type: BNHead}"),
    ):
        found = segmenter(f"decode_head={head}", task=task).model.decode_head.modules()
        norms = [part for part in found if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        assert norms
        assert {type(norm) for norm in norms} == {BatchNorm}


def test_upernet_takes_the_maps_of_four_blocks():
    module = segmenter(f"decode_head={UPER}", task="ade20k_ms")
    maps = module.model.extract_feat(torch.randn(1, 3, 64, 48))
    assert [tuple(one.shape) for one in maps] == [(1, 96, 8, 6)] * 4
    assert module.model.decode_head(maps).shape == (1, 5, 8, 6)


def test_a_head_that_does_not_exist_or_does_not_fit_is_told_in_a_line():
    with pytest.raises(SettingsError, match="has no 'UperHead'; nearest: UPerHead"):
        segmenter("decode_head={type: UperHead}")
    with pytest.raises(SettingsError, match="in_channels, num_classes follow from backbone and data"):
        segmenter("decode_head={type: BNHead, num_classes: 4, in_channels: 7}")
    for head in ("{type: BNHead, chanels: 3}", "{type: BNHead, loss_decode: {type: DiceLoss}}"):
        with pytest.raises(SettingsError, match="decode_head=") as error:
            segmenter(f"decode_head={head}")
        assert "\n" not in str(error.value)


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
    return segmentation.run(nano(), tiny, mini_settings(), RunOptions(folder=folder)), folder


def test_the_outcome_states_its_protocol(outcome):
    found, folder = outcome
    assert set(found.metrics) == set(found.intervals) == {"miou", "mean_accuracy", "pixel_accuracy"}
    assert found.images == 1
    assert found.scores["miou"].shape == (1, 3, 150)
    assert statistics.miou(found.scores["miou"].double().mean(dim=0).numpy()) == pytest.approx(found.metrics["miou"])
    assert len(found.per_class) == 150
    assert any(value is None for value in found.per_class.values())
    assert set(found.floors["most frequent class"]) == set(found.metrics)
    assert found.protocol["scored_at"] == "the masks' own size"
    assert found.protocol["classes"] == 150
    texts = [text.get_text() for axes in found.picture.axes for text in axes.texts]
    assert f"worst of 1: mIoU {found.metrics['miou']:.1f} %" in texts
    assert (folder / HEAD).exists()
    assert (folder / LAST).exists()
    assert list((folder / "log").glob("events*"))


def test_a_finished_training_is_only_tested(outcome, tiny, tmp_path, monkeypatch):
    shutil.copytree(outcome[1], tmp_path / "cell")
    monkeypatch.setattr(Segmenter, "training_step", lambda *_: pytest.fail("it trains again"))
    again = segmentation.run(nano(), tiny, mini_settings(), RunOptions(folder=tmp_path / "cell"))
    assert again.metrics == outcome[0].metrics
    assert again.floors == outcome[0].floors


def test_an_interrupted_training_ends_with_the_same_head(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "CHECKPOINT_EVERY", 1000)
    whole, broken = (RunOptions(folder=tmp_path / name) for name in ("whole", "broken"))
    options = mini_settings("steps=5", "decode_head={type: FCNHead, channels: 8, num_convs: 1, dropout_ratio: 0.5}")
    expected = segmentation.run(nano(), tiny, options, whole)
    step = Segmenter.training_step

    def dying(self, *arguments):
        if self.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if self.global_step == 3:
            raise KeyError("dies")
        return step(self, *arguments)

    monkeypatch.setattr(Segmenter, "training_step", dying)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="stopped at step 2 of 5; give the same command to continue") as stop:
        segmentation.run(nano(), tiny, options, broken)
    assert stop.value.status == 143
    assert signal.getsignal(signal.SIGTERM) == before
    with pytest.raises(KeyError):
        segmentation.run(nano(), tiny, options, broken)
    monkeypatch.setattr(Segmenter, "training_step", step)
    found = segmentation.run(nano(), tiny, options, broken)
    assert (tmp_path / "broken" / HEAD).read_bytes() == (tmp_path / "whole" / HEAD).read_bytes()
    assert found.metrics == expected.metrics


def test_a_head_learns_what_is_there_to_learn(tiny):
    """Trained on two images, the head beats the constant predictor on a third."""
    found = segmentation.run(nano(), tiny, mini_settings("steps=40", "lr=0.03"))
    assert found.metrics["pixel_accuracy"] > found.floors["most frequent class"]["pixel_accuracy"]


@pytest.fixture(scope="module")
def mosaics(tmp_path_factory):
    """Three classes, 0 is one of them, 255 is not scored: colours that can be told apart by their patches."""
    root = tmp_path_factory.mktemp("mosaics")
    colours = np.array([[160, 90, 90], [90, 160, 90], [90, 90, 160]], np.uint8)
    for split in ("train", "val"):
        for number in range(6):
            rng = np.random.default_rng([number, len(split)])
            mask = rng.integers(0, 3, (4, 5)).repeat(24, 0).repeat(24, 1).astype(np.uint8)
            holes = np.where(rng.random(mask.shape) < 0.1, 255, mask).astype(np.uint8)
            for kind, picture, suffix in (("images", colours[mask], "jpg"), ("masks", holes, "png")):
                folder = root / kind / split
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(folder / f"{number}.{suffix}", quality=95)
    layout = Segmentation(
        images=["images/train", "images/val"],
        masks=["masks/train", "masks/val"],
        vocabulary="",
        classes=3,
        zero_is_unlabelled=False,
    )
    return DataSettings(name="own", root=str(root), segmentation=layout)


LEARNT = ("steps=20", "warmup_steps=2", "lr=0.05", "short_side=96")


@pytest.fixture(scope="module")
def learnt(mosaics):
    return segmentation.run(nano(), mosaics, mini_settings(*LEARNT))


def test_vocs_rules_on_a_folder_of_its_own(learnt):
    assert learnt.images == 6
    assert 90 < learnt.metrics["miou"] < 99.9
    assert list(learnt.per_class) == ["class 0", "class 1", "class 2"]
    assert learnt.floors["most frequent class"]["miou"] < 20


def test_a_head_of_mmsegmentation_learns_the_colours_from_beginning_to_end(mosaics):
    words = [f"decode_head={UPER}", "test_scales=[1.0]", "test_flip=false", *LEARNT]
    found = segmentation.run(nano(), mosaics, mini_settings(*words, task="ade20k_ms"))
    assert found.metrics["miou"] > 80  # the constant predictor has less than 20
    assert found.protocol["head"]["type"] == "UPerHead"


def test_the_learning_rate_of_every_step_falls_to_nothing(mosaics):
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, *_):
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    words = ["steps=4", "warmup_steps=2", "warmup_ratio=0.5", "lr=0.01", "short_side=96"]
    segmentation.run(nano(), mosaics, mini_settings(*words), RunOptions(callbacks=[Watch()]))
    assert seen == pytest.approx([0.01 * 0.5, 0.01 * 0.75 * 3 / 4, 0.01 * 2 / 4, 0.01 / 4])


@pytest.mark.parametrize("words", [["device_batch=1", "workers=1"], ["device_batch=3"]])
def test_how_it_is_run_changes_nothing(learnt, mosaics, words):
    found = segmentation.run(nano(), mosaics, mini_settings(*LEARNT, *words))
    assert found.metrics == pytest.approx(learnt.metrics, abs=1e-3)
    assert found.floors["most frequent class"] == pytest.approx(learnt.floors["most frequent class"])


@pytest.mark.parametrize("words", ["stride=64", "ratio=[0.5,1.9]"])
def test_what_is_run_changes_the_scores(learnt, mosaics, words):
    """A little less overlap, a little less of a range: the test above would see it."""
    found = segmentation.run(nano(), mosaics, mini_settings(*LEARNT, words))
    for name in ("miou", "mean_accuracy", "pixel_accuracy"):
        assert abs(found.metrics[name] - learnt.metrics[name]) > 0.02, name


@pytest.mark.parametrize("size", [(50, 70), (64, 96)])
def test_large_images_are_labelled_in_parts_as_whole(size):
    module = segmenter(classes=9)
    with torch.no_grad():
        module.model.decode_head.conv_seg.weight.normal_()
    sample = SimpleNamespace(ori_shape=size)
    image = torch.randint(256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        inputs = module.model.data_preprocessor({"inputs": [image]})["inputs"]
        whole = module.model.slide_inference(inputs, [])
        expected = torch.nn.functional.interpolate(whole, size, mode="bilinear", align_corners=False)[0]
        found = module.model.labels(inputs, sample.ori_shape)
    first, second = expected.topk(2, dim=0).values
    clear = first - second > 1e-3
    assert clear.float().mean() > 0.98
    assert torch.equal(found[clear], expected.argmax(dim=0)[clear])


def test_only_large_images_are_labelled_in_parts(monkeypatch):
    module, image = segmenter(classes=9), torch.zeros(1, 3, 64, 96)
    assert not module._in_parts(image)
    monkeypatch.setattr(segmentation.large_logits, "SMALL", 0)
    assert module._in_parts(image)
    monkeypatch.setattr(type(module.model.decode_head), "predict_by_feat", lambda *_: None)  # a head of another kind
    assert not module._in_parts(image)


def test_the_loss_of_large_logits_is_that_of_whole_ones(monkeypatch):
    head, labels = segmenter(classes=9).model.decode_head, torch.randint(9, (2, 64, 64))
    samples = [segmentation.labelled(one[None]) for one in labels]
    logits = torch.randn(2, 9, 8, 8)
    whole = head.loss_by_feat(logits, samples)["loss_ce"]
    monkeypatch.setattr(segmentation.large_logits, "SMALL", 0)
    assert head.loss_by_feat(logits, samples)["loss_ce"].item() == pytest.approx(whole.item(), rel=1e-5)
