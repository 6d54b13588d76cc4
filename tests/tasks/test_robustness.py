"""Robustness: the kept heads on planted images, the model's own classifier against timm's pipeline, and refusals."""

import dataclasses
import re
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo, create_transform, resolve_model_data_config
from torch import nn

from benchmarks.grid import cells as grids
from regvit_lightning import evaluation, settings
from regvit_lightning.data.transforms import normalise, released_view
from regvit_lightning.errors import UserError
from regvit_lightning.frozen import kept_heads
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.models import sources
from regvit_lightning.models.foreign import ForeignBackbone
from regvit_lightning.runtime.store import Store
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks import linear, robustness
from tests.tasks import planted_features

SIDE = planted_features.SIDE


class Shades(nn.Module):
    """CLS is the red of the image, its one register the green, the patch the blue: SIDE² equal numbers each."""

    image_size, mean, std = SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def forward(self, images):
        red, green, blue = (images - 0.5).flatten(2).unbind(dim=1)
        return {"cls": red, "registers": green[:, None], "patches": blue[:, None, None]}


def model():
    return ForeignBackbone(Shades(), "shades")


def write(root, folder, colours):
    """Images of one colour (red, green, blue in -1..1) by class folder."""
    for name, several in colours.items():
        for number, colour in enumerate(several):
            pixels = (127.5 + 127.4 * np.broadcast_to(colour, (SIDE, SIDE, 3))).round().astype(np.uint8)
            (root / folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / name / f"{number}.png")


RED = {"class0": (-0.8, 0.0, 0.0), "class1": (0.1, 0.0, 0.0), "class2": (0.8, 0.0, 0.0)}
GREEN = {name: (0.0, colour[0], 0.0) for name, colour in RED.items()}


def trained(root, colours, seed=0, **options):
    """The data, after `imagenet_linear` on images of these colours."""
    for split, count in (("train", 20), ("val", 2)):
        write(root, f"imagenet/{split}", {name: [colour] * count for name, colour in colours.items()})
    data = planted_features.DataSettings(name="planted", root=str(root), imagenet="imagenet")
    words = ["workers=0", "precision=32-true", "steps=150", "batch_size=32", "device_batch=32", "augment=false"]
    words += ["blocks=[1]", "learning_rates=[1.0,3.0]", f"resize={SIDE}", f"crop={SIDE}"]
    chosen = settings.load_settings("tasks", "imagenet_linear", "mini", words)[1]
    outcome = linear.run(model(), data, chosen, RunOptions(seed, folder=root / "runs" / "imagenet_linear", **options))
    return data, outcome


def robust(root, data, name, backbone=None, task="robustness", seed=0):
    chosen = settings.load_settings("tasks", f"{task}_{name}", "mini", ["workers=0", "precision=32-true"])[1]
    return robustness.run(backbone or model(), data, chosen, RunOptions(seed, folder=root / "runs" / "robustness"))


@pytest.fixture(scope="module")
def reds(tmp_path_factory):
    """A head that tells dark, middling and bright red apart; A has dark and bright ones alone."""
    root = tmp_path_factory.mktemp("reds")
    data, _ = trained(root, RED)
    write(root, "imagenet-a", {"class0": [(-0.8, 0, 0), (0.05, 0, 0)], "class2": [(0.9, 0, 0), (-0.9, 0, 0)]})
    return root, data


def test_the_kept_head_is_right_on_the_images_it_was_made_for(reds):
    outcome = robust(*reds, "imagenet_val")
    assert outcome.metrics["top1"] == 100
    assert outcome.images == 6
    low, high = outcome.intervals["top1"]
    assert (low, high) == (pytest.approx(100 * 0.025 ** (1 / 6)), 100)  # Clopper and Pearson, all of six
    assert outcome.protocol["head"]["registers"] is False
    assert outcome.floors == {
        "chance": {"top1": pytest.approx(100 / 3)},
        "most frequent class": {"top1": pytest.approx(100 / 3)},
    }


