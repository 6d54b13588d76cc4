"""Sets with classes: each layout as its authors publish it, beside torchvision's reader, and what does not fit."""

import os
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

import benchmarks.data.__main__ as data_program
from regvit_lightning.data import digest, layout
from regvit_lightning.data.classified import Split, classified_images
from regvit_lightning.data.classified_set import ClassifiedSet
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.settings import SettingsError


def image(path, number=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (number, 2 * number, 7)).save(path)


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows))


def load(root, kind, folder="set", **facts):
    own = {"own": ClassifiedSet(kind, folder, **facts)}
    return classified_images(DataSettings(name="x", root=str(root), classified=own, get="get it"), "own")


def names(split):
    return [path.rpartition("/")[2] for path in split.source]


def test_names_that_are_not_utf_8_are_read(tmp_path):
    for split in ("a", "b"):
        image(tmp_path / "set" / split / "cat" / "0.png", 9)
        os.rename(
            tmp_path / "set" / split / "cat" / "0.png", os.fsencode(tmp_path / "set" / split / "cat") + b"/caf\xe9.png"
        )
    found = load(tmp_path, "folders", splits=["a", "b"])
    assert np.asarray(found.test.open(0))[0, 0].tolist() == [9, 18, 7]


def same_as_torchvision(split, theirs, number=lambda label: label):
    """The same images with the same labels, whatever the order."""
    theirs = [theirs[index] for index in range(len(theirs))]
    assert sorted((np.asarray(picture).tobytes(), number(label)) for picture, label in theirs) == sorted(
        (np.asarray(split.open(index)).tobytes(), int(split.targets[index])) for index in range(len(split))
    )


# ------------------------------------------------------------------------------------------------- one by one


def test_aircraft(tmp_path):
    root, variants = tmp_path / "fgvc-aircraft-2013b" / "data", ["707-320", "A330-300"]
    lines(root / "variants.txt", variants)
    for first, split in ((0, "train"), (4, "val"), (8, "test")):
        rows = [f"{1000 + first + number:07d} {variants[number % 2]}" for number in range(3)]
        lines(root / f"images_variant_{split}.txt", rows)
        for number, row in enumerate(rows):
            image(root / "images" / f"{row.split()[0]}.jpg", 10 * (first + number))
    found = load(tmp_path, "aircraft", "fgvc-aircraft-2013b")
    assert found.classes == ("707-320", "A330-300")
    for split, own in zip(("train", "val", "test"), found.splits(), strict=True):
        same_as_torchvision(own, datasets.FGVCAircraft(tmp_path, split))


def test_dtd(tmp_path):
    root = tmp_path / "dtd" / "dtd"
    for number, split in enumerate(("train", "val", "test")):
        rows = [f"{kind}/{kind}_{number}.jpg" for kind in ("banded", "dotted")]
        lines(root / "labels" / f"{split}1.txt", rows)
        for index, row in enumerate(rows):
            image(root / "images" / row, 50 * number + 20 * index)
    found = load(tmp_path, "dtd", "dtd/dtd")
    for split, own in zip(("train", "val", "test"), found.splits(), strict=True):
        same_as_torchvision(own, datasets.DTD(tmp_path, split))


def test_food101(tmp_path):
    root = tmp_path / "food-101"
    for number, split in enumerate(("train", "test")):
        rows = {kind: [f"{kind}/{100 + number}"] for kind in ("apple_pie", "waffles")}
        lines(root / "meta" / f"{split}.txt", [row for several in rows.values() for row in several])
        (root / "meta" / f"{split}.json").write_text(str(rows).replace("'", '"'))
        for index, (row,) in enumerate(rows.values()):
            image(root / "images" / f"{row}.jpg", 50 * number + 20 * index)
    found = load(tmp_path, "food101", "food-101")
    assert found.held_out is None
    for split, own in zip(("train", "test"), found.splits(), strict=True):
        same_as_torchvision(own, datasets.Food101(tmp_path, split))


def test_pets(tmp_path):
    root = tmp_path / "oxford-iiit-pet"
    for number, split in enumerate(("trainval", "test")):
        rows = [f"Abyssinian_{number} 1 1 1", f"american_bulldog_{number} 2 2 1"]
        lines(root / "annotations" / f"{split}.txt", rows)
        for index, row in enumerate(rows):
            image(root / "images" / f"{row.split()[0]}.jpg", 50 * number + 20 * index)
    found = load(tmp_path, "pets", "oxford-iiit-pet")
    assert found.classes == ("Abyssinian", "american_bulldog")
    for split, own in zip(("trainval", "test"), found.splits(), strict=True):
        same_as_torchvision(own, datasets.OxfordIIITPet(tmp_path, split))


