"""The rendered data set on disk, read back by independent readers of each format."""

import hashlib
import json
import os
import shutil
import tarfile
from dataclasses import replace
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from regvit_lightning.data.mini import parts
from regvit_lightning.data.mini import writer as mini
from regvit_lightning.data.mini.annotations import run_lengths
from regvit_lightning.data.mini.films import film
from regvit_lightning.data.mini.scenes import CLASSES, SEMANTIC_IDS, render, sample_scene
from regvit_lightning.data.mini.writer import MiniSettings, is_complete, write
from regvit_lightning.errors import UserError

TINY = MiniSettings(
    imagenet_train=2,
    imagenet_val=1,
    ade_train=3,
    ade_val=2,
    nyu_train=11,
    nyu_test=2,
    voc2007=4,
    voc2012=4,
    coco=13,
    shards_train=5,
    shards_val=2,
    shard_pairs=3,
    imagenet_side=48,
    ade_side=80,
    voc_side=64,
    films=1,
    keypoints=2,
    scans=1,
    shifted=1,
    landmarks=2,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mini")
    assert list(write(folder, TINY, workers=1))
    return folder


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# ---------------------------------------------------------------------------------------------------- formats


def test_imagenet_folders(root):
    from torchvision.datasets import ImageFolder

    train, val = ImageFolder(root / "imagenet" / "train"), ImageFolder(root / "imagenet" / "val")
    assert sorted(train.classes) == sorted(name.replace(" ", "_") for name in CLASSES)
    assert (len(train), len(val)) == (32, 16)
    assert train[0][0].size == (48, 48)
    assert (root / "imagenet/train/striped_ball/striped_ball_00001.JPEG").exists()


def test_ade20k_pairs(root):
    folder = root / "ADEChallengeData2016"
    for split, short, count in (("training", "train", 3), ("validation", "val", 2)):
        names = [f"ADE_{short}_{i:08d}" for i in range(1, count + 1)]
        assert sorted(path.stem for path in (folder / "images" / split).iterdir()) == names
        for name in names:
            image = Image.open(folder / "images" / split / f"{name}.jpg")
            labels = Image.open(folder / "annotations" / split / f"{name}.png")
            assert labels.mode == "L"
            assert labels.size == image.size
            assert set(np.unique(labels)) <= {0, *SEMANTIC_IDS.values()}


def test_nyu_lists_in_the_form_of_bts(root):
    train = (root / "nyu" / "nyu_train.txt").read_text().splitlines()
    test = (root / "nyu" / "nyu_test.txt").read_text().splitlines()
    assert train[10] == "/scene_0001/rgb_00000.jpg /scene_0001/sync_depth_00000.png 518.8579"
    assert test[1] == "scene_0000/rgb_00001.jpg scene_0000/sync_depth_00001.png 518.8579"
    for lines, folder in ((train, root / "nyu" / "sync"), (test, root / "nyu" / "official_splits" / "test")):
        for line in lines:
            rgb, depth, _ = line.split()
            assert Image.open(folder / rgb.lstrip("/")).size == (640, 480)
            metres = np.asarray(Image.open(folder / depth.lstrip("/"))) / 1000
            assert metres.shape == (480, 640)
            assert 0.5 <= metres.min() < metres.max() <= 10
    assert (len(train), len(test)) == (11, 2)


def test_voc_boxes_are_one_based_and_inclusive(root):
    for year, first in (("VOC2007", "000001"), ("VOC2012", "2008_000001")):
        folder = root / "VOCdevkit" / year
        lists = {s: (folder / f"ImageSets/Main/{s}.txt").read_text().split() for s in ("trainval", "train", "val")}
        assert lists["trainval"][0] == first
        assert sorted(lists["train"] + lists["val"]) == lists["trainval"]
        for name in lists["trainval"]:
            tree = ElementTree.parse(folder / "Annotations" / f"{name}.xml")
            width, height = Image.open(folder / "JPEGImages" / tree.findtext("filename")).size
            assert (int(tree.findtext("size/width")), int(tree.findtext("size/height"))) == (width, height)
            for item in tree.iter("object"):
                corners = [int(item.findtext(f"bndbox/{tag}")) for tag in ("xmin", "ymin", "xmax", "ymax")]
                assert 1 <= corners[0] < corners[2] <= width
                assert 1 <= corners[1] < corners[3] <= height
                assert item.findtext("name").replace("_", " ") in CLASSES
                assert {item.findtext("truncated"), item.findtext("difficult")} <= {"0", "1"}
                assert (item.find("occluded") is not None) == (year == "VOC2012")


def test_voc_is_read_by_torchvision(root):
    from torchvision.datasets import VOCDetection

    image, target = VOCDetection(root, year="2007", image_set="trainval")[0]
    assert target["annotation"]["size"]["width"] == str(image.size[0])


def test_coco_annotations_and_the_20k_list(root):
    summary = json.loads((root / "coco/annotations/instances_train2014.json").read_text())
    images = {image["id"]: image for image in summary["images"]}
    assert [category["name"] for category in summary["categories"]] == list(CLASSES)
    assert len({item["id"] for item in summary["annotations"]}) == len(summary["annotations"])
    for image in images.values():
        assert image["file_name"] == f"COCO_train2014_{image['id']:012d}.jpg"
        assert Image.open(root / "coco/images/train2014" / image["file_name"]).size == (image["width"], image["height"])
    for item in summary["annotations"]:
        x, y, width, height = item["bbox"]
        image = images[item["image_id"]]
        assert 0 <= x < x + width <= image["width"]
        assert 0 <= y < y + height <= image["height"]
        assert 16 <= item["area"] <= width * height
        if item["iscrowd"]:
            assert sum(item["segmentation"]["counts"]) == image["width"] * image["height"]
            assert sum(item["segmentation"]["counts"][1::2]) == item["area"]
    assert sum(item["iscrowd"] for item in summary["annotations"]) == 1
    listed = (root / "coco/coco_20k_filenames.txt").read_text().splitlines()
    assert listed[0] == "train2014/COCO_train2014_000000000009.jpg"
    assert len(listed) == 12  # of 13
    assert all((root / "coco/images" / name).exists() for name in listed)


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        ([[0, 1], [0, 1]], [2, 2]),
        ([[1, 0], [1, 0]], [0, 2, 2]),
        ([[0, 0], [0, 0]], [4]),
        ([[0, 1], [1, 0]], [1, 2, 1]),
    ],
)
def test_run_lengths_go_down_the_columns(mask, counts):
    assert run_lengths(np.array(mask, bool)) == {"counts": counts, "size": [2, 2]}


