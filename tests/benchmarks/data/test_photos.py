"""The collection `photos` from small archives of the same make, and which images of each set are taken."""

import io
from pathlib import PurePosixPath

import numpy as np
import pytest
from PIL import Image

from benchmarks.data import __main__ as program
from benchmarks.data import checks, git_trees, obtain, photos
from regvit_lightning.data import nyu
from regvit_lightning.data.keypoints import keypoint_pairs
from regvit_lightning.data.layout import DataError, resolve
from tests.benchmarks.data.test_obtain import jpeg, tar_of


def paths(*names):
    return [PurePosixPath(name) for name in names]


def test_flowers_are_taken_and_split_by_the_order_of_names():
    every = paths(*(f"flowers/{name}/{number:02d}.jpg" for name in ("rose", "tulip") for number in range(30)))
    targets = photos.flowers([*reversed(every), *paths("README.md")])
    rose = {str(path): target for path, target in targets.items() if "rose" in str(path)}
    assert len(targets) == 20
    assert rose["flowers/rose/00.jpg"] == "flowers/train/rose/00.jpg"
    val = sorted(path[-6:-4] for path, target in rose.items() if "/val/" in target)
    assert val == ["09", "12", "24", "27"]


def test_the_video_is_split_by_time_with_a_gap():
    every = paths(
        *(f"data/frame-{n:06d}.{kind}" for n in range(1000) for kind in ("color.jpg", "depth.png", "pose.txt"))
    )
    targets = photos.video([*every, *paths("data/camera-intrinsics.txt", "data/other.txt")])
    assert len(targets) == 3 * (140 + 40) + 1
    assert targets[PurePosixPath("data/frame-000695.pose.txt")] == "video/frame-000695.pose.txt"
    assert targets[PurePosixPath("data/camera-intrinsics.txt")] == "video/camera-intrinsics.txt"
    assert max(photos.FRAMES["train"]) + 100 < min(photos.FRAMES["test"])


def png(mode_array):
    file = io.BytesIO()
    Image.fromarray(mode_array).save(file, "PNG")
    return file.getvalue()


BOX = b"<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
POSE = b"1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"
XML = b"<annotation><object>" + BOX + b"</object></annotation>"


def boxed(name):
    return {f"images/{name}.jpg": jpeg(2), f"annots/{name}.xml": XML}


def small_archives(folder):
    """Archives under the names of `configs/downloads/photos.yaml`, with few and small images; their recipe."""
    recipe = obtain.read_data_source("photos")
    depth, grey = png(np.full((8, 8), 1500, np.uint16)), png(np.zeros((8, 8), np.uint8))
    frames = [frame for frames in photos.FRAMES.values() for frame in frames]
    contents = {
        "flowers": {f"flowers/{name}/{n:02d}.jpg": jpeg(n) for name in ("rose", "tulip") for n in range(15)},
        "SegNet": {f"CamVid/{s}{kind}/0.png": grey for s in ("train", "val", "test") for kind in ("", "annot")},
        "raccoon": {"images/r.jpg": jpeg(1), "annotations/r.xml": XML, "README.md": b"not checked"},
        "kangaroo": {**boxed("k"), **boxed("00090")},
        "tsdf": {
            **{f"data/frame-{n:06d}.color.jpg": jpeg(n % 99) for n in frames},
            **{f"data/frame-{n:06d}.depth.png": depth for n in frames},
            **{f"data/frame-{n:06d}.pose.txt": POSE for n in frames},
            "data/camera-intrinsics.txt": b"8 0 4\n0 8 4\n0 0 1\n",
        },
    }
    folder.mkdir()
    for file, files in zip(recipe.files, contents.values(), strict=True):
        top = file.name.removesuffix(".tar.gz")
        tar_of(folder / file.name, {f"{top}/{name}": content for name, content in files.items()}, "w:gz")
        with git_trees.archives.opened(folder / file.name) as members:
            blobs = {git_trees.below(one): (git_trees.FILE, git_trees.blob(one)) for one in members}
        for name in file.trees:
            inside = {path.relative_to(name): blob for path, blob in blobs.items() if path.is_relative_to(name)}
            file.trees[name] = git_trees.tree(inside).hex()
    return recipe


def small_data(tmp_path):
    data = resolve("photos")
    data.root = str(tmp_path / "root")
    data.counts = {"imagenet": [6, 4], "segmentation": [1, 1], "depth": [140, 40], "raccoon": [1], "kangaroo": [1]}
    return data


def test_photos_are_sorted_into_the_folders_of_their_yaml(tmp_path, capsys):
    recipe, data = small_archives(tmp_path / "archives"), small_data(tmp_path)
    obtain.obtain_one("photos", recipe, data, tmp_path / "archives", checks.checks_of(data))
    printed = capsys.readouterr().out
    assert "github.com/experiencor/raccoon_dataset; licence: MIT" in printed
    assert "6 images (imagenet train), 4 images (imagenet val)" in printed
    assert "1 images (kangaroo trainval)" in printed
    assert nyu.test_pairs(data)[0].depth.max() == pytest.approx(1.5)
    assert len({pair.group for pair in keypoint_pairs(data, "room")}) == 4  # 1, 2, 4 and 8 frames later
    assert not (tmp_path / "root/camvid/val").exists()
    kangaroos = sorted(path.name for path in (tmp_path / "root/kangaroo").rglob("*.*"))
    assert kangaroos == ["k.jpg", "k.xml"]  # 00090 is truncated in its repository


def test_a_changed_file_stops_it_before_anything_is_written(tmp_path):
    recipe, data = small_archives(tmp_path / "archives"), small_data(tmp_path)
    recipe.files[2].trees["images"] = "0" * 40
    with pytest.raises(DataError, match=r"raccoon_dataset-.*: images is not the published one"):
        obtain.obtain_one("photos", recipe, data, tmp_path / "archives", checks.checks_of(data))
    assert not (tmp_path / "root").exists()


def test_get_photos_needs_no_other_word(monkeypatch):
    asked = []
    monkeypatch.setattr(obtain, "obtain", lambda names, data, folder, checks: asked.append((names, data.name)))
    program.main(program.Data(get="photos"), [])
    assert asked == [(["photos"], "photos")]


def test_all_means_those_of_the_collection():
    known = ["photos", "voc07"]
    assert obtain._all_of(resolve("photos"), known) == ["photos"]
    assert obtain._all_of(resolve("mini"), known) == ["voc07"]
