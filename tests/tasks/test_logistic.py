"""Logistic regression from single tokens: a model whose tokens hold what they are made to, and the record of it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from regvit_lightning import settings
from regvit_lightning.data.classified_set import ClassifiedSet
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.errors import UserError
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.models.foreign import ForeignBackbone
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks import logistic

SIDE, CLASSES = 8, 4


class Planted(nn.Module):
    """The class is the brightness: CLS and the second register hold it as a direction, so does one patch of large norm.

    The other patches and the first register are the same in all images; images of the last class have no large patch.
    """

    image_size, mean, std = SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def forward(self, images):
        label = (images.mean(dim=(1, 2, 3)) * 255 / 60).round().long().clamp(max=CLASSES - 1)
        told = nn.functional.one_hot(label, CLASSES + 1).float()
        silent = torch.zeros_like(told)
        silent[:, -1] = 1.0
        patches = silent[:, None].repeat(1, 4, 1)
        patches[:, 2] = torch.where((label < CLASSES - 1)[:, None], 50 * told, silent)
        return {"cls": told, "registers": torch.stack([silent, told], dim=1), "patches": patches.unflatten(1, (2, 2))}


def model(no_cls=False):
    class Without(Planted):
        def forward(self, images):
            return {**super().forward(images), "cls": None}

    return ForeignBackbone(Without() if no_cls else Planted(), "planted")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("logistic")
    for split, count in (("train", 8), ("val", 5), ("test", 6)):
        for label in range(CLASSES):
            folder = root / "set" / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.full((SIDE, SIDE, 3), 60 * label + number % 3, np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    own = {
        "two": ClassifiedSet("folders", "set", ["train", "test"]),
        "three": ClassifiedSet("folders", "set", ["train", "val", "test"], "mean_per_class"),
    }
    return DataSettings(name="planted", root=str(root), classified=own)


def run(data, name, *words, backbone=None):
    words = ["workers=0", "precision=32-true", f"resize={SIDE}", f"crop={SIDE}", "tokens.draws=2", *words]
    chosen = settings.load_settings("tasks", f"logistic_{name}", "mini", words)[1]
    return logistic.run(backbone or model(), data, chosen, RunOptions(3))


def test_every_token_is_scored_by_what_it_holds(data):
    outcome = run(data, "two")
    assert outcome.metrics == {
        "score": 100,
        "score_mean_patch": 100,
        "score_normal": 25,
        "score_outlier": 100,
        "score_register": pytest.approx((25 + 100) / 2),
    }
    tokens = outcome.protocol["single_tokens"]
    assert tokens["reg_0"]["score"] == 25
    assert tokens["reg_1"]["score"] == 100
    assert {name: one["test_images"] for name, one in tokens.items()} == {
        "CLS": 24,
        "normal": 24,
        "outlier": 18,  # images of the last class have none
        "mean patch": 24,
        "reg_0": 24,
        "reg_1": 24,
    }
    assert outcome.protocol["C_chosen_on"] == "10% of 32 train images, held out"
    assert outcome.images == 24
    assert outcome.scores["score"].tolist() == [100.0] * 24
    assert outcome.intervals["score"][0] == pytest.approx(100 * 0.025 ** (1 / 24))
    assert outcome.floors == {
        "chance": {"score": 25, "score_mean_patch": 25},
        "most frequent class": {"score": 25, "score_mean_patch": 25},
    }
    assert outcome.per_class == {f"class{label}": 100 for label in range(CLASSES)}


def test_the_sets_own_held_out_split_and_measure_are_used(data):
    outcome = run(data, "three")
    assert outcome.protocol["C_chosen_on"] == "the set's own held-out split, 20 images"
    assert outcome.protocol["measure"].startswith("mean over classes of the accuracy")
    assert outcome.protocol["single_tokens"]["CLS"]["train_images"] == 52
    assert set(outcome.floors) == {"chance"}


def test_with_a_cutoff_above_all_norms_there_is_no_outlier(data):
    outcome = run(data, "two", "rule=cutoff", "rules.cutoff=1000")
    assert outcome.protocol["single_tokens"]["outlier"] is None
    assert "score_outlier" not in outcome.metrics
    assert outcome.protocol["cutoff"] == 1000
    largest = run(data, "two", "rule=cutoff", "rules.cutoff=1000", "tokens.without_outlier=largest")
    assert largest.protocol["single_tokens"]["outlier"]["test_images"] == 24
    assert largest.metrics["score_outlier"] == 100


def test_without_cls_the_score_is_that_of_the_mean_patch(data):
    outcome = run(data, "two", backbone=model(no_cls=True))
    assert outcome.metrics["score"] == outcome.metrics["score_mean_patch"] == 100
    assert "CLS" not in outcome.protocol["single_tokens"]


def test_the_picture_has_a_dot_for_each_token(data):
    picture = run(data, "two").picture
    labels = [tick.get_text() for tick in picture.axes[0].get_yticklabels()]
    assert labels[:3] == ["CLS (n = 24)", "normal (n = 24)", "outlier (n = 18)"]
    dots = [line.get_xdata()[0] for line in picture.axes[0].lines if line.get_marker() == "o"]
    assert dots[:3] == [100, 25, 100]


def test_images_with_several_classes_have_an_average_precision(tmp_path):
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / "voc" / name).mkdir(parents=True)
    names = {"train": [], "val": []}
    for number in range(36):  # the class is in every image, its neighbour in every second one
        label, split = number % CLASSES, "train" if number < 20 else "val"
        Image.new("RGB", (SIDE, SIDE), (60 * label,) * 3).save(tmp_path / "voc" / "JPEGImages" / f"{number}.jpg")
        objects = "".join(f"<object><name>c{one}</name></object>" for one in {label, label // 2})
        (tmp_path / "voc" / "Annotations" / f"{number}.xml").write_text(f"<annotation>{objects}</annotation>")
        names[split].append(str(number))
    for split, own in names.items():
        (tmp_path / "voc" / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(own))
    layout = ClassifiedSet("voc", "voc", ["train", "val"], "map")
    outcome = run(DataSettings(name="own", root=str(tmp_path), classified={"several": layout}), "several")
    assert outcome.metrics["score"] == outcome.metrics["score_outlier"] == 100
    assert outcome.per_class == {"c0": 100, "c1": 100, "c2": 100, "c3": 100}
    # Each of 16 test images has its class; class 0 is in those of 1, and class 1 in those of 2 and 3, too.
    shares = [8 / 16, 12 / 16, 4 / 16, 4 / 16]
    assert outcome.metrics["score_normal"] == outcome.floors["chance"]["score"] == pytest.approx(100 * np.mean(shares))
    assert not outcome.scores  # it is no mean over images
    assert outcome.intervals["score"] == (100, 100)


def test_a_set_with_nothing_to_learn_is_one_line(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "set" / split / "only").mkdir(parents=True)
        Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "set" / split / "only" / "x.png")
    layout = ClassifiedSet("folders", "set", ["train", "test"])
    own = DataSettings(name="own", root=str(tmp_path), classified={"one": layout})
    with pytest.raises(UserError, match="one: nothing to learn: fewer than two classes are left in train"):
        run(own, "one")


def test_an_unknown_rule_is_a_mistake_of_the_settings():
    with pytest.raises(SettingsError, match="rule=norms: expected one of cutoff, "):
        settings.load_settings("tasks", "logistic_aircraft", "mini", ["rule=norms"])