def test_predictions_are_chosen_among_the_classes_of_the_set(reds):
    # The second image is of class1's colour, which A lacks: the head must say class0 or class2.
    outcome = robust(*reds, "imagenet_a")
    assert outcome.protocol["candidates"] == "2 of 3 classes"
    assert outcome.floors["chance"]["top1"] == 50
    assert outcome.scores["top1"].tolist()[:1] + outcome.scores["top1"].tolist()[2:] == [100, 100, 0]
    root, data = reds
    kept = kept_heads.read(root / "runs" / "imagenet_linear", "imagenet_linear", model(), 0)
    images = robustness.shifted_images(data, "imagenet_a", kept.classes)
    module = robustness.KeptClassifiers(model(), "32-true", images.candidates, kept.heads)
    pixels = torch.full((1, 3, SIDE, SIDE), round(127.5 + 127.4 * 0.1), dtype=torch.uint8)
    assert int(module.logits(pixels)[0].argmax()) == 1
    module.tested(module.test_step((pixels, torch.zeros(1)), 0))
    module.on_test_epoch_end()
    assert set(module.predictions[0].tolist()) <= {0, 2}
    assert 0.5 <= float(module.confidences) <= 1


def test_per_class_and_picture_are_of_the_set(reds):
    outcome = robust(*reds, "imagenet_a")
    assert set(outcome.per_class) == {"class0", "class2"}
    assert outcome.per_class["class2"] == 50
    texts = [axes.get_xlabel() for axes in outcome.picture.axes]
    assert any(text.startswith("is class2\n→ class0, ") for text in texts)
    assert [text.get_text() for text in outcome.picture.texts] == ["most confident mistakes", "most confident hits"]


def test_what_registers_alone_hold_is_found_by_the_head_that_reads_them(tmp_path):
    data, outcome = trained(tmp_path, GREEN)
    assert outcome.protocol["heads"] == 4  # the heads with registers do not count among DINOv2's
    assert outcome.metrics["top1_registers"] == 100
    assert outcome.metrics["top1"] == pytest.approx(100 / 3)  # CLS and patches are the same for all classes
    found = robust(tmp_path, data, "imagenet_val")
    assert (found.metrics["top1_registers"], found.metrics["top1"]) == (100, pytest.approx(100 / 3))
    assert found.protocol["head_registers"] == {**found.protocol["head_registers"], "registers": True, "blocks": 1}
    assert found.scores["top1_registers"].tolist() == [100.0] * 6


def test_heads_that_read_registers_change_no_other(tmp_path):
    def of(registers):
        backbone = model()
        backbone.num_registers = registers
        words = ["workers=0", "precision=32-true", "blocks=[1]", "learning_rates=[1.0,3.0]"]
        with linear.seeds.drawn_from(3, "heads"):
            chosen = settings.load_settings("tasks", "imagenet_linear", "mini", words)[1]
            return linear.LinearProbe(backbone, chosen, 3)

    for mine, theirs in zip(of(1).heads, of(0).heads, strict=True):
        assert torch.equal(mine.linear.weight, theirs.linear.weight)
    assert of(0).register_heads is None


# ------------------------------------------------------------------------------------------------------- refusals


def test_a_model_without_a_kept_head_is_told_the_command(reds, tmp_path):
    _, data = reds
    command = (
        r"TASK=imagenet_linear SEED=4 FORCE=1, with the same data; FORCE=1 is needed once where its record is older"
    )
    with pytest.raises(UserError, match=rf"shades has no kept head of imagenet_linear with seed 4 \(.*\): .*{command}"):
        robust(tmp_path, data, "imagenet_a", seed=4)
    chosen = settings.load_settings("tasks", "robustness_imagenet_a", "mini")[1]
    with pytest.raises(
        UserError, match=r"read from the folder beside the cell's own: give folder=, or .*imagenet_linear"
    ):
        robustness.run(model(), data, chosen)


