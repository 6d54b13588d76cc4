"""What is known of cells, from made records, locks and outcomes; and the table of it."""

import os
import time
from unittest import mock

import pytest

from benchmarks import evaluate, status
from benchmarks.grid import __main__ as grid
from benchmarks.grid import cells as grids
from benchmarks.grid.outcomes import CellOutcome
from benchmarks.grid.states import State, States
from regvit_lightning import settings
from regvit_lightning.evaluation import Evaluation
from regvit_lightning.models import sources, vit, weights
from regvit_lightning.models.metadata import Metadata
from regvit_lightning.records import Record
from regvit_lightning.runtime import locks
from regvit_lightning.settings import SettingsError
from tests.benchmarks.test_chain import mistake, program
from tests.by_hand import saved_records

MODEL = "random-vitn_reg4"


def version_of(task):
    return settings.load_settings("tasks", task, "mini")[1].version


@pytest.fixture
def place(tmp_path):
    """A grid of two models and two tasks, and its folders."""
    lines = [
        f"models: [{MODEL}, deit3-vitn_reg0]",
        "tasks: [imagenet_knn, imagenet_zeroshot, lost_voc07]",
        "seeds: [0]",
    ]
    (tmp_path / "small.yaml").write_text("\n".join(lines))
    return tmp_path


def chosen(place, **more):
    folders = {"runs": str(place / "runs"), "results": str(place / "results")}
    return grids.Chosen(grid=str(place / "small.yaml"), **folders, **more)


def made(place, task="imagenet_knn", weights=None, **settings_):
    """A record of the random model as the grid expects it, but for `settings_`."""
    module, options, _ = grids.task_module(task, "mini")
    data = grids.build(chosen(place)).data
    now = Evaluation(task, module, options, data, seed=0, any_precision=True)
    weights = weights or sources.load_backbone(MODEL, place, image_size=64).fingerprint
    record = Record(
        model=MODEL,
        task=task,
        data="mini",
        data_root="",
        seed=0,
        metrics={},
        columns={},
        intervals={},
        per_class={},
        floors={},
        images=1,
        protocol={},
        footnote=[],
        settings={**settings.resolved(options), **settings_},
        layout=now.layout,
        backbone={},
        weights=weights,
        provenance={"seconds": 30.0},
    )
    return record.save(place / "results")


def known(place, **more):
    """States by model and task."""
    built = grids.build(chosen(place, **more))
    looked = States(built)
    return {(cell.model, cell.task): looked.of(cell) for cell in built.cells}


def test_cells_and_what_does_not_apply(place):
    built = grids.build(chosen(place, pretrain=True))
    assert [(cell.model, cell.task) for cell in built.cells] == [
        ("deit3-vitn_reg0", "pretrain"),
        (MODEL, "imagenet_knn"),
        (MODEL, "lost_voc07"),
        ("deit3-vitn_reg0", "imagenet_knn"),
        ("deit3-vitn_reg0", "lost_voc07"),
    ]
    assert built.left_out == [f"imagenet_zeroshot of {MODEL}, deit3-vitn_reg0: no text tower"]
    assert built.cells[3].needs == built.cells[0]
    assert built.cells[1].needs is None


def test_a_model_with_a_text_tower_is_evaluated_zero_shot(place):
    text = (place / "small.yaml").read_text().replace(f"{MODEL}, deit3", "timm/vit_x, a/b.safetensors, openclip")
    (place / "small.yaml").write_text(text)
    built = grids.build(chosen(place))
    found = [cell.model for cell in built.cells if cell.task == "imagenet_zeroshot"]
    assert found == ["a/b.safetensors", "openclip-vitn_reg0"]  # of a file only its content tells
    assert built.left_out == ["imagenet_zeroshot of timm/vit_x: no text tower"]


def test_a_test_time_register_needs_the_model_that_is_trained_and_its_neurons(place):
    text = (place / "small.yaml").read_text().replace(f"{MODEL}, deit3", "deit3-vitn_reg0+ttr, openclip")
    text = text.replace("lost_voc07", "register_discovery_voc07").replace("vitn_reg0]", "vitn_reg0+bias]")
    (place / "small.yaml").write_text(text)
    built = grids.build(chosen(place, pretrain=True))
    cells = {(cell.model, cell.task): cell for cell in built.cells}
    assert [model for model, task in cells if task == "pretrain"] == ["deit3-vitn_reg0", "openclip-vitn_reg0"]
    assert cells["deit3-vitn_reg0+ttr", "imagenet_knn"].needs == cells["deit3-vitn_reg0", "pretrain"]
    assert ("openclip-vitn_reg0+bias", "imagenet_zeroshot") in cells  # the text tower is that of its weights
    assert [model for model, task in cells if task == "register_discovery_voc07"] == ["deit3-vitn_reg0+ttr"]
    looked = States(built)
    assert looked.of(cells["deit3-vitn_reg0+ttr", "imagenet_knn"]).note == "after deit3-vitn_reg0 pretrain seed 0"
    folder = place / "runs" / "mini" / "deit3-vitn_reg0" / "seed0"
    folder.mkdir(parents=True)
    (folder / "backbone.safetensors").touch()
    state = States(built).of(cells["deit3-vitn_reg0+ttr", "imagenet_knn"])
    assert state.kind == "missing"
    assert "no register neurons of deit3-vitn_reg0 are known" in state.note
    assert "make neurons MODEL=deit3-vitn_reg0" in state.note


