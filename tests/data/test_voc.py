"""Boxed images: the readers of VOC and COCO20k on hand-made files, batches by size, and every bad file in one line."""

import json
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from PIL import Image

from regvit_lightning.data import boxes, coco, discovery, voc
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.errors import Notice
from tests.data.one_line import complaint

OBJECT = (
    "<object><name>dog</name><difficult>1</difficult><truncated>1</truncated><part><name>head</name><bndbox>"
    "<xmin>1.5</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part><bndbox>{}</bndbox></object>"
)


def corners(xmin, ymin, xmax, ymax):
    return f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"


def write_voc(folder, images):
    """`images`: name -> ((width, height), boxes as VOC writes them)."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name, (size, objects) in images.items():
        Image.new("RGB", size).save(folder / "JPEGImages" / f"{name}.jpg")
        text = "".join(OBJECT.format(corners(*box)) for box in objects)
        (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{text}</annotation>")
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("".join(f"{name}\n" for name in images))
    return folder


def trainval(folder, get=""):
    """The images of a folder laid out as VOC2007 is."""
    return voc.listed(folder / "JPEGImages", folder / "Annotations", folder / "ImageSets/Main/trainval.txt", get=get)


def write_coco(root, images, listed=None):
    """`images`: number -> ((width, height), [(bbox as COCO writes it, crowd)])."""
    (root / "images" / "train2014").mkdir(parents=True, exist_ok=True)
    names = {number: f"COCO_train2014_{number:012d}.jpg" for number in images}
    entries, objects = [], []
    for number, (size, own) in images.items():
        Image.new("RGB", size).save(root / "images" / "train2014" / names[number])
        entries.append({"id": number, "file_name": names[number]})
        objects += [{"image_id": number, "bbox": list(bbox), "iscrowd": int(crowd)} for bbox, crowd in own]
    (root / "all.json").write_text(json.dumps({"images": entries, "annotations": objects}))
    chosen = [f"train2014/{names[number]}" for number in (images if listed is None else listed)]
    (root / "list.txt").write_text("\n".join(chosen) + "\n")
    return root / "images", root / "all.json", root / "list.txt"


# ------------------------------------------------------------------------------------------------------- readers


def test_voc_counts_every_object_and_starts_from_zero(tmp_path):
    images = {"000007": ((60, 40), [(1, 1, 60, 40), (11, 5, 20, 9)]), "000002": ((30, 50), [(3.7, 2, 9, 50)])}
    found = trainval(write_voc(tmp_path, images))
    assert found.boxes[0].tolist() == [[0, 0, 60, 40], [10, 4, 20, 9]]
    assert found.boxes[1].tolist() == [[2, 1, 9, 50]]  # whole numbers, cut off
    assert found.sizes.tolist() == [[60, 40], [30, 50]]
    assert found.path(0).endswith("JPEGImages/000007.jpg")  # the order of the list
    assert not found.left_out


def test_coco_takes_the_listed_images_without_crowds_and_rounds_to_whole_pixels(tmp_path):
    images = {
        9: ((60, 40), [((1.4, 2.5, 10.2, 3.1), False), ((0, 0, 60, 40), True), ((5, 5, 0.3, 9), False)]),
        40: ((60, 40), []),
        71: ((50, 40), [((10, 10, 5, 5), True)]),
    }
    found = coco.listed(*write_coco(tmp_path, images, listed=[71, 9]))
    assert [box.tolist() for box in found.boxes] == [[], [[1, 2, 12, 6]]]  # 2.5 rounds to 2, as in Python
    assert found.boxes[0].shape == (0, 4)
    assert dict(found.left_out) == {"crowd": 2, "without a pixel": 1}
    assert found.sizes.tolist() == [[50, 40], [60, 40]]


def test_the_rendered_sets_are_read(tiny):
    for name, count in (("voc07", 2), ("voc12", 2), ("coco20k", 2)):
        found = discovery.boxed_images(tiny, name)
        assert len(found) == count
        for own, size in zip(found.boxes, found.sizes, strict=True):
            assert len(own)
            assert (own[:, :2] >= 0).all()
            assert (own[:, 2:] <= size).all()


# --------------------------------------------------------------------------------------------------- bad input


def test_voc_tells_what_is_wrong(tmp_path):
    good = ((60, 40), [(1, 1, 60, 40)])
    folder = write_voc(tmp_path / "a", {"1": good, "2": good, "3": good})
    (folder / "Annotations" / "2.xml").unlink()
    assert "1 of 3 images are without annotation" in complaint(trainval, folder)
    assert "2.xml missing; restore it or take its name off the list" in complaint(trainval, folder)
    (folder / "Annotations" / "2.xml").write_text("<annotation></annotation>")
    assert "2.xml has no object" in complaint(trainval, folder)
    (folder / "Annotations" / "2.xml").write_text("<annotation>")
    assert "unreadable annotation" in complaint(trainval, folder)
    (folder / "Annotations" / "2.xml").write_text("<annotation><object><bndbox/></object></annotation>")
    assert "without bndbox of four numbers" in complaint(trainval, folder)
    (folder / "JPEGImages" / "3.jpg").unlink()
    assert "1 of 3 annotations are without image" in complaint(trainval, folder)
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("\n")
    assert "names no image" in complaint(trainval, folder)
    (folder / "ImageSets" / "Main" / "trainval.txt").unlink()
    assert "get it" in complaint(trainval, folder, "get it")


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        ((1, 1, 63, 40), "0, 0, 63, 40 (x1, y1, x2, y2) lies outside of the image, 60 × 40 px"),
        ((-2, 1, 60, 40), "lies outside"),
        ((1, 1, 60, 44), "lies outside"),
        ((20, 5, 19, 9), "is empty"),
        ((0, 0, 0, 0), "box 0, 0, 0, 0 lies in 0..1: expected pixels"),
        ((0.2, 0.3, 1.0, 0.9), "box 0.2, 0.3, 1, 0.9 lies in 0..1: expected pixels"),
        ((0, 5, 0, 9), "is empty"),
        ((61, 5, 61, 9), "is empty"),
        ((1, 1, "inf", 9), "without bndbox of four numbers"),
        ((1, 1, "nan", 9), "without bndbox of four numbers"),
        ((1, 1, "9" * 400, 9), "without bndbox of four numbers"),
        ((1, 1, "1e300", 9), "lies outside"),
        ((5, 9, 19, 8), "is empty"),
    ],
)
def test_a_box_must_lie_in_its_image(tmp_path, box, fault):
    message = complaint(trainval, write_voc(tmp_path, {"1": ((60, 40), [(1, 1, 9, 9), box])}))
    assert fault in message
    assert "1.jpg" in message or "1.xml" in message
    assert any(remedy in message for remedy in ("correct", "restore it or take it off the list"))


def test_a_box_may_reach_over_the_edge_by_a_pixel(tmp_path):
    found = trainval(write_voc(tmp_path, {"1": ((60, 40), [(0, 0, 61, 41)])}))
    assert found.boxes[0].tolist() == [[-1, -1, 61, 41]]


def test_coco_tells_what_is_wrong(tmp_path):
    images, annotations, names = write_coco(tmp_path, {9: ((60, 40), [((1, 2, 10, 3), False)]), 40: ((60, 40), [])})
    arguments = images, annotations, names
    assert "1 of 2 images have no annotation" in complaint(coco.listed, *arguments)
    (images / "train2014" / "COCO_train2014_000000000009.jpg").unlink()
    assert "1 of 2 files are missing" in complaint(coco.listed, *arguments)
    names.write_text("train2014/COCO_train2014_000000000040.jpg\n")
    for text, fault in (("{", "unreadable annotations"), ("{}", "no 'images'"), ('{"images": [1]}', "unreadable")):
        annotations.write_text(text)
        assert fault in complaint(coco.listed, *arguments)
    annotations.unlink()
    assert "unreadable annotations" in complaint(coco.listed, *arguments)
    names.write_text("")
    assert "names no image" in complaint(coco.listed, *arguments)
    names.unlink()
    assert "no list" in complaint(coco.listed, *arguments)


def test_an_inverted_box_of_coco_is_told(tmp_path):
    files = write_coco(tmp_path, {9: ((60, 40), [((10, 2, -5, 3), False)])})
    assert "is empty" in complaint(coco.listed, *files)


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    folder = write_voc(tmp_path, {"1": ((60, 40), [(1, 1, 9, 9)])})
    (folder / "JPEGImages" / "1.jpg").write_bytes(b"no image")
    assert "unreadable image" in complaint(trainval, folder)
    assert "1.jpg: not an image" in complaint(trainval, folder)


def test_sets_are_asked_for_by_name_and_counted(tmp_path):
    write_voc(tmp_path / "VOCdevkit" / "VOC2007", {"1": ((60, 40), [(1, 1, 9, 9)])})
    data = DataSettings(name="own", root=str(tmp_path), counts={"voc07": [5011]}, get="get it")
    assert "has 1 images, expected 5,011; get it" in complaint(discovery.boxed_images, data, "voc07")
    assert "expected one of voc07, voc12, coco20k" in complaint(discovery.boxed_images, data, "voc")
    assert "no list" in complaint(discovery.boxed_images, data, "voc12")


# ------------------------------------------------------------------------------------------------------- batches


@effort(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(8, 90), st.integers(8, 90)), min_size=1, max_size=30),
    st.sampled_from([8, 14]),
    st.integers(1, 5),
)
def test_a_batch_has_one_padded_size_and_every_image_is_in_one(sizes, patch_size, device_batch):
    found = discovery.batches(np.array(sizes), patch_size, device_batch)
    assert sorted(place for batch in found for place in batch) == list(range(len(sizes)))
    areas = []
    for batch in found:
        assert 1 <= len(batch) <= device_batch
        grids = {tuple(-(-side // patch_size) for side in sizes[place]) for place in batch}
        assert len(grids) == 1
        areas.append(np.prod(grids.pop()))
    assert areas == sorted(areas, reverse=True)


def test_larger_images_make_smaller_batches():
    sizes = np.array([[16 * 64, 16 * 64]] * 6)  # twice the usual number of patches
    assert [len(batch) for batch in discovery.batches(sizes, 16, 4)] == [2, 2, 2]
    assert [len(batch) for batch in discovery.batches(sizes, 16, 1)] == [1] * 6


@effort(max_examples=200, deadline=None)
@given(st.integers(16, 4000), st.integers(16, 4000), st.sampled_from([8, 14, 16]), st.integers(1, 3000))
def test_large_images_are_reduced_to_whole_patches_in_proportion(width, height, patch_size, most):
    (fitted,) = discovery.fitting(np.array([[width, height]]), patch_size, most)
    grid = -(-fitted // patch_size)
    assert grid.prod() <= most
    if (-(-width // patch_size)) * (-(-height // patch_size)) <= most:
        assert fitted.tolist() == [width, height]
    else:
        assert (fitted % patch_size == 0).all()
        assert (fitted <= np.maximum([width, height], patch_size)).all()
        scale = min(np.sqrt(most / (width * height)), 1 / patch_size)  # to patches, if those could be divided
        left = np.array([width, height]) * scale - grid  # parts of a patch that are lost
        assert min(width, height) * scale < 1 or (left > -1e-6).all()
        assert min(width, height) * scale < 1 or (left < 1 + 1e-6).all()


def test_reading_gives_native_and_reduced_sizes(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "1.png")
    images = boxes.with_sizes(tmp_path, [tmp_path / "1.png"], [boxes.Annotation(np.array([[0.0, 0, 5, 5]]), None)])
    native, place = discovery.NativeSize(images, images.sizes)[0]
    assert place == 0
    assert (native.permute(1, 2, 0).numpy() == picture).all()
    assert discovery.NativeSize(images, np.array([[24, 16]]))[0][0].shape == (3, 16, 24)


def test_padding_is_at_the_right_and_at_the_bottom():
    images = [np.full((3, height, width), 200, np.uint8) for height, width in ((9, 20), (14, 17))]
    batch = discovery.pad_together([(torch.from_numpy(image), place) for place, image in enumerate(images)], 8)
    assert batch["image"].shape == (2, 3, 16, 24)
    assert batch["size"].tolist() == [[9, 20], [14, 17]]
    assert batch["index"].tolist() == [0, 1]
    for row, (height, width) in zip(batch["image"], batch["size"].tolist(), strict=True):
        assert (row[:, :height, :width] == 200).all()
        assert row.long().sum() == 200 * 3 * height * width


def test_a_half_written_rendered_set_is_told(tmp_path):
    data = DataSettings(name="mini", root=str(tmp_path), rendered=True, get="render it")
    with pytest.raises(DataError, match="half-written; render it"):
        discovery.boxed_images(data, "voc07")


# ------------------------------------------------------------------------------------------------- names and sizes


def test_names_in_another_spelling_are_found(tmp_path):
    good = ((60, 40), [(1, 1, 60, 40)])
    folder = write_voc(tmp_path, {"1": good, "2": good, "cafe\u0301": good})
    images = folder / "JPEGImages"
    (images / "1.jpg").rename(images / "1.JPG")
    (images / "2.jpg").rename(images / "2.jpeg")
    (folder / "ImageSets/Main/trainval.txt").write_text("\ufeff1\n2\ncaf\u00e9\n", encoding="utf-8")
    assert len(trainval(folder)) == 3
    (folder / "Annotations" / "._1.xml").write_text("")
    with pytest.warns(Notice, match=r"left out: 1 not an XML file .*\._1\.xml"):
        assert len(voc.listed(images, folder / "Annotations", None)) == 3


def test_a_list_that_is_not_utf_8_and_a_pipe_are_told(tmp_path):
    folder = write_voc(tmp_path, {"1": ((60, 40), [(1, 1, 60, 40)])})
    (folder / "ImageSets/Main/trainval.txt").write_bytes(b"caf\xe9\n")
    assert "trainval.txt: not a list in UTF-8" in complaint(trainval, folder)
    (folder / "ImageSets/Main/trainval.txt").write_text("1\n")
    (folder / "JPEGImages" / "1.jpg").unlink()
    os.mkfifo(folder / "JPEGImages" / "1.jpg")
    assert "1 of 1 annotations are without image" in complaint(trainval, folder)


def test_an_annotation_of_the_turned_image_is_refused_and_another_size_is_said(tmp_path):
    folder = write_voc(tmp_path, {"1": ((60, 40), [(1, 1, 30, 30)])})
    exif, image = Image.Exif(), folder / "JPEGImages" / "1.jpg"
    exif[0x0112] = 8
    Image.new("RGB", (60, 40)).save(image, exif=exif)
    file = folder / "Annotations" / "1.xml"
    text = file.read_text()
    with pytest.warns(Notice, match="1 images carry an EXIF orientation"):
        assert trainval(folder).sizes.tolist() == [[60, 40]]
    for width, height, turned in ((40, 60, True), (120, 80, False)):
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        file.write_text(text.replace("<annotation>", f"<annotation>{size}"))
        if turned:
            assert "made for the image turned by its EXIF orientation" in complaint(trainval, folder)
        else:
            with pytest.warns(Notice, match="1 annotations state another size than their image has"):
                assert len(trainval(folder)) == 1


VALUES = st.sampled_from(
    ["inf", "-inf", "nan", "", "1e999", "-1", "0", "9" * 5000, "ten", "1_0", "\u0663", "0x10", "3"]
)


@pytest.fixture(scope="module")
def one_image(tmp_path_factory):
    return write_voc(tmp_path_factory.mktemp("voc"), {"1": ((60, 40), [(1, 1, 30, 30)])})


@given(box=st.tuples(VALUES, VALUES, VALUES, VALUES), side=VALUES)
def test_annotations_with_any_values_are_read_or_told_in_a_line(one_image, box, side):
    size = f"<size><width>{side}</width><height>{side}</height></size>"
    file = one_image / "Annotations" / "1.xml"
    file.write_text(f"<annotation>{size}{OBJECT.format(corners(*box))}</annotation>", encoding="utf-8")
    complaint(trainval, one_image)


@given(content=st.binary(max_size=60), start=st.floats(0, 1), length=st.integers(0, 40))
def test_damaged_annotations_are_read_or_told_in_a_line(one_image, content, start, length):
    text = f"<annotation>{OBJECT.format(corners(1, 1, 30, 30))}</annotation>".encode()
    place = int(start * len(text))
    (one_image / "Annotations" / "1.xml").write_bytes(text[:place] + content + text[place + length :])
    complaint(trainval, one_image)


@pytest.mark.parametrize(
    "content",
    [
        b"<?xml version='1.0' encoding='klingon'?><annotation/>",
        b"<?xml version='1.0' encoding='utf-16'?><annotation/>",
        "<annotation/>".encode("utf-16"),
        b"<a>" * 100_000,
        b"<a>" * 100_000 + b"</a>" * 100_000,
        b"<!DOCTYPE a [<!ENTITY b 'x'><!ENTITY c '&b;&b;'>]><a>&c;</a>",
        b"",
        b"\0" * 100,
    ],
)
def test_annotations_of_another_make_are_told_in_a_line(one_image, content):
    (one_image / "Annotations" / "1.xml").write_bytes(content)
    assert complaint(trainval, one_image)
