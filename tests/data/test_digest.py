"""Digests of data sets on folders made by hand: what changes them, what does not, and how often files are looked at."""

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from regvit_lightning.data import digest
from regvit_lightning.data.image_sets import BoxedSet, Depth, Segmentation
from regvit_lightning.data.layout import DataSettings


@pytest.fixture
def data(tmp_path):
    """Two classes of two images per split, masks, depth, boxes of both layouts, and shards."""
    root = tmp_path / "here" / "flowers"
    for split in ("train", "val"):
        for name in ("lily", "rose"):
            for number in range(2):
                write(root / split / name / f"{number}.jpg", b"x" * (10 + number))
    for kind, suffix in (("images", ".jpg"), ("masks", ".png")):
        for split in ("train", "test"):
            write(root / kind / split / f"0{suffix}", b"mask")
    for split in ("train", "test"):
        write(root / f"{split}.txt", b"0.jpg 0.png 500\n")
        write(root / f"depth_{split}" / "0.png", b"depth")
    write(root / "voc/JPEGImages/0.jpg", b"image")
    write(root / "voc/Annotations/0.xml", b"<box>1</box>")
    write(root / "voc/ImageSets/Main/trainval.txt", b"0\n")
    write(root / "coco/images/0.jpg", b"image")
    write(root / "coco/boxes.json", b"[1]")
    write(root / "pairs/0.tar", b"shard")
    return settings_of(root)


def settings_of(root):
    return DataSettings(
        name="flowers",
        root=str(root),
        imagenet=".",
        imagenet22k=".",
        pairs="pairs/*.tar",
        segmentation=Segmentation(["images/train", "images/test"], ["masks/train", "masks/test"]),
        depth=Depth(["train.txt", "test.txt"], ["depth_train", "depth_test"]),
        discovery={
            "cats": BoxedSet("voc", "voc"),
            "dogs": BoxedSet("coco", "coco", "images", "boxes.json"),
        },
    )


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


SECTIONS = ["imagenet", "imagenet22k", "pairs", "segmentation", "depth", "cats", "dogs"]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_copy_at_another_place_with_other_times_has_the_same_digest(data, tmp_path, section):
    there = tmp_path / "elsewhere" / "other name"
    shutil.copytree(data.root, there)
    os.utime(there / "train/rose/0.jpg", (1, 1))
    first = digest.digests(data, section)
    assert first
    assert digest.digests(settings_of(there), section) == first


CHANGES = {  # file to write, its content, and the section and split of which it is part
    "another image": ("train/rose/9.JPG", b"new", "imagenet", ["train"]),
    "an image of another size": ("val/rose/1.jpg", b"much longer content", "imagenet", ["test"]),
    "another mask": ("masks/test/0.png", b"longer mask", "segmentation", ["test"]),
    "another training image with mask": ("images/train/0.jpg", b"longer image", "segmentation", ["train"]),
    "another depth map": ("depth_train/0.png", b"longer depth", "depth", ["train"]),
    "another list of the same length": ("test.txt", b"1.jpg 1.png 500\n", "depth", ["test"]),
    "a box of the same length": ("voc/Annotations/0.xml", b"<box>2</box>", "cats", ["all"]),
    "another list of names": ("voc/ImageSets/Main/trainval.txt", b"1\n", "cats", ["all"]),
    "COCO boxes of the same length": ("coco/boxes.json", b"[2]", "dogs", ["all"]),
    "another shard": ("pairs/1.tar", b"shard", "pairs", ["train"]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_a_list_a_size_or_a_label_changes_its_split_alone(data, name):
    file, content, section, splits = CHANGES[name]
    before = digest.digests(data, section)
    write(Path(data.root) / file, content)
    assert digest.changed(before, digest.digests(data, section)) == splits


def test_a_moved_label_and_a_removed_image_are_noticed(data, tmp_path):
    root = tmp_path / "here" / "flowers"
    before = digest.digests(data, "imagenet")
    (root / "train/rose/0.jpg").rename(root / "train/lily/2.jpg")  # the same image, now of another class
    relabelled = digest.digests(data, "imagenet")
    assert digest.changed(before, relabelled) == ["train"]
    (root / "val/lily/0.jpg").unlink()
    assert digest.changed(relabelled, digest.digests(data, "imagenet")) == ["test"]


def test_what_is_no_image_leaves_the_digest_alone(data, tmp_path):
    root = tmp_path / "here" / "flowers"
    before = digest.digests(data, "imagenet")
    for junk in (".DS_Store", "README.txt", "rose/Thumbs.db", "rose/._0.jpg", "__MACOSX/rose/0.jpg"):
        write(root / "train" / junk, b"junk")
    assert digest.digests(data, "imagenet") == before


def test_a_split_that_is_not_there_is_not_judged(data, tmp_path):
    before = digest.digests(data, "imagenet")
    shutil.rmtree(tmp_path / "here" / "flowers" / "train")
    without = digest.digests(data, "imagenet")
    assert set(before) == {"train", "test"}
    assert set(without) == {"test"}
    assert digest.changed(before, without) == []
    assert digest.digests(settings_of(tmp_path / "nowhere"), "imagenet") == {}


def test_composed_and_decomposed_letters_are_one_name(data, tmp_path):
    root = tmp_path / "here" / "flowers"
    write(root / "train/rose/caf\u00e9.jpg", b"coffee")
    before = digest.digests(data, "imagenet")
    (root / "train/rose/caf\u00e9.jpg").rename(root / "train/rose/cafe\u0301.jpg")
    assert digest.digests(data, "imagenet") == before


def test_a_broken_link_is_a_change_not_an_error(data, tmp_path):
    before = digest.digests(data, "imagenet")
    (tmp_path / "here/flowers/train/rose/5.jpg").symlink_to("nowhere")
    assert digest.changed(before, digest.digests(data, "imagenet")) == ["train"]


def test_rendered_data_is_identified_by_version_and_settings(tiny, tmp_path):
    rendered = replace(tiny, rendered=True)
    first = digest.digests(rendered, "imagenet")
    assert set(first) == {"rendered"}
    other = tmp_path / "other"
    content = json.loads((Path(tiny.root) / "complete.json").read_text())
    content["settings"]["seed"] += 1
    write(other / "complete.json", json.dumps(content).encode())
    assert digest.changed(first, digest.digests(replace(rendered, root=str(other)), "imagenet")) == ["rendered"]
    assert digest.digests(replace(rendered, root=str(tmp_path / "nowhere")), "imagenet") == {}


def test_a_large_folder_is_looked_through_once(data, tmp_path, monkeypatch):
    """The stored digest answers without a look at a single image, and a replaced image is still noticed."""
    monkeypatch.setattr(digest, "MANY", 1)
    root = tmp_path / "here" / "flowers"
    for folder, _, _ in os.walk(root):
        os.utime(folder, (time.time() - 60, time.time() - 60))
    first = digest.digests(data, "imagenet")
    assert (root / ".index").is_dir()
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", None)
        assert digest.digests(data, "imagenet") == first
    write(root / "new.jpg", b"replaced by a longer one")
    (root / "new.jpg").replace(root / "train/rose/0.jpg")
    assert digest.changed(first, digest.digests(data, "imagenet")) == ["train"]


def test_the_content_of_images_is_not_read(data, monkeypatch):
    """An image is known by name and size, so that a million of them take one pass over the folders."""
    monkeypatch.setattr(Image, "open", None)
    monkeypatch.setattr("pathlib.Path.read_bytes", None)
    assert set(digest.digests(data, "imagenet")) == {"train", "test"}