def test_shards_hold_image_text_and_class(root):
    shards = sorted((root / "shards").iterdir())
    assert [path.name for path in shards] == ["train-000000.tar", "train-000001.tar", "val-000000.tar"]
    members = {}
    for path in shards[:2]:
        with tarfile.open(path) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid) == (0, 0, 0)
                members[member.name] = tar.extractfile(member).read()
    assert list(members)[:4] == ["000000.jpg", "000000.txt", "000000.cls", "000001.jpg"]
    assert len(members) == 3 * 5
    for key in ("000000", "000004"):
        assert Image.open(BytesIO(members[f"{key}.jpg"])).size == (48, 48)
        assert CLASSES[int(members[f"{key}.cls"])] in members[f"{key}.txt"].decode()


def test_films_in_the_layout_of_davis(root):
    folder = root / "DAVIS"
    for year in ("2016", "2017"):
        assert (folder / "ImageSets" / year / "val.txt").read_text() == "film_000\n"
    frames = sorted((folder / "JPEGImages" / "480p" / "film_000").iterdir())
    masks = sorted((folder / "Annotations" / "480p" / "film_000").iterdir())
    assert [path.name for path in frames] == [f"{number:05d}.jpg" for number in range(12)]
    assert [path.name for path in masks] == [f"{number:05d}.png" for number in range(12)]
    mask = Image.open(masks[0])
    assert mask.mode == "P"
    assert mask.size == Image.open(frames[0]).size == (192, 128)
    assert mask.getpalette()[:3] == [0, 0, 0]
    assert set(np.unique(mask)) <= {0, 1, 2, 3}
    rng = parts._rng(TINY, "films", 0)
    assert all((np.asarray(Image.open(path)) == ids).all() for path, (_, ids) in zip(masks, film(rng), strict=True))


