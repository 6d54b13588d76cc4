"""Metrics against the number of registers: every mean and every whisker in its place."""

import dataclasses
import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from benchmarks.report import curves, drawing
from benchmarks.tables import columns
from benchmarks.tables.scored_records import ScoredRecord
from tests.benchmarks.report.pages_by_hand import EVIL, numbered, numbers, page, paths, record, saved, svg


def dots(svg):
    """Centre and text of every point."""
    found = []
    for dot in ElementTree.fromstring(svg).iter("a"):
        x, y = numbers(dot.find("path").get("transform"))
        found.append((x, y, dot.find("title").text))
    return found


def test_curves_put_every_mean_in_its_place(tmp_path):
    values = {0: 40.0, 1: 44.0, 4: 52.0}
    found = [
        record(f"deit3-vitn_reg{n}", seed=seed, top1=v + d) for n, v in values.items() for seed, d in ((0, -1), (1, 1))
    ]
    lonely = record("openclip-vitn_reg4", top1=10.0)
    cells = saved(tmp_path, *found, lonely)
    (drawn,) = re.findall(r"<svg class=.chart.*?</svg>", page(cells)[1], re.DOTALL)
    points = dots(drawn)
    assert [text for *_, text in points] == [
        f"deit3-vitn, {n} registers: {v} ± 1.4 (2 seeds)" for n, v in values.items()
    ]
    (x0, y0, _), (x1, y1, _), (x4, y4, _) = points
    assert (y0 - y4) / (y0 - y1) == pytest.approx(12 / 4, rel=1e-3)  # means 40, 44, 52
    assert (x4 - x0) / (x1 - x0) == pytest.approx(math.log2(5), rel=1e-3)
    (curve,) = curves.curves(columns.overview(cells), numbered(cells))
    whiskers = paths(curve.chart.shapes, "whisker c0")
    lengths = {round(low - high, 1) for _, low, _, high in whiskers}
    expected = 2 * math.sqrt(2) * (y0 - y4) / 12  # two seeds, ±1: deviation √2
    assert lengths
    assert all(length == pytest.approx(expected, abs=0.1) for length in lengths)
    segments = paths(curve.chart.shapes, "line c0")
    expected = [end for pair in itertools.pairwise(points) for x, y, _ in pair for end in (x, y)]
    assert [end for segment in segments for end in segment] == pytest.approx(expected, abs=0.06)


def test_families_have_shapes_of_their_own_and_stand_beside_each_other(tmp_path):
    found = [record(f"{name}-vitn_reg{n}", top1=40.0) for name in "abcdefgh" for n in (0, 4)]
    cells = saved(tmp_path, *found)
    (curve,) = curves.curves(columns.overview(cells), numbered(cells))
    assert len({(key.style, key.marker) for key in curve.legend}) == 8
    assert len({key.marker for key in curve.legend}) == len(drawing.MARKERS) == 6
    none = [dot.x for dot in curve.chart.dots if dot.model.endswith("_reg0")]
    assert none == sorted(set(none))
    width = drawing.WIDTH - drawing.LEFT - drawing.RIGHT
    assert sum(none) / 8 == pytest.approx(drawing.LEFT + width * 0.04 / 1.08, abs=0.1)  # about the tick of 0 registers


def test_a_part_of_a_curve_is_of_its_models(tmp_path):
    """What the page's filter hides: a whisker with its model, a segment with either of its two."""
    shapes = drawing.path("line c0", "M 1 2 L 3 4", "a<0", 'b">4')
    outer = svg(shapes).find("g")
    assert outer.get("data-filter") == 'b">4'
    assert outer.find("g").get("data-filter") == "a<0"
    assert paths(shapes, "line c0") == [[1, 2, 3, 4]]


def test_floors_are_no_family_and_take_no_colour(tmp_path):
    found = [record(f"deit3-vitn_reg{n}", top1=40.0 + n) for n in (0, 4)]
    floors = {"a_reg0": {"top1": 1.0}, "a_reg4": {"top1": 2.0}}
    cells = saved(tmp_path, *(dataclasses.replace(one, floors=floors) for one in found))
    (curve,) = curves.curves(columns.overview(cells), numbered(cells))
    assert [key.name for key in curve.legend] == ["deit3-vitn", "a_reg0 (floor) 1.0", "a_reg4 (floor) 2.0"]
    assert curve.legend[0].style == "c0"
    heights = [line[1] for line in paths(curve.chart.shapes, "baseline fixed")]
    points = [dot.y for dot in curve.chart.dots]
    assert (heights[0] - points[0]) / (points[0] - points[1]) == pytest.approx(39 / 4, rel=0.01)  # 1, 40 and 44 %
    assert heights[0] - heights[1] == pytest.approx((points[0] - points[1]) / 4, abs=0.11)


def test_a_floor_of_untrained_weights_has_a_line_of_its_own_kind(tmp_path):
    found = [record(f"deit3-vitn_reg{n}", top1=40.0 + n) for n in (0, 4)]
    cells = saved(tmp_path, *found, record("random-vitn_reg4", top1=3.0))
    (curve,) = curves.curves(columns.overview(cells), numbered(cells))
    ((left, y, right, same),) = paths(curve.chart.shapes, "baseline untrained")
    assert y == same
    assert (left, right) == (drawing.LEFT, drawing.WIDTH - drawing.RIGHT)
    assert curve.legend[-1].name == "random-vitn_reg4 (floor) 3.0"


def test_a_single_seed_has_the_interval_over_images_as_its_whisker(tmp_path):
    found = [record(f"deit3-vitn_reg{n}", top1=50.0) for n in (0, 4)]
    cells = saved(tmp_path, dataclasses.replace(found[0], intervals={"top1": [40.0, 60.0]}), found[1])
    (curve,) = curves.curves(columns.overview(cells), numbered(cells))
    ((_, low, _, high),) = paths(curve.chart.shapes, "whisker c0")
    height = drawing.HEIGHT - drawing.TOP - drawing.BOTTOM
    assert low - high == pytest.approx(height / 1.16, abs=0.11)  # the axis reaches 8 % further at both ends
    assert [dot.cells for dot in curve.chart.dots] == ["0", "1"]
    assert [dot.y for dot in curve.chart.dots] == pytest.approx([(low + high) / 2] * 2, abs=0.1)


def test_nothing_hostile_in_a_curve_becomes_markup(tmp_path):
    name = EVIL.replace("/", "∕")  # a slash would make folders
    column = {name: {"better": 1, "unit": EVIL, "decimals": 1}}
    found = [dataclasses.replace(record(f"{name}_reg{n}", **{name: 1.0 + n}), columns=column) for n in (0, 4)]
    cells = [ScoredRecord(one, {}, tmp_path / "x.json") for one in found]
    read, text = page(cells)
    assert len(re.findall(r'class="dot c0"', text)) == 2
    assert f"imagenet_knn {name}" in read.texts
    assert f"{EVIL}, higher is better" in read.texts
    assert f"{name}, 4 registers: 5.0" in read.texts
    labels = [facts["aria-label"] for tag, facts in read.tags if tag == "svg" and "aria-label" in facts]
    assert labels == [f"imagenet_knn {name}: {EVIL}, higher is better against the number of registers"]
    assert name in read.texts  # in the legend
    assert "img" not in {tag for tag, _ in read.tags}
    assert len(read.scripts) == 2
