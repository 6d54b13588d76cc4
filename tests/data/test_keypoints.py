"""Pairs with keypoints: SPair-71k's layout, JSON of one's own, and what is said of annotations that do not fit."""

import json

import pytest
from PIL import Image

from regvit_lightning.data import digest
from regvit_lightning.data.image_sets import KeypointSet
from regvit_lightning.data.keypoints import Pairs, keypoint_pairs, spread
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.settings import SettingsError


def write_spair(root, **changes):
    """One pair of SPair-71k; `changes` replace entries of its annotation."""
    folder, name = root / "SPair-71k", "000001-a-b:cat"
    annotation = {"category": "cat", "src_imname": "a.jpg", "trg_imname": "b.jpg", "trg_bndbox": [10, 5, 40, 25]}
    annotation |= {"src_kps": [[1, 2], [3, 4], [5, 6]], "trg_kps": [[11, 12], [13, 14], [15, 16]], **changes}
    for path in (folder / "Layout" / "large", folder / "PairAnnotation" / "test", folder / "JPEGImages" / "cat"):
        path.mkdir(parents=True, exist_ok=True)
    (folder / "Layout" / "large" / "test.txt").write_text(f"{name}\n")
    (folder / "PairAnnotation" / "test" / f"{name}.json").write_text(json.dumps(annotation))
    for file, size in (("a.jpg", (60, 40)), ("b.jpg", (50, 30))):
        Image.new("RGB", size).save(folder / "JPEGImages" / "cat" / file)
    return DataSettings(name="any", root=str(root))


def write_own(root, images):
    (root / "cups").mkdir(exist_ok=True)
    for file in (root / "cups" / one["file"] for one in images):
        if not file.exists():
            Image.new("RGB", (20, 10)).save(file)
    (root / "cups" / "points.json").write_text(json.dumps({"images": images}))
    return DataSettings(name="own", root=str(root), keypoints={"cups": KeypointSet("cups", "points.json")})


def image(file, group="cup", **keypoints):
    return {"file": file, "group": group, "keypoints": keypoints}


def test_a_pair_of_spair(tmp_path):
    (pair,) = keypoint_pairs(write_spair(tmp_path), "spair71k")
    assert pair.points.tolist() == [[[1, 2], [3, 4], [5, 6]], [[11, 12], [13, 14], [15, 16]]]
    assert (pair.group, pair.side) == ("cat", 30)
    assert [file.rsplit("/", 2)[1:] for file in pair.files] == [["cat", "a.jpg"], ["cat", "b.jpg"]]


def test_images_are_squares_and_their_sizes_kept(tmp_path):
    pairs = Pairs(keypoint_pairs(write_spair(tmp_path), "spair71k"), 24)
    assert pairs[0]["images"].shape == (2, 3, 24, 24)
    assert pairs[0]["sizes"].tolist() == [[60, 40], [50, 30]]


def test_pairs_of_ones_own_are_all_of_a_group_by_the_names_they_share(tmp_path):
    images = [
        image("a.jpg", rim=[1, 2], foot=[3, 4]),
        {**image("b.jpg", foot=[5, 6], handle=[7, 9], rim=[8, 8]), "box": [0, 0, 20, 10]},
        image("c.jpg", handle=[9, 9], spout=[1, 5]),
        image("d.jpg", "pot", rim=[1, 1], foot=[2, 2]),
    ]
    pairs = keypoint_pairs(write_own(tmp_path, images), "cups")
    names = [tuple(file[-5] for file in pair.files) for pair in pairs]
    assert names == [("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")]
    assert pairs[0].points.tolist() == [[[1, 2], [3, 4]], [[8, 8], [5, 6]]]
    assert pairs[0].side == 20
    assert pairs[1].box.tolist() == [1, 2, 3, 4]  # without a box: the extent of the keypoints


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"src_kps": [[1, 2]]}, "not an annotation of SPair-71k"),
        ({"trg_bndbox": [1, 2, 3]}, "a box of 4 numbers"),
        ({"src_kps": [], "trg_kps": []}, "as many source as target keypoints"),
        ({"trg_bndbox": [4, 4, 4, 4]}, "has no side"),
        ({"category": None}, "not an annotation of SPair-71k"),
    ],
)
def test_an_annotation_that_does_not_fit_is_told(tmp_path, changes, told):
    with pytest.raises(DataError, match=rf"000001-a-b:cat\.json: .*{told}"):
        keypoint_pairs(write_spair(tmp_path, **changes), "spair71k")