# ------------------------------------------------------------------------------------------- writing and resuming


def test_a_set_from_before_the_films_is_read_as_ever_and_gets_them_alone(root, tmp_path):
    later = ("films", "keypoints", "scans", "landmarks", "shifted")
    usual = replace(TINY, **{name: getattr(MiniSettings(), name) for name in later})
    assert usual.described() == {key: value for key, value in TINY.described().items() if key not in later}
    old = shutil.copytree(root, tmp_path / "old")
    for folder in ("DAVIS", "SPair-71k", "scans", "roxford5k"):
        shutil.rmtree(old / folder)
    complete = json.loads((old / "complete.json").read_text())
    for key, name in (("files", "DAVIS"), ("files", "SPair-71k"), ("settings", "films"), ("settings", "keypoints")):
        del complete[key][name]
    del complete["files"]["scans"], complete["settings"]["scans"]
    del complete["files"]["roxford5k"], complete["settings"]["landmarks"], complete["settings"]["shifted"]
    for name in ("imagenet-a", "objectnet-1.0", "reassessed-imagenet"):
        del complete["files"][name]
    for name, content in (("complete.json", complete), ("settings.json", {**complete, "files": None})):
        kept = {key: value for key, value in content.items() if value is not None}
        (old / name).write_text(json.dumps(kept))
    assert is_complete(old)  # all tasks but those on videos
    assert not is_complete(old, usual)
    before, written = mini.rendered_as(old), {path: path.stat().st_mtime_ns for path in old.rglob("*.jpg")}
    list(write(old, usual, workers=1))
    assert is_complete(old, usual)
    assert mini.rendered_as(old) == before  # the digest of the data in records stays
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert len(list((old / "DAVIS" / "JPEGImages").rglob("*.jpg"))) == 12 * usual.films


def test_progress_ends_with_all(tmp_path):
    steps = list(write(tmp_path, replace(TINY, nyu_train=1, nyu_test=1), workers=1))
    assert steps[-1] == (16 * 3 + 5 + 2 + 8 + 13 + 7 + 12 + 32 + 9 + 20 + 16 * 4 + 16,) * 2
    done = [step[0] for step in steps]
    assert done == sorted(done)
    assert done[0] == 0
    assert steps[-1][0] == steps[-1][1]