@pytest.mark.parametrize("name", settings.names("grids"))
def test_every_grid_that_is_shipped_is_built(name, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", "/nowhere")
    data = "mini" if "mini" in name or name in ("arms", "demo") else "full"
    found = grids.build(grids.Chosen(grid=name, data=data)).cells
    assert found
    assert len(set(found)) == len(found)


def test_a_record_is_done_whatever_hardware_chose_its_precision_or_says_why_not(place):
    assert known(place)[MODEL, "imagenet_knn"] == State("missing")
    made(place)
    assert known(place)[MODEL, "imagenet_knn"] == State("done")
    made(place, precision="bf16-mixed")
    assert known(place)[MODEL, "imagenet_knn"] == State("done")
    made(place, version=0)
    assert known(place)[MODEL, "imagenet_knn"] == State(
        "stale", f"settings changed: version 0 -> {version_of('imagenet_knn')}"
    )
    made(place, weights="0123")
    assert known(place)[MODEL, "imagenet_knn"].note.startswith("weights changed: 0123 -> ")
    # LOST says a precision, so that another one is another protocol.
    made(place, "lost_voc07", precision="bf16-mixed")
    assert known(place)[MODEL, "lost_voc07"].note == "settings changed: precision bf16-mixed -> 32-true"


def test_evaluate_agrees(place, capsys):
    made(place, precision="bf16-mixed")
    words = [f"model={MODEL}", "task=imagenet_knn", f"runs={place}/runs", f"results={place}/results"]
    assert "is done" in program("evaluate", *words)
    options = evaluate.Evaluate(MODEL, "imagenet_knn", runs=f"{place}/runs", results=f"{place}/results")
    with mock.patch.object(evaluate, "render", side_effect=KeyError), pytest.raises(KeyError):
        evaluate.main(options, ["precision=32-true"])
    assert "runs again: settings changed: precision bf16-mixed -> 32-true" in capsys.readouterr().out


def test_weights_are_loaded_once_for_each_model_and_not_without_a_record(place):
    with mock.patch.object(sources, "load_backbone", wraps=sources.load_backbone) as load:
        known(place)
        assert load.call_count == 0
    made(place)
    made(place, "lost_voc07")
    with mock.patch.object(sources, "load_backbone", wraps=sources.load_backbone) as load:
        assert known(place)[MODEL, "lost_voc07"] == State("done")
        assert load.call_count == 1


def test_a_missing_checkpoint_says_what_makes_it(place):
    state = known(place)["deit3-vitn_reg0", "imagenet_knn"]
    assert "make pretrain MODEL=vitn_reg0 RECIPE=deit3 SEED=0" in state.note
    assert not state.runnable
    found = known(place, pretrain=True)
    assert found["deit3-vitn_reg0", "imagenet_knn"] == State("missing", "after deit3-vitn_reg0 pretrain seed 0")
    assert found["deit3-vitn_reg0", "pretrain"] == State("missing")


def test_failed_running_and_done_again(place):
    built = grids.build(chosen(place))
    cell = built.cells[0]
    outcome = CellOutcome(cell.name, "RuntimeError: boom", "the.log", 3.0, time.time())
    outcome.save(built.file(cell, ".json"))
    assert known(place)[MODEL, "imagenet_knn"] == State("failed", "RuntimeError: boom", log="the.log")
    file = made(place, version=0)
    os.utime(file, (time.time() + 5, time.time() + 5))  # made after the failure: what failed is past
    assert known(place)[MODEL, "imagenet_knn"].kind == "stale"
    lock = locks.acquire(locks.beside(built.folder(cell)))
    lock.say(host="node7", device="GPU 3", since=1000.0)
    state = known(place)[MODEL, "imagenet_knn"]
    assert (state.kind, state.note, state.since) == ("running", "GPU 3 of node7", 1000.0)
    lock.release()


def test_two_models_of_one_id_are_refused(place):
    metadata = Metadata("vitn_reg4", "deit3", 64, (0.5,) * 3, (0.5,) * 3, None, 4)
    for folder in ("a", "b"):
        weights.save(place / folder / "mine.safetensors", vit.build("vitn_reg4", image_size=64), metadata)
    words = [f"grid={place}/small.yaml", f"runs={place}/runs", f"results={place}/results"]
    start = "tasks: [imagenet_knn]\nseeds: [0]\nmodels: "
    (place / "small.yaml").write_text(f"{start}[{place}/a/mine.safetensors, {place}/b/mine.safetensors]\n")
    record = f"{place}/results/mini/cells/deit3-vitn_reg4-mine/imagenet_knn.seed0.json"
    told = f"{place}/a/mine.safetensors and {place}/b/mine.safetensors have the same id, so both would write {record}"
    assert told in mistake("grid", *words)
    assert told in mistake("status", *words)
    (place / "small.yaml").write_text(f"{start}[{MODEL}, {MODEL}]\n")
    assert f"{MODEL} imagenet_knn seed 0 is listed twice; take one out" in mistake("grid", *words)


def test_what_a_grid_does(place):
    made(place)
    made(place, "lost_voc07", version=0)
    built = grids.build(chosen(place))
    names = [cell.name for cell in built.cells]
    todo, failed = grid.choose(built, States(built), force=False)
    assert [cell.name for cell in todo] == [names[1]]
    assert [failure.cell for failure in failed] == names[2:]
    todo, _ = grid.choose(built, States(built), force=True)
    assert [cell.name for cell in todo] == names[:2]
    line = program("status", f"grid={place}/small.yaml", f"runs={place}/runs", f"results={place}/results")
    assert f"stale: {MODEL} lost_voc07 seed 0: settings changed: version 0 -> {version_of('lost_voc07')}" in line


def test_the_table_of_a_grid(place):
    made(place)
    made(place, "lost_voc07", version=0)
    shown = program("status", f"grid={place}/small.yaml", f"runs={place}/runs", f"results={place}/results").splitlines()
    cells_ = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown[:4]]
    assert cells_[0] == ["model", "seed", "imagenet_knn", "lost_voc07"]
    assert cells_[2] == [MODEL, "0", "done", "stale"]
    assert cells_[3] == ["deit3-vitn_reg0", "0", "missing", "missing"]
    assert any(line.startswith("missing: 2 cells of deit3-vitn_reg0 seed 0: ") for line in shown)
    assert "1 done, 1 stale, 2 missing" in shown
    assert (
        "about 0:30 left for 1 cell on 1 device, by what such cells took before, without 2 whose model is missing"
        in shown
    )