def test_what_is_missing_is_told(tmp_path):
    with pytest.raises(DataError, match=r"no list .*test\.txt"):
        keypoint_pairs(DataSettings(name="any", root=str(tmp_path)), "spair71k")
    write_spair(tmp_path)
    next((tmp_path / "SPair-71k" / "PairAnnotation" / "test").iterdir()).unlink()
    with pytest.raises(DataError, match="1 of 1 files are missing"):
        keypoint_pairs(DataSettings(name="any", root=str(tmp_path)), "spair71k")
    counted = DataSettings(name="any", root=str(tmp_path), counts={"spair71k": [2]})
    write_spair(tmp_path)
    with pytest.raises(DataError, match="has 1 pairs, expected 2"):
        keypoint_pairs(counted, "spair71k")


def test_json_of_ones_own_that_does_not_fit_is_told(tmp_path):
    with pytest.raises(DataError, match="no two images of one group have a keypoint in common"):
        keypoint_pairs(write_own(tmp_path, [image("a.jpg", rim=[1, 2])]), "cups")
    with pytest.raises(DataError, match=r"image 1: a keypoint is \[x, y\]"):
        keypoint_pairs(write_own(tmp_path, [image("a.jpg", rim=[1, 2]), image("b.jpg", rim="left")]), "cups")
    with pytest.raises(DataError, match=r"points\.json: expected .*'keypoints'"):
        keypoint_pairs(write_own(tmp_path, [{"file": "a.jpg", "group": "cup"}]), "cups")
    (tmp_path / "cups" / "points.json").write_text("{")
    with pytest.raises(DataError, match=r"points\.json: not readable as JSON"):
        keypoint_pairs(
            DataSettings(name="o", root=str(tmp_path), keypoints={"c": KeypointSet("cups", "points.json")}), "c"
        )


def test_a_keypoint_outside_of_its_image_is_told(tmp_path):
    edges = [image("a.jpg", rim=[0, 0]), image("b.jpg", rim=[20, 10])]
    assert len(keypoint_pairs(write_own(tmp_path, [{**one, "box": [0, 0, 9, 9]} for one in edges]), "cups")) == 2
    for place in ([20.5, 3], [3, 11], [-1, 3]):
        images = [
            {**image("a.jpg", rim=[1, 2]), "box": [0, 0, 9, 9]},
            {**image("b.jpg", rim=place), "box": [0, 0, 9, 9]},
        ]
        told = rf"points\.json: a keypoint at {place[0]}, {place[1]} lies outside of .*b\.jpg of 20 × 10 px"
        with pytest.raises(DataError, match=told):
            keypoint_pairs(write_own(tmp_path, images), "cups")


def test_a_set_that_is_not_there_is_told():
    with pytest.raises(SettingsError, match="no set with keypoints called 'dogs': expected one of spair71k"):
        keypoint_pairs(DataSettings(name="any", root="x"), "dogs")


def test_fewer_pairs_are_spread_evenly_over_those_of_a_group(tmp_path):
    images = [image(f"{number}.jpg", group, rim=[number, 2]) for group in ("a", "b") for number in range(5)]
    pairs = keypoint_pairs(write_own(tmp_path, [{**one, "box": [0, 0, 9, 9]} for one in images]), "cups")
    assert len(pairs) == 40
    few = spread(pairs, 4)
    assert [pairs.index(pair) for pair in few] == [0, 5, 10, 15, 20, 25, 30, 35]
    assert spread(pairs, 0) == spread(pairs, 99) == pairs


def test_the_digest_follows_annotations_and_images(tmp_path):
    data = write_spair(tmp_path)
    before = digest.digests(data, "spair71k")
    write_spair(tmp_path, trg_bndbox=[10, 5, 40, 26])
    after = digest.digests(data, "spair71k")
    assert set(before) == set(after) == {"all"}
    assert before != after
    assert data.section("spair71k") == {"spair71k": {"folder": "SPair-71k", "annotations": "", "frames": ""}}
