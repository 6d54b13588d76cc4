"""Images that test a classifier of ImageNet elsewhere: which images a set has, and which classes are right for each."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.real_labels import RealLabelsImagenet

from regvit_lightning.data import digest, layout, shifted
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.mini import scenes
from regvit_lightning.data.shifted_set import MAPPINGS, ShiftedSet
from regvit_lightning.settings import SettingsError

CLASSES = [f"n{number:02d}" for number in range(12)]


def image(path, size=(6, 4), colour="teal"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def data(root, **facts):
    return DataSettings(name="own", root=str(root), shifted={"own": ShiftedSet(**facts)}, get="get it")


def load(root, classes=CLASSES, **facts):
    return shifted.shifted_images(data(root, **facts), "own", classes)


def by_name(found):
    """Accepted classes by file name."""
    return {found.files.path(index).rpartition("/")[2]: accepted for index, accepted in enumerate(found.accepted)}


def test_folders_called_as_in_train_are_the_only_candidates(tmp_path):
    for name in ("n07", "n02"):
        image(tmp_path / "a" / name / f"{name}.jpg")
    found = load(tmp_path, folder="a")
    assert by_name(found) == {"n02.jpg": (2,), "n07.jpg": (7,)}
    assert found.candidates == [2, 7]
    image(tmp_path / "a" / "n99" / "x.jpg")
    with pytest.raises(DataError, match=r"class folder .*a/n99 is none of ImageNet's: the classifier knows 12 classes"):
        load(tmp_path, folder="a")


def test_folders_of_v2_are_numbers_and_not_their_place_in_the_alphabet(tmp_path):
    for number in range(12):
        image(tmp_path / "v2" / str(number) / f"{number}.jpg")
    found = load(tmp_path, folder="v2", naming="numbers")
    assert by_name(found) == {f"{number}.jpg": (number,) for number in range(12)}
    assert found.candidates == list(range(12))
    for wrong in ("12", "n03"):
        image(tmp_path / wrong / wrong / "x.jpg")
        with pytest.raises(DataError, match=f"{wrong}: expected the number of a class, 0 to 11"):
            load(tmp_path, folder=wrong, naming="numbers")


# ------------------------------------------------------------------------------------------------------ ObjectNet

LINES = ["alarm clock", "desk", "cup, mug", "chair", "armchair"]  # in ILSVRC's order
LINE_OF_CLASS = {"0": 3, "1": 2, "2": 0, "3": 4, "4": 1}  # class index: line


def objectnet(root, first=0, **contents):
    """ObjectNet's folders with three objects, the second of which stands for two classes and the third for none."""
    files = {
        MAPPINGS[0]: {"a_seat": "Seat", "mug": "Mug", "rock": "Rock"},
        MAPPINGS[1]: {"Seat": "chair; armchair", "Mug": "cup, mug"},
        MAPPINGS[2]: {number: line + first for number, line in LINE_OF_CLASS.items()},
    }
    (root / "mappings").mkdir(parents=True)
    for name, content in {**files, **contents}.items():
        (root / "mappings" / name).write_text(json.dumps(content))
    (root / "mappings" / MAPPINGS[3]).write_text("\n".join(LINES) + "\n")
    for folder in ("a_seat", "mug", "rock"):
        image(root / "images" / folder / f"{folder}.png", (9, 8), "red")
    return load(root, CLASSES[:5], folder="images", naming="objectnet", labels="mappings", border=2)


@pytest.mark.parametrize("first", [0, 1])
def test_objectnets_mappings_by_hand(tmp_path, first):
    found = objectnet(tmp_path, first)
    assert by_name(found) == {"a_seat.png": (0, 3), "mug.png": (1,)}
    assert (found.candidates, found.left_out) == ([0, 1, 3], 1)
    assert shifted.chance(found) == pytest.approx(100 * (2 + 1) / 2 / 3)
    assert shifted.most_frequent(found) == 50