def flowers(root):
    savemat(root / "imagelabels.mat", {"labels": np.array([[1, 2, 1, 2, 2, 1]])})
    savemat(root / "setid.mat", {"trnid": np.array([[1, 2]]), "valid": np.array([[3, 4]]), "tstid": np.array([[6, 5]])})
    for number in range(1, 7):
        image(root / "jpg" / f"image_{number:05d}.jpg", 20 * number)


def test_flowers(tmp_path):
    root = tmp_path / "flowers-102"
    image(root / "jpg" / "image_00001.jpg")
    flowers(root)
    found = load(tmp_path, "flowers", "flowers-102")
    for split, own in zip(("train", "val", "test"), found.splits(), strict=True):
        theirs = object.__new__(datasets.Flowers102)  # whose constructor compares checksums with the real files
        with_labels = dict(enumerate([0, 1, 0, 1, 1, 0], 1))
        numbers = {"train": [1, 2], "val": [3, 4], "test": [6, 5]}[split]
        theirs._image_files = [root / "jpg" / f"image_{number:05d}.jpg" for number in numbers]
        theirs._labels = [with_labels[number] for number in numbers]
        theirs.transform = theirs.target_transform = None
        theirs.loader = datasets.folder.default_loader
        same_as_torchvision(own, theirs)
    savemat(root / "setid.mat", {"trnid": [1], "valid": [2], "tstid": [7]})
    with pytest.raises(DataError, match=r"setid.mat: numbers of images that imagelabels.mat does not have; get it"):
        load(tmp_path, "flowers", "flowers-102")


def test_cars(tmp_path):
    root = tmp_path / "stanford_cars"
    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array(["Audi", "BMW"], object)[None]})
    for folder, file in (
        ("cars_train", "devkit/cars_train_annos.mat"),
        ("cars_test", "cars_test_annos_withlabels.mat"),
    ):
        rows = np.array(
            [(f"{number:05d}.jpg", 1 + number % 2) for number in range(3)], [("fname", object), ("class", object)]
        )
        savemat(root / file, {"annotations": rows[None]})
        for number in range(3):
            image(root / folder / f"{number:05d}.jpg", 50 * number + len(folder))
    found = load(tmp_path, "cars", "stanford_cars")
    assert found.classes == ("Audi", "BMW")
    for split, own in zip(("train", "test"), found.splits(), strict=True):
        same_as_torchvision(own, datasets.StanfordCars(tmp_path, split))


def cifar(root, kind="cifar10"):
    labels, meta, key = {
        "cifar10": ("labels", "batches.meta", "label_names"),
        "cifar100": ("fine_labels", "meta", "fine_label_names"),
    }[kind]
    files = {"cifar10": [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"], "cifar100": ["train", "test"]}[kind]
    root.mkdir(parents=True)
    generator = np.random.default_rng(0)
    (root / meta).write_bytes(pickle.dumps({key.encode(): [b"plane", b"car"]}))
    values = {}
    for file in files:
        values[file] = generator.integers(0, 256, (2, 3072)).astype(np.uint8)
        (root / file).write_bytes(pickle.dumps({b"data": values[file], labels.encode(): [1, 0]}, protocol=2))
    return values


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_cifar(tmp_path, kind):
    values = cifar(tmp_path / "set", kind)
    found = load(tmp_path, kind)
    assert found.classes == ("plane", "car")
    assert (len(found.train), len(found.test)) == (2 * (len(values) - 1), 2)
    assert found.test.targets.tolist() == [1, 0]
    last = next(reversed(values.values()))
    # As in torchvision's CIFAR10: rows of red, then green, then blue.
    assert (np.asarray(found.test.open(1)) == last[1].reshape(3, 32, 32).transpose(1, 2, 0)).all()
    assert (np.asarray(found.train.subset([1]).open(0)) == np.asarray(found.train.open(1))).all()
    before = digest.digests(
        own := DataSettings(name="x", root=str(tmp_path), classified={"own": ClassifiedSet(kind, "set")}), "own"
    )
    (tmp_path / "set" / "more").write_text("x")
    assert digest.digests(own, "own") != before != {}


@pytest.mark.parametrize(("own", "told"), [([0, 2], "of test are numbers 0 to 2 of 2 classes"), ("ab", "a label in")])
def test_labels_that_are_no_class_are_told(tmp_path, own, told):
    cifar(tmp_path / "set")
    content = pickle.loads((tmp_path / "set" / "test_batch").read_bytes(), encoding="bytes")
    (tmp_path / "set" / "test_batch").write_bytes(pickle.dumps({**content, b"labels": list(own)}))
    with pytest.raises(DataError, match=f"{told}.*; get it"):
        load(tmp_path, "cifar10")


def test_a_pickle_that_would_run_something_is_refused(tmp_path):
    cifar(tmp_path / "set")

    class Evil:
        def __reduce__(self):
            return sys.exit, ()

    (tmp_path / "set" / "test_batch").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match=r"cannot read .*test_batch: it holds sys\.exit, and not arrays alone; get it"):
        load(tmp_path, "cifar10")
    (tmp_path / "set" / "test_batch").write_bytes(pickle.dumps({b"data": np.zeros((2, 5)), b"labels": [0, 1]}))
    with pytest.raises(DataError, match=r"test_batch: expected data of 3,072 bytes and a label in labels"):
        load(tmp_path, "cifar10")
    (tmp_path / "set" / "test_batch").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"cannot read .*test_batch: .*; get it"):
        load(tmp_path, "cifar10")


