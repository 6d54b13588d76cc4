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