def test_the_border_is_cut_before_the_view(tmp_path):
    image(tmp_path / "a" / "n00" / "x.png", (9, 8), "red")
    inner = Image.open(tmp_path / "a" / "n00" / "x.png")
    inner.paste("blue", (2, 2, 7, 6))
    seen = load(tmp_path, folder="a", border=2).view(np.asarray)(inner)
    assert seen.shape == (4, 5, 3)
    assert (seen == (0, 0, 255)).all()
    with pytest.raises(DataError, match=r"a: an image of 9 × 8 px is all border, of 4 px; lower border, or remove it"):
        load(tmp_path, folder="a", border=4).view(np.asarray)(inner)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (MAPPINGS[1], {"Seat": "throne"}),
        (MAPPINGS[1], {"Sofa": "chair"}),
        (MAPPINGS[2], {**LINE_OF_CLASS, "5": 5}),
        (MAPPINGS[2], {**LINE_OF_CLASS, "4": 3}),
        (MAPPINGS[2], {"x": 1}),
    ],
)
def test_mappings_that_do_not_fit_are_one_line(tmp_path, name, content):
    with pytest.raises(DataError, match=r"mappings: its mappings do not fit each other or 5 classes .*; get it"):
        objectnet(tmp_path, **{name: content})


def test_a_missing_or_damaged_mapping_is_named(tmp_path):
    objectnet(tmp_path)
    (tmp_path / "mappings" / MAPPINGS[1]).write_text("{")
    facts = {"folder": "images", "naming": "objectnet", "labels": "mappings"}
    with pytest.raises(DataError, match=rf"{MAPPINGS[1]}: not JSON .*; get it"):
        load(tmp_path, CLASSES[:5], **facts)
    (tmp_path / "mappings" / MAPPINGS[3]).unlink()
    (tmp_path / "mappings" / MAPPINGS[1]).write_text('{"Seat": "chair"}')
    with pytest.raises(DataError, match=rf"cannot read .*{MAPPINGS[3]}: .*; get it"):
        load(tmp_path, CLASSES[:5], **facts)


# ----------------------------------------------------------------------------------------------------------- ReaL


def real(root, labels, names=None):
    for number in range(len(labels)):
        name = f"ILSVRC2012_val_{number + 1:08d}.JPEG" if names is None else names[number]
        image(root / "imagenet" / "val" / CLASSES[number * 5 % 12] / name)
    (root / "real.json").write_text(json.dumps(labels))
    return load(root, naming="real", labels="real.json")


def test_real_agrees_with_timm(tmp_path):
    generator = np.random.default_rng(0)
    labels = [generator.permutation(12)[: generator.integers(0, 4)].tolist() for _ in range(40)]
    found = real(tmp_path, labels)
    every = [f"ILSVRC2012_val_{number + 1:08d}.JPEG" for number in range(40)]
    logits = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    theirs = RealLabelsImagenet(every, str(tmp_path / "real.json"), topk=(1,))
    theirs.add_result(logits)
    order = [every.index(name) for name in by_name(found)]
    right = shifted.right(logits[order].argmax(dim=1, keepdim=True).numpy(), found.accepted)
    assert 100 * right.mean() == pytest.approx(theirs.get_accuracy(1))
    assert len(found.files) == sum(map(bool, labels)) < 40
    assert found.left_out == 40 - len(found.files)
    assert found.candidates == list(range(12))


def test_real_without_a_label_or_with_a_name_twice_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"real\.json: has a label for none of the 2 images"):
        real(tmp_path, [[], []])
    image(tmp_path / "imagenet" / "val" / CLASSES[0] / "same.png")
    image(tmp_path / "imagenet" / "val" / CLASSES[1] / "same.png")
    (tmp_path / "real.json").write_text(json.dumps([[0]] * 4))
    with pytest.raises(DataError, match=r"val has several images called same\.png: .*real\.json tells them apart"):
        load(tmp_path, naming="real", labels="real.json")


def test_labels_of_real_that_do_not_fit_are_one_line(tmp_path):
    with pytest.raises(DataError, match=r"real\.json: expected a list with a list of class indices 0 to 11"):
        real(tmp_path, [[0], [12]])
    for wrong in ([[0]], [[0], [1], [2]]):
        (tmp_path / "real.json").write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=r"has the labels of \d images, .*val has 2; get it"):
            load(tmp_path, naming="real", labels="real.json")
    for wrong in ({}, [0, 1], [[True], [0]]):
        (tmp_path / "real.json").write_text(json.dumps(wrong))
        with pytest.raises(DataError, match="expected a list with a list of class indices"):
            load(tmp_path, naming="real", labels="real.json")