def test_cub(tmp_path):
    root, paths = tmp_path / "CUB", ["001.Albatross/a.jpg", "002.Ani/b.jpg", "001.Albatross/c.jpg", "002.Ani/d.jpg"]
    lines(root / "images.txt", [f"{number} {path}" for number, path in enumerate(paths, 1)])
    lines(root / "image_class_labels.txt", ["1 1", "2 2", "3 1", "4 2"])
    lines(root / "train_test_split.txt", ["1 1", "2 0", "3 0", "4 1"])
    for path in paths:
        image(root / "images" / path)
    found = load(tmp_path, "cub", "CUB")
    assert (names(found.train), found.train.targets.tolist()) == (["a.jpg", "d.jpg"], [0, 1])
    assert (names(found.test), found.test.targets.tolist()) == (["b.jpg", "c.jpg"], [1, 0])
    own = DataSettings(name="x", root=str(tmp_path), classified={"own": ClassifiedSet("cub", "CUB")})
    before = digest.digests(own, "own")
    lines(root / "train_test_split.txt", ["1 0", "2 1", "3 0", "4 1"])  # as many bytes
    assert digest.digests(own, "own") != before != {}
    lines(root / "image_class_labels.txt", ["1 1", "2 2", "3 2", "4 2"])
    with pytest.raises(DataError, match=r"image 3 has another class in image_class_labels.txt than its folder; get it"):
        load(tmp_path, "cub", "CUB")
    lines(root / "image_class_labels.txt", ["1 1"])
    with pytest.raises(DataError, match="have different images; get it"):
        load(tmp_path, "cub", "CUB")


def test_sun397(tmp_path):
    for split, number in (("Training", 0), ("Testing", 1)):
        rows = [f"/{path}/sun_{number}.jpg" for path in ("a/abbey", "c/church/indoor")]
        lines(tmp_path / "set" / f"{split}_01.txt", rows)
        for row in rows:
            image(tmp_path / "set" / row[1:])
    found = load(tmp_path, "sun397")
    assert found.classes == ("a/abbey", "c/church/indoor")
    assert (found.train.targets.tolist(), found.test.targets.tolist()) == ([0, 1], [0, 1])
    lines(tmp_path / "set" / "Testing_01.txt", ["/z/zoo/sun_1.jpg"])
    with pytest.raises(DataError, match=r"Testing_01.txt: class z/zoo is not in Training_01.txt; get it"):
        load(tmp_path, "sun397")
    lines(tmp_path / "set" / "Testing_01.txt", ["nothing"])
    with pytest.raises(DataError, match="'nothing' is no image with its class; get it"):
        load(tmp_path, "sun397")
    lines(tmp_path / "set" / "Testing_01.txt", ["/a/abbey/gone.jpg"])
    with pytest.raises(DataError, match=r"1 of 1 files are missing: .*a/abbey/gone.jpg; get it"):
        load(tmp_path, "sun397")


def test_thirty_images_of_each_class_of_caltech101_are_for_training(tmp_path):
    for name, count in (("airplanes", 34), ("ant", 32)):
        for number in range(count):
            image(tmp_path / "set" / name / f"{number:03d}.jpg")
    found = load(tmp_path, "caltech101")
    assert np.bincount(found.train.targets).tolist() == [30, 30]
    assert np.bincount(found.test.targets).tolist() == [4, 2]
    assert not set(found.train.source) & set(found.test.source)
    assert list(load(tmp_path, "caltech101").train.source) == list(found.train.source)


def voc(root, objects):
    for name, own in objects.items():
        parts = "".join(f"<object><name>{k}</name><difficult>{d}</difficult></object>" for k, d in own)
        lines(root / "Annotations" / f"{name}.xml", [f"<annotation>{parts}</annotation>"])
        image(root / "JPEGImages" / f"{name}.jpg")
    lines(root / "ImageSets" / "Main" / "train.txt", list(objects)[:2])
    lines(root / "ImageSets" / "Main" / "test.txt", list(objects)[2:])