def test_a_running_cell_is_shown_with_device_and_duration():
    cell = grids.Cell("m", "t", 0)
    lines = status.notes({cell: State("running", "GPU 3 of node7", 1000.0, "the.log")}, now=1075.0)
    assert lines == ["running for 1:15: m t seed 0: GPU 3 of node7; log: the.log"]


def test_gpus_that_are_not_there(place, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert grid.slots_of(grid.Grid()) == ["0", "1"]
    assert grid.slots_of(grid.Grid(gpus="1")) == ["1"]
    with pytest.raises(SettingsError, match="gpus=0,2: this machine has 0, 1; give numbers"):
        grid.slots_of(grid.Grid(gpus="0,2"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert grid.slots_of(grid.Grid()) == ["5", "7"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert grid.slots_of(grid.Grid(jobs=3)) == ["", "", ""]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["jobs=0"], "jobs=0: must lie in [1, 1024]"),
        (["gpus=9"], "gpus=9: this machine"),
        (["launcher=ssh"], "launcher=ssh: expected local or slurm"),
        (["pretrain=true", "pretrain_devices=8"], "pretrain_devices=8: the grid runs on 1 device(s) here"),
    ],
)
def test_mistakes(place, words, message, monkeypatch):
    monkeypatch.setattr("benchmarks.data.rendering.render", lambda data: None)
    assert message in mistake("grid", f"grid={place}/small.yaml", f"runs={place}", f"results={place}", *words)


def test_missing_models_are_told_without_a_process(place, monkeypatch):
    (place / "small.yaml").write_text("models: [deit3-vitn_reg0]\ntasks: [imagenet_knn]\nseeds: [0]\n")
    with pytest.raises(SystemExit), mock.patch("sys.stderr") as errors:
        program("grid", f"grid={place}/small.yaml", f"runs={place}/runs", f"results={place}/results")
    told = "".join(call.args[0] for call in errors.write.call_args_list)
    assert "1 of 1 cells failed" in told
    assert "make pretrain MODEL=vitn_reg0 RECIPE=deit3 SEED=0" in told
    assert not (place / "runs").exists()
    assert saved_records(place / "results", "mini") == []