# --------------------------------------------------------------------------------------------------- the settings


def test_the_published_sets_are_there_in_any_data():
    found = layout.resolve("full", root_needed=False)
    assert list(found.shifted) == [
        "imagenet_val",
        "imagenet_v2",
        "imagenet_a",
        "imagenet_r",
        "imagenet_sketch",
        "objectnet",
        "imagenet_real",
    ]
    assert found.counts["imagenet_real"] == [46837]
    assert DataSettings(name="x", root="x").shifted == found.shifted


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"naming": "names"}, "naming=names: expected one of classes, numbers, objectnet, real"),
        ({"naming": "real"}, "labels belong to naming=objectnet and naming=real"),
        ({"labels": "real.json"}, "labels belong to naming=objectnet and naming=real"),
    ],
)
def test_settings_that_do_not_fit(facts, message):
    with pytest.raises(SettingsError, match=f"data 'own': shifted.own: {message}"):
        data("root", **facts)


def test_a_set_that_is_not_whole_is_refused(tmp_path):
    image(tmp_path / "imagenet-a" / "n00" / "x.jpg")
    short = DataSettings(name="own", root=str(tmp_path), counts={"imagenet_a": [2]}, get="get it")
    with pytest.raises(DataError, match=r"imagenet-a holds 1 images with a class, expected 2; get it"):
        shifted.shifted_images(short, "imagenet_a", CLASSES)
    with pytest.raises(DataError, match=r"no folder .*imagenet-r: .*get it"):
        shifted.shifted_images(short, "imagenet_r", CLASSES)


def test_another_label_is_another_digest(tmp_path):
    real(tmp_path, [[0], [1]])
    own = data(tmp_path, naming="real", labels="real.json")
    before = digest.digests(own, "own")
    (tmp_path / "real.json").write_text("[[0], [2]]")
    assert digest.changed(before, digest.digests(own, "own")) == ["all"]
    image(tmp_path / "imagenet" / "val" / "n00" / "more.jpg")
    assert digest.digests(own, "own")["all"] not in (before["all"], "")


# ------------------------------------------------------------------------------------------------ rendered images


def test_the_rendered_sets_have_their_classes(tiny):
    classes = sorted(name.replace(" ", "_") for name in scenes.CLASSES)
    every = {name: shifted.shifted_images(tiny, name, classes) for name in tiny.shifted}
    assert {name: len(one.files) for name, one in every.items()} == {
        "imagenet_val": 32,
        "imagenet_v2": 16,
        "imagenet_a": 8,
        "imagenet_r": 8,
        "imagenet_sketch": 16,
        "objectnet": 12,
        "imagenet_real": 32,
    }
    for one in every.values():  # a file is called after its class
        for index, accepted in enumerate(one.accepted):
            assert classes.index(one.files.path(index).rpartition("/")[2].rpartition("_")[0]) in accepted
    pairs = {tuple(classes[index].split("_")[1] for index in own) for own in every["objectnet"].accepted}
    assert pairs == {(name, name) for name in ("ball", "box", "cone", "bottle", "star", "mushroom")}
    assert len(every["objectnet"].candidates) == 12
    assert sorted(set(every["imagenet_a"].candidates) | set(every["imagenet_r"].candidates)) == list(range(16))
    assert max(len(own) for own in every["imagenet_real"].accepted) > 1


def test_the_rendered_shifts_are_what_they_say(tiny):
    def pixels(name, number):
        classes = sorted(one.replace(" ", "_") for one in scenes.CLASSES)
        return np.asarray(shifted.shifted_images(tiny, name, classes).files.open(number))

    for number in range(8):
        assert pixels("imagenet_a", number).mean() < 0.6 * pixels("imagenet_v2", number).mean()
        assert np.ptp(pixels("imagenet_sketch", number), axis=2).max() < 40  # grey, but for JPEG
        side = pixels("objectnet", number)
        for edge in (side[0], side[-1], side[:, 0], side[:, -1]):
            assert (edge == (255, 0, 0)).all()
        assert not (side[1:-1, 1:-1] == (255, 0, 0)).all(axis=2).mean() > 0.5