def test_voc_has_several_classes_and_does_not_know_difficult_ones(tmp_path):
    rows = {"1": [("cat", 0), ("dog", 1)], "2": [("dog", 1), ("dog", 0)], "3": [], "4": [("cat", 0), ("cat", 1)]}
    voc(tmp_path / "set", rows)
    found = load(tmp_path, "voc", splits=["train", "test"], measure="map")
    assert found.classes == ("cat", "dog")
    np.testing.assert_equal(found.train.targets, np.array([[1, np.nan], [0, 1]], np.float32))
    np.testing.assert_equal(found.test.targets, np.array([[0, 0], [1, 0]], np.float32))
    (tmp_path / "set" / "Annotations" / "4.xml").write_text("<annotation>")
    with pytest.raises(DataError, match=r"unreadable annotation .*4.xml: .*; get it"):
        load(tmp_path, "voc", splits=["train", "test"], measure="map")


def test_class_folders_of_three_splits(tmp_path):
    for split in ("a", "b", "c"):
        for name in ("cat", "dog"):
            image(tmp_path / "set" / split / name / f"{split}.png")
    found = load(tmp_path, "folders", splits=["a", "b", "c"])
    assert [names(split) for split in found.splits()] == [["a.png"] * 2, ["b.png"] * 2, ["c.png"] * 2]
    image(tmp_path / "set" / "c" / "cow" / "x.png")
    with pytest.raises(DataError, match="other class folders than a: cow"):
        load(tmp_path, "folders", splits=["a", "b", "c"])


# ------------------------------------------------------------------------------------------------- the settings


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"layout": "imagenet"}, "layout=imagenet: expected one of folders, aircraft, "),
        ({"layout": "dtd", "measure": "f1"}, "measure=f1: expected one of top1, mean_per_class, map"),
        ({"layout": "dtd", "measure": "map"}, "measure=map belongs to layout=voc"),
        ({"layout": "voc", "splits": ["a", "b"]}, "measure=map belongs to layout=voc"),
        ({"layout": "folders", "splits": ["a", "a"]}, r"splits=\['a', 'a'\]: expected \[train, test\]"),
        ({"layout": "folders"}, r"splits=\[\]: expected \[train, test\] or \[train, held out, test\]"),
        ({"layout": "cub", "splits": ["a", "b"]}, r"splits=\['a', 'b'\]: expected none, layout cub has its own"),
    ],
)
def test_settings_that_do_not_fit(facts, message):
    with pytest.raises(SettingsError, match=f"data 'x': classified.own: {message}"):
        DataSettings(name="x", root="r", classified={"own": ClassifiedSet(**facts)})


def test_the_published_sets_have_as_many_counts_as_splits():
    found = layout.resolve("full", root_needed=False)
    assert len(found.classified) == 14
    with_held_out = {"aircraft", "dtd", "flowers", "voc07cls"}
    assert {name for name in found.classified if len(found.counts[name]) == 3} == with_held_out
    assert {name: found.classified[name].measure for name in ("pets", "voc07cls", "cub")} == {
        "pets": "mean_per_class",
        "voc07cls": "map",
        "cub": "top1",
    }


def test_a_set_that_is_missing_or_not_whole_is_one_line(tmp_path):
    own = DataSettings(name="x", root=str(tmp_path), counts={"dtd": [1, 1, 2]}, get="get it")
    with pytest.raises(DataError, match=r"no folder .*dtd/dtd with the images of dtd; get it"):
        classified_images(own, "dtd")
    for split in ("train", "val", "test"):
        lines(tmp_path / "dtd/dtd/labels" / f"{split}1.txt", ["banded/x.jpg"])
    image(tmp_path / "dtd/dtd/images/banded/x.jpg")
    with pytest.raises(DataError, match=r"dtd labels/test1.txt in .* has 1 images, expected 2; get it"):
        classified_images(own, "dtd")


def test_the_indices_of_a_split_are_made_once_and_not_for_each_image():
    split = Split(["a.jpg"] * 3, np.array([1, 0, 1]))
    assert split.labels.tolist() == [0, 1, 2]
    assert split.labels is split.labels


def test_rendered_data_is_checked_for_its_own_sets_and_no_published_one(tmp_path):
    for folder in ("imagenet/train", "imagenet/val", "VOCdevkit/VOC2007/ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    lines(tmp_path / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "test.txt", ["000001"])
    data = replace(layout.resolve("mini"), root=str(tmp_path))
    wanted = set(data_program._wanted(data)) & set(data.classified)
    assert wanted == {"rendered"}  # folder imagenet is that of ImageNet itself, in1k, elsewhere
    for name in wanted:
        data.classified_set(name)
    assert "in1k" in data_program._wanted(DataSettings(name="x", root=str(tmp_path)))
