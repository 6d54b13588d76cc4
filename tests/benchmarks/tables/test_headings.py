"""Headings name the data that was measured, and the setting that differs between two protocols."""

import pytest

from benchmarks.tables import headings
from regvit_lightning.data import layout
from tests.by_hand import record

FULL = layout.resolve("full", root_needed=False)
OWN = {**FULL.section("segmentation"), "classes": 32, "vocabulary": ""}


@pytest.mark.parametrize(
    ("data", "task", "images", "of_layout", "name", "shown"),
    [
        ("full", "ade20k_linear", 2000, FULL.section("segmentation"), "ADE20k", "ADE20k"),
        ("scenes", "ade20k_linear", 2000, FULL.section("segmentation"), "ADE20k", "ADE20k"),  # a copy at another place
        ("camvid", "ade20k_linear", 101, OWN, "ADE20k", "camvid"),
        ("camvid", "ade20k_linear", 2000, OWN, "ADE20k", "camvid"),  # as many images, but other classes
        ("flowers", "imagenet_knn", 1020, {"imagenet": "."}, "ImageNet", "flowers"),
        ("ilsvrc", "imagenet_knn", 50_000, {"imagenet": "."}, "ImageNet", "ImageNet"),
        ("raccoons", "lost_voc07", 200, FULL.section("voc07"), "VOC 2007", "raccoons voc07"),
        ("copy", "lost_voc07", 5011, FULL.section("voc07"), "VOC 2007", "VOC 2007"),
        ("mini", "lost_coco20k", 120, FULL.section("coco20k"), "COCO 20k", "mini coco20k"),
        ("rooms", "nyud_linear1", 60, FULL.section("depth"), "NYUd", "rooms"),
        ("nyu_mat", "nyud_linear1", 654, {"mat": "nyu.mat"}, "NYUd", "NYUd"),
    ],
)
def test_a_heading_is_the_datas_own_name_unless_it_is_that_set(data, task, images, of_layout, name, shown):
    made = record(task=task, data=data, images=images, layout=of_layout)
    assert headings.set_name(made, name) == shown


def test_what_differs_is_named_and_nothing_else():
    protocols = [{"crop": 64, "k": 1}, {"crop": 96, "k": 1}, {"crop": 64, "k": 1, "bank": 5}]
    assert headings.differences(protocols) == ["no bank, crop 64", "no bank, crop 96", "bank 5, crop 64"]
    assert headings.differences([{"crop": 64}]) == [""]


def test_many_differences_are_counted_and_the_headings_still_differ():
    protocols = [(f"{n:06}", {"a": 0, "b": 0, "c": 0, "d": n}) for n in range(2)]
    found = headings.distinct(["x", "y", "x"], [protocols[0], protocols[0], protocols[1]])
    assert found == ["x (d 0)", "y", "x (d 1)"]
    many = [(f"{n:06}", dict.fromkeys("abcde", n)) for n in range(2)]
    assert headings.distinct(["x", "x"], many) == ["x (a 0, b 0, c 0 and 2 more)", "x (a 1, b 1, c 1 and 2 more)"]
    hidden = [("00000a", {"a": 0, "b": 0, "c": 0, "d": 1}), ("00000b", {"a": 0, "b": 0, "c": 0, "d": 2})]
    third = ("00000c", {"a": 1, "b": 1, "c": 1, "d": 3})
    found = headings.distinct(["x"] * 3, [*hidden, third])
    assert found[0] == "x (a 0, b 0, c 0 and 1 more, @00000a)"
    assert len(set(found)) == 3
