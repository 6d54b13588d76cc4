"""A cell called from Python: the same numbers as the program's record, settings by name, one line for a mistake."""

import json
from pathlib import Path

import pytest

from benchmarks import evaluate
from benchmarks.evaluate import Evaluate
from regvit_lightning import evaluation
from regvit_lightning.errors import UserError
from regvit_lightning.frozen.contract import Outcome
from regvit_lightning.models.sources import load_backbone
from regvit_lightning.runtime import locks
from regvit_lightning.settings import SettingsError
from tests.benchmarks.test_chain import mistake, program

SETTINGS = {"workers": 0, "precision": "32-true", "neighbours": [1, 5], "held_out": 0.5}


@pytest.fixture(scope="module")
def folder(tiny):
    return f"{tiny.root}/imagenet"


def test_python_and_program_compute_the_same_numbers(folder, tmp_path):
    backbone = load_backbone("random-vitn_reg2", Path("none"), image_size=64)
    outcome = evaluation.evaluate(backbone, "imagenet_knn", folder, variant="mini", settings=SETTINGS)
    words = [f"{key}={value}" for key, value in SETTINGS.items()]
    folders = [f"results={tmp_path / 'results'}", f"runs={tmp_path / 'runs'}"]
    cell = ["model=random-vitn_reg2", "task=imagenet_knn", f"data={folder}", "variant=mini"]
    program("evaluate", *cell, *words, *folders)
    (file,) = (tmp_path / "results").rglob("*.json")
    record = json.loads(file.read_text())
    assert record["metrics"] == {key: round(value, 4) for key, value in outcome.metrics.items()}
    assert record["weights"] == backbone.fingerprint
    assert not list(tmp_path.rglob("cell.json.*"))


def test_a_misspelt_setting_names_its_neighbour(folder):
    backbone = load_backbone("random-vitn_reg0", Path("none"), image_size=64)
    with pytest.raises(SettingsError, match="unknown key 'worker'; nearest: workers"):
        evaluation.evaluate(backbone, "imagenet_knn", folder, variant="mini", settings={"worker": 0})


def test_data_that_is_not_there_is_one_line(tmp_path):
    backbone = load_backbone("random-vitn_reg0", Path("none"), image_size=64)
    with pytest.raises(UserError, match="neither a folder nor a name"):
        evaluation.evaluate(backbone, "imagenet_knn", str(tmp_path / "nothing"))


def test_a_cell_that_another_process_computes_is_refused_and_kept(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.0)
    backbone, place = load_backbone("random-vitn_reg2", Path("none"), image_size=64), tmp_path / "runs" / "imagenet"
    cell = place / "random-vitn_reg2" / "seed0" / "imagenet_knn"
    cell.mkdir(parents=True)
    (cell / "last.ckpt").write_text("of a head")
    words = ["model=random-vitn_reg2", "task=imagenet_knn", f"data={folder}", "variant=mini", "force=true"]
    with locks.held(cell):
        line = mistake("evaluate", *words, f"results={tmp_path / 'results'}", f"runs={tmp_path / 'runs'}")
        with pytest.raises(UserError, match="imagenet_knn is in use by process"):
            evaluation.evaluate(backbone, "imagenet_knn", folder, variant="mini", settings=SETTINGS, folder=cell)
    assert line.startswith(f"{cell} is in use by process ")
    assert (cell / "last.ckpt").exists()
    evaluation.evaluate(backbone, "imagenet_knn", folder, variant="mini", settings=SETTINGS, folder=cell)


def test_the_final_line_has_the_floors_and_what_is_said_stands_above_it(monkeypatch, tmp_path, capsys):
    floors = {"whole image": {"corloc": 30.0}, "centred box": {"corloc": 33.333}, "other": {"top1": 1.0}}
    outcome = Outcome({"corloc": 34.214}, 9, floors=floors, remarks=["in 9 of 9 images nothing can be cut"])
    monkeypatch.setattr(evaluation, "run_and_record", lambda *_: (outcome, tmp_path / "record.json"))
    options = Evaluate(model="random-vitn_reg0", task="lost_voc07", results=str(tmp_path), runs=str(tmp_path))
    monkeypatch.setattr("benchmarks.data.rendering.render", lambda *_: None)
    evaluate.main(options, [])
    *_, said, last = capsys.readouterr().out.splitlines()
    assert said.endswith(": in 9 of 9 images nothing can be cut")
    assert "corloc 34.21 (floors: whole image 30.00, centred box 33.33); record in " in last


def test_a_metric_without_a_floor_stands_alone():
    cell = evaluation.prepare("imagenet_knn", evaluation.layout.resolve("mini"))
    metrics = {"top1": 62.081, "top1_best_on_test": 63.0}
    assert cell.summary(Outcome(metrics, 9)) == "top1 62.08, top1_best_on_test 63.00"
    one = cell.summary(Outcome(metrics, 9, floors={"chance": {"top1": 10.0}}))
    assert one == "top1 62.08 (floor: chance 10.00), top1_best_on_test 63.00"
