"""Records: round trip, staleness, provenance; tables: hand-made cells, bytes that repeat."""

import csv
import io
import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks import tables
from regvit_lightning import records
from regvit_lightning.errors import UserError
from regvit_lightning.records import Record


def record(model="deit3-vitn_reg4", task="imagenet_knn", seed=0, top1=50.0, settings=None, weights="abc"):
    return Record(
        model=model,
        task=task,
        data="mini",
        data_root="",
        seed=seed,
        metrics={"top1": top1, "top1_k10": 1.0},
        columns={"top1": {"better": 1, "unit": "%", "decimals": 1}},
        intervals={"top1": [top1 - 1, top1 + 1]},
        per_class={},
        floors={},
        images=960,
        protocol={"k": 10, "k_chosen_on": "train"},
        footnote=["k_chosen_on"],
        settings=settings or {"crop": 64, "workers": 1},
        layout={"imagenet": "imagenet"},
        backbone={"num_registers": 4},
        weights=weights,
        provenance={"commit": "c"},
    )


def test_round_trip(tmp_path):
    saved = record().save(tmp_path)
    assert saved == tmp_path / "mini" / "cells" / "deit3-vitn_reg4" / "imagenet_knn.seed0.json"
    assert records.load(saved) == record()
    assert records.load_all(tmp_path, "mini") == [record()]
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("content", ["", "[]", '{"model": "x"}', "{"])
def test_what_is_no_record_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=r"a\.json") as error:
        records.load(tmp_path / "a.json")
    assert "\n" not in str(error.value)


def test_stale_says_why_and_ignores_how_it_is_run():
    settings, layout = {"crop": 64, "workers": 1}, {"imagenet": "imagenet"}
    assert records.stale(record(), settings, "abc", layout) == ""
    assert records.stale(record(), {"crop": 64, "workers": 8}, "abc", layout) == ""
    assert records.stale(record(), {"crop": 96, "workers": 1}, "abc", layout) == "settings changed: crop 64 -> 96"
    assert records.stale(record(), {**settings, "k": 3}, "abc", layout) == "settings changed: k None -> 3"
    assert records.stale(record(), settings, "def", layout) == "weights changed: abc -> def"
    assert records.stale(record(), settings, "abc", layout, "/b/hands") == "data changed:  -> /b/hands"
    changed = records.stale(record(), settings, "abc", {"imagenet": "in1k"})
    assert changed == "layout of the data changed: imagenet imagenet -> in1k"


def test_provenance_names_commit_versions_and_hardware():
    found = records.provenance(1.26)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=records.ROOT, capture_output=True, text=True)
    assert found["commit"] == head.stdout.strip()
    assert found["seconds"] == 1.3
    assert "torch" in found["versions"]
    assert found["device"]
    assert found["peak_memory_mib"] > 10


CELLS = [
    record("random-vitn_reg4", top1=10.0),
    record("deit3-vitn_reg4", seed=0, top1=60.0),
    record("deit3-vitn_reg4", seed=1, top1=64.0),
    record("deit3-vitn_reg0", seed=0, top1=50.0),
    record("deit3-vitn_reg0", seed=1, top1=56.0),
    record("deit3-vitn_reg16", top1=61.0),
    record("deit3-vitn_reg0", "imagenet_linear", top1=70.0),
]


def test_a_table_by_hand():
    built = tables.build(CELLS)
    assert built.models == ["random-vitn_reg4", "deit3-vitn_reg0", "deit3-vitn_reg4", "deit3-vitn_reg16"]
    rows = {row["model"]: row for row in csv.DictReader(io.StringIO(tables.csv(built)))}
    assert float(rows["deit3-vitn_reg4"]["imagenet_knn top1"]) == 62.0
    assert float(rows["deit3-vitn_reg4"]["imagenet_knn top1 std"]) == pytest.approx(8**0.5, abs=1e-4)
    assert float(rows["deit3-vitn_reg4"]["imagenet_knn top1 change"]) == 9.0  # 62 - (50 + 56) / 2
    assert rows["random-vitn_reg4"]["imagenet_knn top1 change"] == ""
    assert rows["deit3-vitn_reg4"]["imagenet_linear top1"] == ""
    shown = tables.markdown(built, "mini")
    assert "62.0 ± 2.8 (+9.0)" in shown
    assert "random-vitn_reg4 (floor)" in shown
    assert "k10" not in shown
    assert "- imagenet_knn: 960 test images; k chosen on: train" in shown.splitlines()
    lines = tables.latex(built).split("\n")
    assert lines[0] == r"\begin{tabular}{lrr}"
    assert r"deit3-vitn\_reg4 & 62.0 $\pm$ 2.8 (+9.0) & -- \\" in lines