def test_images_that_the_probe_was_tested_on_are_not_run_again(tmp_path):
    store = Store(tmp_path / "features", 10**8)
    data, _ = trained(tmp_path, RED, store=store)
    words = ["workers=0", "precision=32-true", "device_batch=32"]
    chosen = settings.load_settings("tasks", "robustness_imagenet_val", "mini", words)[1]
    backbone, passed, outcomes = model(), [], []
    backbone.model.register_forward_pre_hook(lambda _, arguments: passed.append(len(arguments[0])))
    for shared, images in ((None, 6), (store, 0)):
        how = RunOptions(folder=tmp_path / "runs" / "robustness", store=shared)
        outcomes.append(robustness.run(backbone, data, chosen, how))
        assert sum(passed) == images
        passed.clear()
    plain, reading = outcomes
    assert (plain.metrics, plain.intervals, plain.protocol) == (reading.metrics, reading.intervals, reading.protocol)
    assert all(torch.equal(scores, reading.scores[name]) for name, scores in plain.scores.items())


def test_heads_of_other_weights_and_damaged_ones_are_refused(reds, tmp_path):
    root, data = reds

    class Other(Shades):
        pass

    other = ForeignBackbone(Other(), "shades", code=b"other")
    with pytest.raises(UserError, match=r"of a model with other weights \(\w+\) than shades: .*TASK=imagenet_linear"):
        robust(root, data, "imagenet_a", backbone=other)
    file = tmp_path / "runs" / "imagenet_linear" / kept_heads.FILE
    file.parent.mkdir(parents=True)
    file.write_bytes((root / "runs" / "imagenet_linear" / kept_heads.FILE).read_bytes()[:100])
    with pytest.raises(UserError, match=r"not readable as kept heads \(.*\): .*TASK=imagenet_linear"):
        robust(tmp_path, data, "imagenet_a")


def test_what_is_kept_is_what_was_chosen(reds):
    root, _ = reds
    kept = kept_heads.read(root / "runs" / "imagenet_linear", "imagenet_linear", model(), 0)
    assert kept.classes == ("class0", "class1", "class2")
    assert (kept.resize, kept.crop) == (SIDE, SIDE)
    assert kept.heads["linear"].weight.shape == (3, SIDE * SIDE * (1 + kept.heads["linear"].facts["avgpool"]))
    assert kept.heads["registers"].weight.shape == (3, 2 * SIDE * SIDE)


def test_an_unknown_head_is_a_mistake_of_the_settings():
    with pytest.raises(SettingsError, match="head=mine: expected linear or own"):
        settings.load_settings("tasks", "robustness_imagenet_a", "mini", ["head=mine"])


# ------------------------------------------------------------------------------------------- the model's own head

