"""Norms, sinks and locality over training on the page, from tables of runs made by hand."""

import math

import pytest

from benchmarks.report import training
from regvit_lightning.pretrain import norms_callback
from tests.benchmarks.report.pages_by_hand import page, paths, record, saved


def write(folder, steps=(0, 10), factor=1.0, columns=norms_callback.COLUMNS):
    """A table of two blocks; values grow with the step and the block."""
    lines = [",".join(columns)]
    for step in steps:
        for block in (1, 2):
            values = dict.fromkeys(columns, 0.5) | {"step": step, "block": block, "cls_cosine": math.nan}
            values |= {"made_max_over_median": factor * (1 + step / 10) * block, "nop_sinks": 0.25 * block}
            lines.append(",".join(f"{values[name]}" for name in columns))
    folder.mkdir(parents=True)
    (folder / "norms.csv").write_text("\n".join(lines) + "\n")


def test_steps_take_the_largest_norm_all_sinks_and_the_last_block(tmp_path):
    write(tmp_path / "run")
    first, last = training.steps(tmp_path / "run" / "norms.csv")
    assert (first["step"], first["largest"], first["nop_sinks"], first["mean_cosine"]) == (0, 2.0, 0.75, 0.5)
    assert (last["step"], last["largest"]) == (10, 4.0)
    assert math.isnan(first["cls_cosine"])


def test_models_of_a_family_share_their_charts(tmp_path):
    cells = saved(tmp_path, record("deit3-vitn_reg0"), record("deit3-vitn_reg4"), record("openclip-vitn_reg0"))
    runs = tmp_path / "runs"
    for registers, factor in ((0, 2.0), (4, 1.0)):
        write(runs / "mini" / f"deit3-vitn_reg{registers}" / "seed0", factor=factor)
    (found,), skipped = training.trainings(cells, runs)
    assert not skipped
    assert (found.family, found.models) == ("deit3-vitn", "deit3-vitn_reg0 deit3-vitn_reg4")
    assert [title for title, *_ in found.charts] == [
        "largest norm",
        "NOP sinks",
        "broadcast sinks",
        "cosine to the image mean",
    ]  # no model has CLS
    shapes = found.charts[0][2].shapes
    rise = [paths(shapes, f"line c{index}")[0] for index in range(2)]
    heights = [line[1] - line[-1] for line in rise]
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.3)
    shown, text = page(cells, runs=runs)
    assert 'id="training"' in text
    assert "largest norm" in shown.texts
    assert 'id="training"' not in page(cells)[1]


def test_tables_that_are_damaged_are_named_and_old_ones_left_out(tmp_path):
    cells = saved(tmp_path, record("deit3-vitn_reg0"), record("openclip-vitn_reg0"))
    runs = tmp_path / "runs" / "mini"
    write(runs / "deit3-vitn_reg0" / "seed0", columns=norms_callback.NORMS_ALONE)
    (runs / "openclip-vitn_reg0" / "seed0").mkdir(parents=True)
    (runs / "openclip-vitn_reg0" / "seed0" / "norms.csv").write_text("a,b\n1,2\n")
    found, (damaged,) = training.trainings(cells, tmp_path / "runs")
    assert found == []
    assert "norms.csv is not a table of norms" in damaged
