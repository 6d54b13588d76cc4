"""COCO's JSON as different tools write it: which entry belongs to which image, and bad values in one line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from regvit_lightning.data import coco
from regvit_lightning.errors import Notice
from tests.data.one_line import complaint


def write(root, images, annotations, files):
    """The JSON, and images of 60 × 40 pixels."""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(root / name)
    (root / "all.json").write_text(json.dumps({"images": images, "annotations": annotations}))


def read(root, names=None):
    if names is not None:
        (root / "list.txt").write_text("".join(f"{name}\n" for name in names))
    found = coco.listed(root, root / "all.json", None if names is None else root / "list.txt")
    return {found.path(place).removeprefix(f"{root}/"): found.boxes[place].tolist() for place in range(len(found))}


def entry(number, name):
    return {"id": number, "file_name": name}


def box(number, corner):
    return {"image_id": number, "bbox": [corner, corner, 10, 10], "iscrowd": 0}


ONE, TWO = [[1, 1, 11, 11]], [[2, 2, 12, 12]]
FILES = ["a/1.jpg", "b/1.jpg"]


@pytest.mark.parametrize("names", [None, FILES])
def test_one_file_name_in_two_folders_is_two_images(tmp_path, names):
    write(tmp_path, [entry(1, "a/1.jpg"), entry(2, "b/1.jpg")], [box(1, 1), box(2, 2)], FILES)
    assert read(tmp_path, names) == {"a/1.jpg": ONE, "b/1.jpg": TWO}


def test_the_same_path_or_else_the_longest_common_end_decides(tmp_path):
    images, files = [entry(1, "1.jpg"), entry(2, "a/1.jpg")], ["1.jpg", "a/1.jpg", "deep/a/1.jpg"]
    write(tmp_path, images, [box(1, 1), box(2, 2)], files)
    assert read(tmp_path, files) == {"1.jpg": ONE, "a/1.jpg": TWO, "deep/a/1.jpg": TWO}


def test_entries_that_cannot_be_told_apart_are_refused(tmp_path):
    write(tmp_path, [entry(1, "1.jpg"), entry(2, "1.jpg")], [box(1, 1), box(2, 2)], [*FILES, "1.jpg"])
    assert "2 of 2 images may be several of its entries: a/1.jpg, b/1.jpg" in complaint(read, tmp_path, FILES)
    assert "1 images stand in it more than once" in complaint(read, tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("train/1.jpg", "1.jpg"),
        ("1.jpg", "train/1.jpg"),
        ("deep/train/1.jpg", "train/1.jpg"),
        ("train\\1.jpg", "train/1.jpg"),
        ("./1.jpg", "1.jpg"),
        ("caf\u00e9.jpg", "cafe\u0301.jpg"),
    ],
)
def test_a_folder_in_the_file_name_and_other_spellings_are_matched(tmp_path, name, file):
    write(tmp_path, [entry(7, name)], [box(7, 1)], [file])
    assert read(tmp_path, [file]) == {file: ONE}
    if not file.startswith("train/") or name.startswith("train"):
        assert read(tmp_path) == {file: ONE}


@pytest.mark.parametrize(("image", "annotation"), [(7, "7"), ("7", 7), (7, 7.0), ("x", "x")])
def test_ids_of_two_types_are_the_same_image(tmp_path, image, annotation):
    write(tmp_path, [entry(image, "1.jpg")], [box(annotation, 1)], ["1.jpg"])
    assert read(tmp_path) == {"1.jpg": ONE}


def test_lvis_has_neither_file_names_nor_crowds(tmp_path):
    images = [{"id": 1, "coco_url": "http://images.cocodataset.org/train2017/1.jpg", "width": 60, "height": 40}]
    write(tmp_path, images, [{"image_id": 1, "bbox": [1.0, 1.0, 10.0, 10.0]}], ["train2017/1.jpg"])
    assert read(tmp_path) == read(tmp_path, ["train2017/1.jpg"]) == {"train2017/1.jpg": ONE}


def test_another_size_is_said(tmp_path):
    write(tmp_path, [{**entry(1, "1.jpg"), "width": 600, "height": 400}], [box(1, 1)], ["1.jpg"])
    with pytest.warns(Notice, match="1 annotations state another size"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("bbox", "fault"),
    [
        ([0.1, 0.1, 0.5, 0.9], "lies in 0..1: expected pixels"),
        ([1, 1, float("inf"), 2], "expected four numbers"),
        ([1, 1, float("nan"), 2], "expected four numbers"),
        ([1, 1, 10**400, 2], "expected four numbers"),
        ([1, 1, 2], "expected four numbers"),
        ("1 1 2 2", "expected four numbers"),
        (None, "no bbox: expected four numbers"),
        ([1, 1, -5, 9], "is empty"),
        ([1, 1, 1e300, 9], "lies outside"),
    ],
)
def test_a_bad_box_names_file_and_image(tmp_path, bbox, fault):
    write(tmp_path, [entry(1, "1.jpg")], [{"image_id": 1, "bbox": bbox}], ["1.jpg"])
    line = complaint(read, tmp_path)
    assert fault in line
    assert "1.jpg" in line


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"7", b"\xff\xfe", b"[" * 200_000, b'{"images": 3, "annotations": []}', b'{"images": [7]}'],
)
def test_another_file_is_told_in_a_line(tmp_path, content):
    write(tmp_path, [], [], ["1.jpg"])
    (tmp_path / "all.json").write_bytes(content)
    assert "all.json" in complaint(read, tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    write(root, [], [], ["1.jpg"])
    return root


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(["1.jpg", "", "..", "/", "\0", "1", 1, 10**30]),
)
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4), max_leaves=6)
IMAGES = st.dictionaries(st.sampled_from(["id", "file_name", "width", "height", "coco_url"]), ANYTHING)
OBJECTS = st.dictionaries(st.sampled_from(["image_id", "bbox", "iscrowd"]), ANYTHING)


@given(
    images=st.lists(st.one_of(IMAGES, ANYTHING), max_size=3),
    annotations=st.lists(st.one_of(OBJECTS, ANYTHING), max_size=3),
)
def test_any_json_is_read_or_told_in_a_line(folder, images, annotations):
    (folder / "all.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    complaint(read, folder)


@given(image=IMAGES, annotation=OBJECTS)
def test_any_values_of_one_image_are_read_or_told_in_a_line(folder, image, annotation):
    images, objects = [{**entry(1, "1.jpg"), **image}], [{**box(1, 1), **annotation}]
    (folder / "all.json").write_text(json.dumps({"images": images, "annotations": objects}))
    complaint(read, folder)
    complaint(read, folder, ["1.jpg"])