def test_floors_come_first_and_a_metric_brings_its_own_direction_and_decimals():
    rmse = {"better": -1, "unit": "m", "decimals": 3}
    columns = {"columns": {"rmse": rmse}, "floors": {"mean depth": {"rmse": 1.25, "a1": 30.0}}}
    cells = [replace(c, **columns, task="nyud_linear1", metrics={"rmse": c.metrics["top1"] / 100}) for c in CELLS[:-1]]
    built = tables.build([*cells, *CELLS])
    assert built.models[:2] == ["mean depth (floor)", "random-vitn_reg4"]
    shown = tables.markdown(built, "mini").splitlines()
    assert "nyud_linear1 rmse ↓" in shown[0]
    assert [cell.strip() for cell in shown[2].split("|")] == [
        "",
        "mean depth (floor)",
        "2",
        "–",
        "–",
        "1.250 ± 0.000",
        "",
    ]
    assert "0.620 ± 0.028 (+0.090)" in "".join(shown)
    assert any("top1 in %; rmse in m, lower is better (↓)" in line for line in shown)
    assert r"rmse $\downarrow$" in tables.latex(built)


def test_the_order_of_records_changes_no_byte():
    for write in (tables.csv, tables.latex, lambda table: tables.markdown(table, "mini")):
        assert write(tables.build(CELLS)) == write(tables.build(CELLS[::-1]))


def test_two_protocols_never_share_a_column():
    other = record("deit3-vitn_reg0", top1=40.0, settings={"crop": 96, "workers": 1})
    built = tables.build([*CELLS, other])
    knn = [title for title in built.titles() if title.startswith("imagenet_knn@")]
    assert len(knn) == 2
    labelled = tables.build([*CELLS, replace(CELLS[3], layout={"zero_is_unlabelled": True})])
    assert sum(title.startswith("imagenet_knn@") for title in labelled.titles()) == 2
    same = record("deit3-vitn_reg16", top1=61.0, settings={"crop": 64, "workers": 9})
    assert len(tables.build([*CELLS, same]).columns) == 2


@pytest.mark.parametrize(
    ("model", "twin"),
    [
        ("deit3-vitb_reg16", "deit3-vitb_reg0"),
        ("timm-vit_large_patch14_reg4_dinov2.lvd142m", "timm-vit_large_patch14_dinov2.lvd142m"),
    ],
)
def test_twins(model, twin):
    assert twin in tables.twins(model)


def test_tables_are_rebuilt_byte_for_byte(tmp_path):
    for cell in CELLS:
        cell.save(tmp_path)
    command = [sys.executable, "-m", "benchmarks.tables", "data=mini", f"results={tmp_path}"]
    made = []
    for _ in range(2):
        done = subprocess.run(command, cwd=records.ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        made.append({path.name: path.read_bytes() for path in (tmp_path / "mini" / "tables").iterdir()})
    assert made[0] == made[1]
    assert set(made[0]) == {"overview.md", "overview.csv", "overview.tex"}


def test_the_kept_tables_are_those_of_the_kept_records():
    folder = records.ROOT / "results" / "mini" / "tables"
    cells = records.load_all(records.ROOT / "results", "mini")
    built = tables.build(cells)
    assert (folder / "overview.csv").read_text() == tables.csv(built)
    assert (folder / "overview.tex").read_text() == tables.latex(built)
    assert {len(cell.provenance["commit"]) for cell in cells} == {40}


@pytest.mark.parametrize(("task", "metric", "factor"), [("ade20k_linear", "miou", 2.0), ("nyud_linear1", "rmse", 0.85)])
def test_kept_dense_results_beat_random_weights_and_the_constant_predictor_clearly(task, metric, factor):
    cells = [cell for cell in records.load_all(records.ROOT / "results", "mini") if cell.task == task]
    better = cells[0].columns[metric]["better"]
    trained = [cell.metrics[metric] for cell in cells if not cell.model.startswith("random-")]
    floors = [cell.metrics[metric] for cell in cells if cell.model.startswith("random-")]
    floors += [kept[metric] for cell in cells for kept in cell.floors.values()]
    assert trained
    assert floors
    assert all(better * value > better * factor * floor for value in trained for floor in floors)


def test_the_readme_shows_the_kept_tables():
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", "results"], cwd=records.ROOT, capture_output=True, text=True
    )
    if changed.returncode or changed.stdout:
        pytest.skip("results were made anew here")
    readme = (records.ROOT / "README.md").read_text()
    for table in ("mini/tables/overview.md", "bench/speed-cpu.md", "bench/speed-cpu-e.md"):
        assert (records.ROOT / "results" / table).read_text() in readme
