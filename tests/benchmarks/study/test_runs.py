"""What a study reads from its runs: hand-made norms."""

import csv
import io

from benchmarks.grid import cells as grids
from benchmarks.study import runs
from tests.benchmarks.study.runs_by_hand import finish, rows

HIGH = {"made_max_over_median": 7.0, "made_factor": 0.02, "artifacts": 1.0}


def built(tmp_path, entries="{}, {model: {depth: 8, width: 64}, weight_decay: 0.3, image_size: 96, tag: x}"):
    file = tmp_path / "grid.yaml"
    file.write_text(f"models: [deit3-vitn_reg0]\nsettings: [{entries}]\ntasks: []\nseeds: [0]\n")
    chosen = grids.Chosen(grid=str(file), runs=str(tmp_path / "runs"), results=str(tmp_path / "results"))
    return grids.build(chosen)


def test_the_block_with_the_largest_norm_is_taken_at_each_step():
    quiet = {"made_max_over_median": 1.0}
    first, last = runs.measured(rows((0, [{}, quiet]), (50, [{"made_log_mads": 0.2}, HIGH, HIGH])))
    assert (first.step, first.largest, first.block) == (0, 1.5, 1)
    assert (last.step, last.largest, last.block) == (50, 7.0, 2)
    assert last.shares == {"factor": 0.02, "log_mads": 0.2}
    assert (first.artifacts, last.artifacts) == (0, 2)


def test_a_run_from_before_these_norms_were_measured_is_left_out(tmp_path):
    cells = built(tmp_path)
    finish(cells.folder(cells.cells[0]), rows((0, [{"made_max_over_median": "nan"}])))
    assert not runs.finished(cells)


def test_a_grid_without_tasks_is_its_pretrainings_and_those_that_finished_are_read(tmp_path):
    cells = built(tmp_path)
    assert [cell.task for cell in cells.cells] == [grids.PRETRAINING] * 2
    assert not runs.finished(cells)
    finish(cells.folder(cells.cells[1]), rows((0, [{}]), (50, [HIGH]), (100, [{}])))
    (run,) = runs.finished(cells)
    assert (run.model, run.data, run.seed, run.registers) == ("deit3+x-vitn_d8_w64_reg0", "mini", 0, 0)
    assert run.images == 100 * 48  # the recipe's batch for rendered data
    assert (run.peak.step, run.onset.step) == (50, 50)
    assert {key: run.facts[key] for key in runs.FACTS} == {"blocks": 8, "width": 64, "patches": 144, "data": "mini"}
    assert run.facts["weight_decay"] == 0.3


def test_differences_are_those_of_the_study_and_not_how_a_run_is_made(tmp_path):
    cells = built(tmp_path, "{}, {model: {depth: 8}, weight_decay: 0.3, workers: 3, image_size: 96, tag: x}")
    for cell in cells.cells:
        finish(cells.folder(cell), rows((0, [{}])))
    base, other = runs.finished(cells)
    assert runs.differences(base.facts, base.facts) == "base"
    assert runs.differences(other.facts, base.facts) == "blocks 8, patches 144, weight_decay 0.3"


def test_the_table_has_a_row_for_each_run_and_step(tmp_path):
    cells = built(tmp_path)
    for cell in cells.cells:
        finish(cells.folder(cell), rows((0, [{}]), (50, [{}, HIGH])))
    shown = list(csv.DictReader(io.StringIO(runs.table(runs.finished(cells)))))
    assert len(shown) == 4
    assert shown[3] == {
        "data": "mini",
        "model": "deit3+x-vitn_d8_w64_reg0",
        "seed": "0",
        "step": "50",
        "images": "2400",
        "largest_over_median": "7",
        "block": "2",
        "factor_share": "0.02",
        "log_mads_share": "0.01",
        "artifacts": "2",
        "sinks": "1",
    }
