"""The table of the arms from hand-made records: which models it has, against which, in which columns, with what n."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.tables import __main__ as program
from benchmarks.tables import arm_speeds, arms_table, formats
from benchmarks.tables.formats import Origin
from benchmarks.tables.scored_records import ScoredRecord, ScoredRecords
from regvit_lightning.errors import UserError
from tests.by_hand import cell, report

PLAIN, GATED = "deit3-vitn_reg0", "deit3-vitn_gated_reg0"
RATE = {"images_per_second": 400.0, "relative": 0.95, "low": 0.94, "high": 0.96}


def scored(model, seed=0, **values):
    """A cell of kNN whose 960 images are right as often as `top1` says."""
    right = np.zeros(960)
    right[: round(9.6 * values["top1"])] = 100
    return cell(model, seed=seed, per_image=np.random.default_rng(seed).permutation(right))


def reported(model, seed=0, nop=0.0, broadcast=0.0, rank=20.0, share=1.0):
    """An artifact report with sinks and effective rank of 64 of its images."""
    made = report(model)
    metrics = {"outlier_share": share}
    metrics |= {"nop_sinks": nop, "broadcast_sinks": broadcast, "effective_rank": rank}
    spread = np.linspace(-0.5, 0.5, 64)
    scores = {name: value + spread for name, value in metrics.items()}
    settings = {"rule": "factor", "version": 2, "detailed": 64}
    findings = {"factor": {"shares": [0.0, share / 100]}, "log_mads": {"shares": [0.0, 2 * share / 100]}}
    protocol = {**made.record.protocol, "findings": findings}
    facts = {"seed": seed, "metrics": metrics, "settings": settings, "protocol": protocol}
    return ScoredRecord(replace(made.record, **facts), scores)


def built(cells, **options):
    table = arms_table.build(cells, **options)
    assert table is not None
    return table


def rows_of(table):
    return {row["model"]: row for row in csv.DictReader(io.StringIO(formats.csv(table)))}


CELLS = [
    scored(PLAIN, top1=50.0),
    scored(GATED, top1=60.0),
    reported(PLAIN, nop=0.5, broadcast=0.1, rank=20.0, share=2.0),
    reported(GATED, nop=0.0, broadcast=3.5, rank=30.0, share=1.0),
]


def test_rows_are_models_with_an_arm_and_the_plain_ones_beside_them():
    others = ["openclip-vitn_reg0", "deit3-vits_reg0", "deit3+lr2e-3-vitn_reg0", "timm-vit_tiny", "random-vits_reg0"]
    cells = [*CELLS, scored("deit3-vitn_reg4", top1=55.0), scored("random-vitn_reg0", top1=10.0)]
    table = built([*cells, *(scored(name, top1=40.0) for name in others)])
    assert [row.model for row in table.rows] == ["random-vitn_reg0", PLAIN, "deit3-vitn_reg4", GATED]


def test_without_any_arm_there_is_no_table():
    assert arms_table.build([scored(PLAIN, top1=50.0), scored("random-vitn_gated_reg0", top1=10.0)]) is None
    assert "arms" not in [table.name for table in program.tables([scored(PLAIN, top1=50.0)])]
    assert "arms" in [table.name for table in program.tables(CELLS)]


def test_columns_stand_in_one_order_with_their_numbers():
    rows = rows_of(built(CELLS, speeds={"vitn_gated_reg0": arm_speeds.ArmSpeed(400.0, 0.95, "how")}))
    gated = rows[GATED]
    heads = [name for name in gated if f"{name} std" in gated]
    expected = ["mini kNN top-1", "outliers (factor)", "outliers (log_mads)", "NOP sinks", "broadcast sinks"]
    assert heads == [*expected, "effective rank", "training", "training speed"]
    values = [round(float(gated[name]), 6) for name in heads]
    assert values == [60.0, 1.0, 2.0, 0.0, 3.5, 30.0, 400.0, 95.0]
    assert rows[PLAIN]["training speed"] == ""


def test_changes_are_against_the_plain_model_with_as_many_registers():
    with_registers = [scored("deit3-vitn_reg4", top1=52.5), scored("deit3-vitn_gated_reg4", top1=57.5)]
    lonely = [scored("deit3-vitn_rats_reg6", top1=80.0)]
    rows, head = rows_of(built([*CELLS, *with_registers, *lonely])), "mini kNN top-1 change"
    changes = {model: row[head] and round(float(row[head]), 2) for model, row in rows.items()}
    assert changes == {
        PLAIN: "",
        "deit3-vitn_reg4": 2.5,
        GATED: 10.0,
        "deit3-vitn_gated_reg4": 5.0,
        "deit3-vitn_rats_reg6": "",
    }


def test_changes_of_sinks_have_intervals_but_no_verdict_of_better():
    gated = rows_of(built(CELLS))[GATED]
    assert float(gated["NOP sinks change"]) == -0.5
    assert float(gated["broadcast sinks change"]) == pytest.approx(3.4)
    assert gated["broadcast sinks verdict"].startswith("changed")
    assert gated["outliers (factor) verdict"].startswith("better")
    assert float(gated["effective rank change low"]) == pytest.approx(10, abs=0.3)


def test_three_seeds_give_a_deviation_and_an_interval_over_seeds():
    cells = [
        reported(model, seed, nop=nop + 0.01 * seed) for seed in range(3) for model, nop in ((PLAIN, 0.5), (GATED, 0))
    ]
    gated = rows_of(built(cells))[GATED]
    assert (gated["seeds"], float(gated["NOP sinks std"])) == ("3", pytest.approx(0.01))
    assert float(gated["NOP sinks change"]) == pytest.approx(-0.5)
    assert gated["NOP sinks verdict"] == "changed beyond noise"


def test_notes_say_against_what_and_of_how_many_images():
    origin = Origin("mini", ScoredRecords("results", CELLS, []), "make tables DATA=mini")
    table = built(CELLS, speeds={"vitn_gated_reg0": arm_speeds.ArmSpeed(400.0, 0.95, "training speed: measured so")})
    text = formats.markdown(table, origin)
    assert "the change against the plain model with as many registers" in text
    assert "artifact_report: sinks and effective rank are those of 64 of these images" in text
    assert "imagenet_knn: 960 test images" in text
    assert "training speed: measured so" in text
    assert "training in img/s" in text
    assert "NOP sinks, broadcast sinks in heads per image" in text


def test_a_column_that_only_untrained_models_have_is_left_out():
    untrained = cell("random-vitn_reg4", task="imagenet_linear", top1=10.0)
    assert "imagenet_linear" not in {column.task for column in built([*CELLS, untrained]).columns}
    trained = cell(GATED, task="imagenet_linear", top1=50.0)
    assert "imagenet_linear" in {column.task for column in built([*CELLS, untrained, trained]).columns}


def test_outliers_by_either_rule_have_no_floor_to_beat():
    """An untrained model has the fewest: it has learnt nothing."""
    table = built([*CELLS, reported("random-vitn_reg0", share=0.0)])
    shares = {column.name: score for (row, column), score in table.scores.items() if row.model == GATED}
    for rule in ("factor", "log_mads"):
        score = shares[f"outliers ({rule})"]
        assert score.shortfall is None
        assert "f" not in score.marks


def test_marks_of_a_record_are_not_those_of_a_speed_measured_apart_from_it():
    def doubtful(one):
        provenance = {**one.record.provenance, "dirty": True}
        settings = {**one.record.settings, "version": 1}
        return ScoredRecord(replace(one.record, provenance=provenance, settings=settings), one.scores)

    table = built([doubtful(one) for one in CELLS], speeds={"vitn_gated_reg0": arm_speeds.ArmSpeed(400.0, 0.95, "how")})
    marks = {column.name: score.marks for (row, column), score in table.scores.items() if row.model == GATED}
    assert marks.pop("training") == marks.pop("training speed") == ""
    assert set(marks.values()) == {"dv"}


def written(folder, **more):
    content = {"rows": [{"model": "vitn_gated_reg0", **RATE}], "image_size": 64, "batch": 48, "steps": 30}
    content |= {"device": "a CPU", "date": "2026-11-26T01:02:03Z", **more}
    (folder / "bench").mkdir(exist_ok=True)
    (folder / "bench" / "arms-cpu.json").write_text(json.dumps(content))
    return folder


def test_speeds_are_read_with_how_they_were_measured(tmp_path):
    assert arm_speeds.read_speeds(tmp_path) == {}
    speed = arm_speeds.read_speeds(written(tmp_path))["vitn_gated_reg0"]
    assert (speed.images_per_second, speed.relative) == (400.0, 0.95)
    for part in ("48 images of 64 px", "30 steps", "a CPU, 2026-11-26"):
        assert part in speed.note


def test_the_newest_measurement_counts(tmp_path):
    written(tmp_path)
    later = {**RATE, "relative": 0.9, "model": "vitn_gated_reg0"}
    content = json.loads((tmp_path / "bench" / "arms-cpu.json").read_text())
    newer = {**content, "rows": [later], "date": "2026-12-01T00:00:00Z"}
    (tmp_path / "bench" / "arms-cuda.json").write_text(json.dumps(newer))
    assert arm_speeds.read_speeds(tmp_path)["vitn_gated_reg0"].relative == 0.9


@pytest.mark.parametrize(("content", "told"), [("{", "no JSON"), ('{"rows": []}', "image_size is missing")])
def test_a_damaged_measurement_is_named_in_one_line(tmp_path, content, told):
    written(tmp_path)
    (tmp_path / "bench" / "arms-cpu.json").write_text(content)
    with pytest.raises(UserError, match=f"arms-cpu.json: .*{told}.*measure again: make bench"):
        arm_speeds.read_speeds(tmp_path)
