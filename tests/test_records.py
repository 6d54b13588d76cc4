"""Records: round trip, staleness, provenance; the kept results and their tables."""

import json
import subprocess
from dataclasses import asdict, replace

import pytest

import regvit_lightning
from benchmarks.tables import __main__ as program
from benchmarks.tables import formats, published, scored_records
from benchmarks.tables.formats import Origin
from regvit_lightning import records
from regvit_lightning.errors import UserError
from tests.by_hand import record, saved_records


def test_round_trip(tmp_path):
    saved = record().save(tmp_path)
    assert saved == tmp_path / "mini" / "cells" / "deit3-vitn_reg4" / "imagenet_knn.seed0.json"
    assert records.read_record(saved) == record()
    assert saved_records(tmp_path, "mini") == [record()]
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("content", ["", "[]", '{"model": "x"}', "{"])
def test_what_is_no_record_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=r"a\.json") as error:
        records.read_record(tmp_path / "a.json")
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


def test_a_record_without_scores_is_read_but_runs_again(tmp_path):
    old = {key: value for key, value in asdict(record()).items() if key != "scores"} | {"schema": 2}
    (tmp_path / "a.json").write_text(json.dumps(old))
    found = records.read_record(tmp_path / "a.json")
    assert found == replace(record(), schema=2)
    reason = records.stale(found, record().settings, "abc", record().layout)
    assert reason == "a record of schema 2, which is now 3"
    for changed in ({"schema": 1}, {"schema": 3}, {"schema": 2, "more": 1}):
        (tmp_path / "a.json").write_text(json.dumps({**old, **changed}))
        with pytest.raises(UserError, match=r"a\.json: not a record of schema 3; remove it"):
            records.read_record(tmp_path / "a.json")


def test_provenance_names_commit_versions_and_hardware():
    found = records.provenance(1.26)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=records.ROOT, capture_output=True, text=True)
    assert found["commit"] == head.stdout.strip()
    assert found["seconds"] == 1.3
    assert "torch" in found["versions"]
    assert found["device"]
    assert found["peak_memory_mib"] > 10


def test_provenance_is_of_the_checkout_and_not_of_what_surrounds_it(tmp_path, monkeypatch):
    def git(*words):
        identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
        command = ["git", *identity, *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    head = records.provenance(0)["commit"]
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "something else")
    (tmp_path / "packages").mkdir()
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))  # as in a hook of the other repository
    assert records.provenance(0)["commit"] == head
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.setattr(records, "ROOT", tmp_path / "packages")
    found = records.provenance(0)
    assert (found["commit"], found["dirty"]) == (regvit_lightning.__version__, False)
    monkeypatch.setattr(records, "ROOT", tmp_path)
    found = records.provenance(0)
    assert (found["commit"], found["dirty"]) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "changed").touch()
    assert records.provenance(0)["dirty"] is True


def test_the_kept_tables_are_those_of_the_kept_records():
    folder = records.ROOT / "results" / "mini" / "tables"
    found = scored_records.read_scored_records(records.ROOT / "results", "mini")
    origin = Origin("mini", found, "make tables DATA=mini")
    made = {}
    for table in program.tables(found.cells, published.read_published()):
        made[f"{table.name}.md"] = formats.markdown(table, origin)
        made[f"{table.name}.csv"] = formats.csv(table)
        made[f"{table.name}.tex"] = formats.latex(table, origin)
    assert {file.name: file.read_text() for file in folder.iterdir() if file.suffix != ".png"} == made
    assert {len(values.provenance["commit"]) for values in found.records} == {40}


@pytest.mark.parametrize(("task", "metric", "factor"), [("ade20k_linear", "miou", 2.0), ("nyud_linear1", "rmse", 0.85)])
def test_kept_dense_results_beat_random_weights_and_the_constant_predictor(task, metric, factor):
    """Clearly, where labels or captions were seen; 400 steps of DINOv2 must be better at all."""
    cells = [cell for cell in saved_records(records.ROOT / "results", "mini") if cell.task == task]
    better = cells[0].columns[metric]["better"]
    trained = {cell.model: cell.metrics[metric] for cell in cells if not cell.model.startswith("random-")}
    floors = [cell.metrics[metric] for cell in cells if cell.model.startswith("random-")]
    floors += [kept[metric] for cell in cells for kept in cell.floors.values()]
    assert trained
    assert floors
    for model, value in trained.items():
        margin = 1.0 if model.startswith("dinov2-") else factor
        assert all(better * value > better * margin * floor for floor in floors), model


def test_the_documents_show_the_kept_tables():
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", "results"], cwd=records.ROOT, capture_output=True, text=True
    )
    if changed.returncode or changed.stdout:
        pytest.skip("results were made anew here")
    for table, page in (("mini/tables/overview.md", "quick-tour.md"), ("bench/speed-cpu.md", "speed.md")):
        shown = (records.ROOT / "docs" / page).read_text()
        assert (records.ROOT / "results" / table).read_text() in shown