OWN = "random-timm/test_vit.r160_in1k"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Noise in twelve class folders of ImageNet-A, of several sizes."""
    root, generator = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for number, name in enumerate(ImageNetInfo().label_names()[100:112]):
        for index in range(3):
            low = generator.integers(0, 256, (9, 7, 3)).astype(np.uint8)
            size = (200 + 17 * index, 190 + 5 * number)
            (root / "imagenet-a" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(low).resize(size, Image.Resampling.BICUBIC).save(
                root / "imagenet-a" / name / f"{index}.png"
            )
    return root, planted_features.DataSettings(name="own", root=str(root))


@pytest.mark.parametrize(
    ("release", "words"),
    [
        ({}, "resize 168, centre crop 160, bicubic"),
        ({"crop_mode": "squash"}, "resize both sides to 168, centre crop 160, bicubic"),
        ({"interpolation": "bilinear"}, "resize 168, centre crop 160, bilinear"),
    ],
)
def test_the_models_own_classifier_is_timms_pipeline(photographs, monkeypatch, release, words):
    root, data = photographs
    monkeypatch.setattr(robustness, "resolve_model_data_config", lambda m: {**resolve_model_data_config(m), **release})
    backbone = sources.load_backbone(OWN, "runs", seed=0)
    model, names = backbone.own_classifier()
    assert (len(names), model.num_classes) == (1000, 1000)
    assert list(names) == sorted(names)
    view = create_transform(**{**resolve_model_data_config(model), **release}, is_training=False)
    own, _ = robustness._released_view(backbone, model)
    right = []
    for label in range(100, 112):
        for file in sorted((root / "imagenet-a" / names[label]).iterdir()):
            image = Image.open(file).convert("RGB")
            assert torch.allclose(
                view(image), normalise(own(image), torch.tensor(backbone.mean), torch.tensor(backbone.std)), atol=1e-6
            )
            with torch.inference_mode():
                logits = model(view(image)[None])[0, 100:112]
            right.append(100.0 * (int(logits.argmax()) == label - 100))
    outcome = robust(root, data, "imagenet_a", backbone, "own_head")
    assert outcome.scores["top1"].tolist() == right
    assert outcome.protocol["candidates"] == "12 of 1,000 classes"
    assert outcome.protocol["view"] == words


def test_a_release_in_a_view_that_is_not_known_is_refused():
    with pytest.raises(SettingsError, match="crop_mode=border, interpolation=bicubic: expected center or squash"):
        released_view(168, 160, "border", "bicubic")


def test_models_without_a_classifier_of_imagenet_are_refused(photographs):
    root, data = photographs
    with pytest.raises(UserError, match="shades: has no classifier of its own"):
        robust(root, data, "imagenet_a", task="own_head")
    backbone = sources.load_backbone("random-timm/vit_tiny_patch16_224.augreg_in21k", "runs")
    with pytest.raises(UserError, match=re.escape("its classifier has 21,843 classes, not ImageNet's 1,000")):
        robust(root, data, "imagenet_a", backbone, "own_head")


# ------------------------------------------------------------------------------------------------------- in a grid


def test_a_grid_trains_the_head_before_it_is_read(tmp_path):
    lines = ["models: [random-vitn_reg4, timm/vit_x]", "seeds: [0, 1]"]
    lines += ["tasks: [robustness_imagenet_a, own_head_imagenet_a, imagenet_linear]"]
    (tmp_path / "own.yaml").write_text("\n".join(lines))
    built = grids.build(grids.Chosen(grid=str(tmp_path / "own.yaml")))
    of = {(cell.model, cell.task, cell.seed): cell for cell in built.cells}
    for (model_name, task, seed), cell in of.items():
        head = of[model_name, "imagenet_linear", seed] if task == "robustness_imagenet_a" else None
        assert cell.needs == head
    assert ("random-vitn_reg4", "own_head_imagenet_a", 0) not in of
    assert "own_head_imagenet_a of random-vitn_reg4: no classifier of its own" in built.left_out
    assert dataclasses.replace(of["timm/vit_x", "robustness_imagenet_a", 1]).needs in built.cells


def test_the_sample_model_is_known_to_timm():
    assert timm.is_model("test_vit")


def test_a_record_is_not_that_of_a_head_that_was_trained_since(reds, tmp_path):
    root, data = tmp_path, reds[1]
    shutil.copytree(reds[0] / "runs" / "imagenet_linear", root / "runs" / "imagenet_linear")
    words, folder = ["workers=0", "precision=32-true"], root / "runs" / "robustness"
    cell = evaluation.prepare("robustness_imagenet_val", data, "mini", words=words)
    _, file = evaluation.run_and_record(cell, model(), root / "results", RunOptions(folder=folder))

    def stale():
        return cell.stale(file, lambda: model().fingerprint, folder=folder)

    assert stale() == ""
    kept = kept_heads.read(root / "runs" / "imagenet_linear", "imagenet_linear", model(), 0)
    other = dataclasses.replace(kept.heads["linear"], bias=kept.heads["linear"].bias + 1e-3)
    dataclasses.replace(kept, heads={**kept.heads, "linear": other}).save(root / "runs" / "imagenet_linear")
    assert stale() == "imagenet_linear has kept another head since"
    (root / "runs" / "imagenet_linear" / kept_heads.FILE).unlink()
    assert stale() == ""