def test_finished_data_set_is_left_alone(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert is_complete(root, TINY)
    assert is_complete(root)
    assert list(write(root, TINY, workers=1)) == []
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_lost_files_are_written_again_with_the_same_bytes(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "copy")
    for name in (
        "imagenet/train/plain_star/plain_star_00000.JPEG",
        "ADEChallengeData2016/annotations/validation/ADE_val_00000002.png",
        "nyu/sync/scene_0001/rgb_00000.jpg",
        "VOCdevkit/VOC2012/Annotations/2008_000003.xml",
        "coco/images/train2014/COCO_train2014_000000000040.jpg",
        "coco/annotations/instances_train2014.json",
        "shards/train-000001.tar",
    ):
        (copy / name).unlink()
    (copy / "imagenet" / ".half.JPEG.1.tmp").write_bytes(b"half")
    assert not is_complete(copy, TINY)
    list(write(copy, TINY, workers=1))
    assert digests(copy) == digests(root)


def test_stopped_half_way_by_one_and_finished_by_two_workers(root, tmp_path):
    steps = write(tmp_path, TINY, workers=1)
    for _ in range(4):
        next(steps)
    steps.close()
    assert not is_complete(tmp_path, TINY)
    list(write(tmp_path, TINY, workers=2))
    assert is_complete(tmp_path, TINY)
    assert digests(tmp_path) == digests(root)


def test_other_settings_rewrite_everything(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "copy")
    other = replace(TINY, seed=1, imagenet_train=1, nyu_train=1)
    assert not is_complete(copy, other)
    list(write(copy, other, workers=1))
    assert is_complete(copy, other)
    assert not is_complete(copy, TINY)
    assert len(list((copy / "imagenet" / "train").rglob("*.JPEG"))) == 16
    name = "imagenet/val/plain_star/plain_star_00000.JPEG"
    assert (copy / name).read_bytes() != (root / name).read_bytes()


def test_other_version_is_not_complete(root, monkeypatch):
    monkeypatch.setattr(mini, "VERSION", mini.VERSION + 1)
    assert not is_complete(root, TINY)


def test_data_of_others_is_never_removed(tmp_path):
    real = tmp_path / "imagenet" / "train" / "n01440764" / "n01440764_10026.JPEG"
    real.parent.mkdir(parents=True)
    real.write_bytes(b"real")
    with pytest.raises(UserError, match="may be real data"):
        list(write(tmp_path, TINY, workers=1))
    assert real.read_bytes() == b"real"


def test_root_that_is_a_file_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file") as told:
        list(write(tmp_path / "file" / "mini", TINY, workers=1))
    assert "\n" not in str(told.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission_is_told_in_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"cannot write .*Permission denied"):
        list(write(tmp_path / "mini", TINY, workers=1))


# ------------------------------------------------------------------------------------------- walls without texture


def scenes(share, count=40):
    settings = replace(TINY, plain=share)
    return [parts._main_object(settings, "imagenet train", index) for index in range(count)]


def test_a_plain_wall_has_one_colour_and_nothing_else_of_the_scene_changes():
    scene = sample_scene(np.random.default_rng(3), 160, 120)
    scene = replace(scene, light=replace(scene.light, grain=0.0, slope=(0.0, 0.0)))
    textured, plain = render(scene), render(replace(scene, plain_wall=True))
    for name in ("semantic", "depth", "instances", "boxes", "labels"):
        np.testing.assert_array_equal(getattr(textured, name), getattr(plain, name))
    wall = (plain.depth == np.float32(scene.wall_z)) & (plain.semantic == SEMANTIC_IDS[scene.wall.name])
    wall[1:] &= wall[:-1]  # the first row of the ground is as far away as the wall, and outlines are blended with it
    wall = np.logical_and.reduce([np.roll(wall, shift, axis) for axis in (0, 1) for shift in (-2, -1, 0, 1, 2)])
    assert wall.mean() > 0.1
    assert len(np.unique(plain.image[wall], axis=0)) == 1
    assert len(np.unique(textured.image[wall], axis=0)) > 20
    ground = (plain.semantic == SEMANTIC_IDS[scene.ground.name]) & (plain.depth < 0.9 * scene.wall_z)
    assert ground.mean() > 0.1
    np.testing.assert_array_equal(textured.image[ground], plain.image[ground])


def test_the_share_of_plain_scenes_is_the_one_asked_for_and_each_is_one_of_the_two():
    textured, plain, half = scenes(0.0), scenes(1.0), scenes(0.5)
    # In some scenes no texture is seen: that of a far wall is finer than a pixel.
    seen = [index for index in range(40) if not np.array_equal(plain[index].image, textured[index].image)]
    assert len(seen) > 20
    are_plain = [np.array_equal(half[index].image, plain[index].image) for index in seen]
    assert 0.2 < np.mean(are_plain) < 0.8
    for index, is_plain in zip(seen, are_plain, strict=True):
        assert is_plain or np.array_equal(half[index].image, textured[index].image)


def test_another_share_is_another_data_set(root, tmp_path):
    folder = tmp_path / "plain"
    shutil.copytree(root, folder)
    plain = replace(TINY, plain=1.0)
    assert is_complete(folder, TINY)
    assert not is_complete(folder, plain)
    assert list(write(folder, plain, workers=1))
    assert is_complete(folder, plain)
    assert mini.rendered_as(folder)["settings"]["plain"] == 1.0
    before, after = digests(root), digests(folder)
    changed = {name for name in before if after[name] != before[name]}
    assert [name for name in changed if name.endswith(".JPEG")]
    assert not [name for name in changed if name.endswith((".xml", ".txt", ".png")) and "objectnet" not in name]
