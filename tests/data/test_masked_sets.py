"""A new set of images with masks is one entry of a YAML: its tasks have names, and its images are found and counted."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.data import __main__ as data_program
from benchmarks.data.checks import checks_of
from regvit_lightning import evaluation, settings
from regvit_lightning.data import ade20k, digest, layout
from regvit_lightning.errors import UserError
from regvit_lightning.settings import SettingsError

STREET = "{images: [a/train, a/test], masks: [b/train, b/test], image_suffix: .png, classes: 3, vocabulary: ''}"


def declare(configs, root, sets):
    (configs / "data" / "town.yaml").write_text(f"name: town\nroot: {root}\nvariant: mini\nmasked:\n{sets}")
    return layout.resolve("town")


def write(root):
    for split, images in (("train", 3), ("test", 2)):
        for kind in "ab":
            (root / kind / split).mkdir(parents=True)
            for number in range(images):
                Image.fromarray(np.ones((8, 8), np.uint8)).save(root / kind / split / f"{number}.png")


def test_the_published_sets_have_tasks_in_any_data(tmp_path):
    names = settings.names("tasks")
    assert {"hummingbird_ade20k", "hummingbird_voc2012", "hummingbird_cityscapes", "patch_knn_voc2012"} <= set(names)
    assert "hummingbird" not in names
    chosen = settings.load_settings("tasks", "hummingbird_voc2012")[1]
    assert (chosen.images, chosen.named_set, chosen.section) == ("voc2012", "voc2012", "voc2012")
    data = layout.resolve(str(tmp_path))
    for name in ("voc2012", "cityscapes"):  # as the files that read them as the only set say
        assert data.masked_set(name) == layout.resolve(name, root_needed=False).segmentation
    assert list(data.section("voc2012")["masks"]) == ["VOCdevkit/VOC2012/SegmentationClass"] * 2


def test_ade20k_are_the_masks_of_the_data_itself(tmp_path):
    data = layout.resolve("cityscapes", root_needed=False)
    made = evaluation.prepare("hummingbird_ade20k", data)
    assert data.masked_set("ade20k") is data.segmentation
    assert made.section == "segmentation"
    assert made.layout == data.section("segmentation")


def test_a_set_of_ones_own(configs, tmp_path):
    write(tmp_path)
    data = declare(configs, tmp_path, f"  street: {STREET}\n")
    assert "patch_knn_street" in settings.names("tasks")
    made = evaluation.prepare("patch_knn_street", data)
    assert made.layout["classes"] == 3
    assert made.layout["images"] == ["a/train", "a/test"]
    assert [len(ade20k.masked_pairs(data, "street", number)) for number in (0, 1)] == [3, 2]
    assert [checks_of(data)[f"street {split}"](data) for split in ("train", "test")] == [3, 2]
    assert data_program._wanted(data) == ["street"]
    before = digest.digests(data, "street")
    (tmp_path / "b" / "test" / "1.png").unlink()
    after = digest.digests(data, "street")
    assert set(before) == {"train", "test"}
    assert digest.changed(before, after) == ["test"]


def test_a_set_in_a_file_outside_of_the_shipped_ones(tmp_path):
    write(tmp_path)
    (tmp_path / "mine.yaml").write_text(f"root: {tmp_path}\nmasked:\n  street: {STREET}\n")
    data = layout.resolve(str(tmp_path / "mine.yaml"))
    assert evaluation.prepare("hummingbird_street", data).layout["classes"] == 3
    with pytest.raises(UserError, match="'mine' has no set with masks called 'dogs': expected one of ade20k, voc2012"):
        _ = evaluation.prepare("hummingbird_dogs", data).settings and data.masked_set("dogs")


@pytest.mark.parametrize("name", ["ade20k", "depth", "a/b"])
def test_names_that_are_taken(configs, tmp_path, name):
    with pytest.raises(SettingsError, match=f"masked.{name}: expected letters, digits, _ and - for a name, and none"):
        declare(configs, tmp_path, f"  {name}: {STREET}\n")


@pytest.mark.parametrize("name", ["voc07", "davis2017"])
def test_names_of_other_sets(configs, tmp_path, name):
    both = rf"{name} names two sets of different kinds, under \w+ and masked \(published sets are there in any data\)"
    with pytest.raises(SettingsError, match=both):
        declare(configs, tmp_path, f"  {name}: {STREET}\n")


def test_masks_that_few_have_are_not_missed(tmp_path):
    data = layout.resolve("full", root_needed=False)
    assert {"voc2012", "cityscapes"} <= set(data.counts)
    assert not {"voc2012", "cityscapes"} & set(data_program._wanted(data))
