"""Norms of artifact reports: lines at their quantiles, bars at their shares."""

import dataclasses
import math
import re
import statistics

import pytest

from benchmarks.report import drawing, norms
from tests.benchmarks.report.pages_by_hand import artifacts, numbered, page, paths, saved


def test_norms_are_drawn_at_their_quantiles(tmp_path):
    cells = saved(tmp_path, artifacts())
    (((panel,),), skipped) = norms.panels(cells, numbered(cells))
    assert not skipped
    styles = ("line c0", "line c1", "line c2", "line c0 dashed")
    lines = {style: paths(panel.blocks.shapes, style)[0] for style in styles}
    height = {style: points[1] for style, points in lines.items()}
    # three blocks; what is after the final norm is left out
    assert {len(points) // 2 for points in lines.values()} == {3}
    # one above the other: median 1, CLS 2, registers 3, largest 10; logarithmic
    assert height["line c0"] > height["line c1"] > height["line c2"] > height["line c0 dashed"]
    ratio = (height["line c0"] - height["line c1"]) / (height["line c0"] - height["line c0 dashed"])
    assert ratio == pytest.approx(math.log10(2), abs=0.01)
    (bars,) = paths(panel.last.shapes, "bars c0")
    across, heights = bars[::2], bars[1::2]
    bottom = heights[0]  # half a quantile, 0.5 %
    many, few = sorted({height for height in heights if height < bottom})
    assert (bottom - many) / (bottom - few) == pytest.approx(math.log10(90 / 0.5) / math.log10(10 / 0.5), rel=0.01)
    humps = [statistics.fmean(x for x, y in zip(across, heights, strict=True) if y == top) for top in (many, few)]
    width = (drawing.WIDTH - drawing.LEFT - drawing.RIGHT) / norms.BINS
    decade = (across[-1] - across[0]) / math.log10(10 * 1.1 / (1 * 0.9))
    assert humps[1] - humps[0] == pytest.approx(decade, abs=width)  # norms 1 and 10
    shown, _ = page(cells)
    assert "10.00 %" in shown.texts
    assert "it has artifacts" in shown.texts


def test_a_report_that_cannot_be_drawn_is_named(tmp_path):
    broken = dataclasses.replace(artifacts(), protocol={**artifacts().protocol, "norms_by_block": {"levels": "many"}})
    cells = saved(tmp_path, broken, artifacts("deit3-vitn_reg0"))
    rows, skipped = norms.panels(cells, numbered(cells))
    assert len(rows) == 1
    assert re.fullmatch(r".*deit3-vitn_reg4/artifact_report\.seed0\.json: its norms cannot be drawn .*", *skipped)


def test_models_of_a_family_share_their_scales_and_the_first_seed_is_shown(tmp_path):
    far = {"levels": artifacts().protocol["norms_by_block"]["levels"], "patches": [[1.0] * 6 + [1000.0]] * 4}
    large = artifacts("deit3-vitn_reg4")
    large = dataclasses.replace(large, protocol={**large.protocol, "norms_by_block": far})
    other_seed = dataclasses.replace(large, seed=1, protocol={**large.protocol, "verdict": "of seed 1"})
    cells = saved(tmp_path, other_seed, large, artifacts("deit3-vitn_reg0"), artifacts("openclip-vitn_reg4"))
    rows, _ = norms.panels(cells, numbered(cells))
    assert [[panel.model for panel in row] for row in rows] == [
        ["deit3-vitn_reg0", "deit3-vitn_reg4"],
        ["openclip-vitn_reg4"],
    ]
    (one, two), (alone,) = rows
    assert (two.cell, two.verdict) == (1, "it has artifacts")
    medians = [paths(panel.blocks.shapes, "line c0")[0] for panel in (one, two, alone)]
    assert medians[0] == medians[1]  # of both 1, on one scale
    assert medians[2] != medians[1]  # a scale that ends at 10
    assert [key.name for key in two.legend] == ["patches: median, bands of 50 % and 98 %", "largest patch"]
    assert [key.name for key in one.legend[2:]] == ["CLS", "registers"]


def test_a_test_time_register_is_drawn_beside_its_model_on_the_same_scales(tmp_path):
    models = [artifacts(f"deit3-vitn_reg0{added}") for added in ("+ttr", "", "+bias")]
    cells = saved(tmp_path, *models)
    ((*panels,),), _ = norms.panels(cells, numbered(cells))
    assert [panel.model for panel in panels] == ["deit3-vitn_reg0", "deit3-vitn_reg0+bias", "deit3-vitn_reg0+ttr"]


def test_what_is_after_the_final_norm_moves_no_scale(tmp_path):
    levels, blocks = artifacts().protocol["norms_by_block"]["levels"], [[1.0] * 5 + [10.0] * 2] * 4
    scales = []
    for last in (10.0, 1000.0):
        norms_by_block = {"levels": levels, "patches": [*blocks[:-1], [1.0] * 6 + [last]]}
        one = dataclasses.replace(artifacts(), protocol={**artifacts().protocol, "norms_by_block": norms_by_block})
        cells = saved(tmp_path, one)
        scales.append(norms.panels(cells, numbered(cells))[0][0][0].blocks.shapes)
    assert scales[0] == scales[1]


def test_rules_say_the_last_and_the_largest_share_and_the_number_of_images(tmp_path):
    findings = {"a": {"rule": "one", "shares": [0.0, 0.2, 0.1], "images": [0, 7, 6], "first": 2}}
    findings["b"] = {"rule": "two", "shares": [0.0], "first": None}
    one = dataclasses.replace(artifacts(), protocol={**artifacts().protocol, "findings": findings})
    cells = saved(tmp_path, one)
    (((panel,),), _) = norms.panels(cells, numbered(cells))
    first = norms.Rule("one", "10.00 %", "20.00 %", f"7 of {one.images}", "2")
    assert panel.rules == [first, norms.Rule("two", "0.00 %", "0.00 %", "–", "–")]
