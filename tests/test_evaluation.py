"""A cell called from Python: the same numbers as the program's record, settings by name, one line for a mistake."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import evaluate
from benchmarks.evaluate import Evaluate
from regvit_lightning import evaluation, records
from regvit_lightning.data import layout
from regvit_lightning.errors import UserError
from regvit_lightning.frozen.contract import Outcome, RunOptions
from regvit_lightning.models.sources import load_backbone
from regvit_lightning.runtime import locks
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks import knn
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
    shown = program("evaluate", *cell, *words, *folders)
    known = "where an accuracy is known to ±14.1 points only"
    assert f"evaluate: caution: one of 2 values of k is chosen on 48 held-out images, {known}" in shown
    (file,) = (tmp_path / "results").rglob("*.json")
    record = json.loads(file.read_text())
    assert record["metrics"] == {key: round(value, 4) for key, value in outcome.metrics.items()}
    assert record["weights"] == backbone.fingerprint
    assert not list(tmp_path.rglob("cell.json.*"))


def test_a_number_that_is_not_finite_reaches_neither_caller_nor_record(folder, tmp_path, monkeypatch):
    backbone = load_backbone("random-vitn_reg0", Path("none"), image_size=64)
    data = evaluation.layout.resolve(folder)
    cell = evaluation.prepare("imagenet_knn", data, "mini", words=[f"{k}={v}" for k, v in SETTINGS.items()])
    metrics = {"top1": float("nan"), "top1_best_on_test": 50.0}
    monkeypatch.setattr(cell.task, "run", lambda *_: Outcome(metrics=metrics, images=4))
    with pytest.raises(UserError, match="imagenet_knn: top1 is nan, not a finite number; nothing is recorded"):
        evaluation.run_and_record(cell, backbone, tmp_path / "results", RunOptions(folder=tmp_path / "cell"))
    assert not (tmp_path / "results").exists()


def drawn():
    from matplotlib.figure import Figure

    return Figure(figsize=(2, 1), dpi=100)


def logged_pictures(folder):
    """Width, height and bytes of the examples that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return [(one.width, one.height, one.encoded_image_string) for one in events.Images("test/examples")]


@pytest.mark.parametrize(
    ("figures", "names"),
    [
        (None, ["examples.pdf", "examples.png"]),
        (lambda: {"a": drawn(), "b": drawn()}, [f"{name}.{kind}" for name in "ab" for kind in ("pdf", "png", "svg")]),
        (dict, []),
    ],
)
def test_single_figures_are_written_for_print(folder, tmp_path, monkeypatch, figures, names):
    backbone = load_backbone("random-vitn_reg0", Path("none"), image_size=64)
    cell = evaluation.prepare("imagenet_knn", evaluation.layout.resolve(folder), "mini")
    outcome = Outcome({"top1": 1.0, "top1_best_on_test": 2.0}, images=4, picture=drawn(), figures=figures)
    monkeypatch.setattr(cell.task, "run", lambda *_: outcome)
    _, file = evaluation.run_and_record(cell, backbone, tmp_path / "results", RunOptions(folder=tmp_path / "cell"))
    with Image.open(file.with_suffix(".png")) as picture:
        assert picture.size == (200, 100)
    assert logged_pictures(tmp_path / "cell" / "log") == [(200, 100, file.with_suffix(".png").read_bytes())]
    written = sorted((tmp_path / "cell").glob("figures/*"))
    assert [one.name for one in written] == names
    for one in written:
        if one.suffix == ".png":
            with Image.open(one) as figure:
                assert figure.size == (400, 200)  # 200 dots per inch


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


def test_the_final_line_has_the_floors_and_what_is_said_stands_above_it(tiny, monkeypatch, tmp_path, capsys):
    floors = {"whole image": {"corloc": 30.0}, "centred box": {"corloc": 33.333}, "other": {"top1": 1.0}}
    outcome = Outcome({"corloc": 34.214}, 9, floors=floors, remarks=["in 9 of 9 images nothing can be cut"])
    monkeypatch.setattr(evaluation, "run_and_record", lambda *_: (outcome, tmp_path / "record.json"))
    places = {"data": str(tiny.root), "results": str(tmp_path), "runs": str(tmp_path)}
    options = Evaluate(model="random-vitn_reg0", task="lost_voc07", variant="mini", **places)
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


# ------------------------------------------------------------------------------------------------------- who is who


@pytest.fixture
def flowers(tmp_path, monkeypatch):
    """Two folders `flowers` of different images; a task that takes no time; and a model given as two files."""
    for place, size in (("here", 5), ("there", 6)):
        for split in ("train", "val"):
            file = tmp_path / place / "flowers" / split / "rose" / "0.jpg"
            file.parent.mkdir(parents=True)
            file.write_bytes(b"x" * size)
    protocol = dict.fromkeys(knn.FOOTNOTE, "")
    outcome = Outcome({"top1": 50.0}, 1, protocol=protocol)
    monkeypatch.setattr(evaluation.Evaluation, "run", lambda *ignored: outcome)
    return tmp_path


def evaluated(folder, place="here", origin="", weights=0, data=None, force=False):
    """Evaluate an untrained model, as if it had been given as the file `origin`, on one of the folders."""
    where = data or layout.resolve(str(folder / place / "flowers"))
    cell = evaluation.prepare("imagenet_knn", where, "mini", words=["precision=32-true"])
    backbone = load_backbone("random-vitn_reg0", Path("none"), seed=weights, image_size=64)
    backbone.name, backbone.origin = "flowery", origin
    file = cell.file(folder / "results", backbone.name)
    stale = cell.stale(file, lambda: backbone.fingerprint) if file.exists() else "missing"
    options = RunOptions(0, 1, (), folder / "runs" / "cell")
    evaluation.run_and_record(cell, backbone, folder / "results", options, force)
    return stale


def test_other_images_under_the_same_path_make_a_record_stale_and_another_path_does_not(flowers):
    assert evaluated(flowers) == "missing"
    assert evaluated(flowers) == ""
    (flowers / "here").rename(flowers / "moved")
    assert evaluated(flowers, "moved") == ""
    (flowers / "moved/flowers/val/rose/0.jpg").write_bytes(b"another one")
    assert evaluated(flowers, "moved") == "data changed: names, sizes or labels of test are not those of the record"
    assert evaluated(flowers, "moved") == ""


def test_another_folder_of_the_same_name_replaces_nothing(flowers):
    evaluated(flowers, "here")
    with pytest.raises(
        UserError, match=r"made from the images of .*here/flowers, not from .*there/flowers: DATA=<file>"
    ):
        evaluated(flowers, "there")
    assert evaluated(flowers, "here") == ""
    evaluated(flowers, "there", force=True)
    assert evaluated(flowers, "there") == ""


def test_another_file_of_the_same_name_replaces_nothing(flowers):
    evaluated(flowers, origin="/a/flowery.pth")
    with pytest.raises(
        UserError, match=r"made from /a/flowery\.pth, not from /b/flowery\.pth: NAME=<another name> keeps"
    ):
        evaluated(flowers, origin="/b/flowery.pth", weights=1)
    with pytest.raises(UserError, match=r"not from a model that was trained here"):
        evaluated(flowers, origin="", weights=1)
    assert evaluated(flowers, origin="/b/flowery.pth") == ""  # moved, with the same weights
    assert evaluated(flowers, origin="/b/flowery.pth", weights=1).startswith("weights changed")  # trained on
    evaluated(flowers, origin="/c/flowery.pth", weights=2, force=True)


def test_a_record_of_an_older_schema_is_replaced(flowers):
    evaluated(flowers, origin="/a/flowery.pth")
    (file,) = (flowers / "results").rglob("*.json")
    old = asdict(replace(records.read_record(file), schema=3))
    file.write_text(json.dumps({key: value for key, value in old.items() if key not in ("source", "digests")}))
    assert evaluated(flowers, "there", origin="/b/flowery.pth", weights=1) == "a record of schema 3, which is now 4"


def test_a_yaml_of_data_is_given_by_its_path(flowers, monkeypatch):
    """As a file of configs/data: its own name, the base that it names, and images of a folder called as another one."""
    monkeypatch.setenv("DATA_ROOT", str(flowers / "there"))
    file = flowers / "there.yaml"
    file.write_text("root: ${oc.env:DATA_ROOT}/flowers\nimagenet: .\n")
    data = layout.resolve(str(file))
    assert (data.name, data.root, data.counts) == ("there", str(flowers / "there/flowers"), {})
    evaluated(flowers, "here")
    evaluated(flowers, data=data)
    assert sorted(path.name for path in (flowers / "results").iterdir()) == ["flowers", "there"]
    file.write_text("base: full\nname: counted\nroot: /r\n")
    based = layout.resolve(str(file))
    assert (based.name, based.root, based.counts["voc07"]) == ("counted", "/r", [5011])
    for content, said in {"imagenett: .": "unknown key", "- a": "expected", "base: fulll\n": "nearest: full"}.items():
        file.write_text(content)
        with pytest.raises(SettingsError, match=said) as error:
            layout.resolve(str(file))
        assert "\n" not in str(error.value)
    with pytest.raises(SettingsError, match="not readable"):
        layout.resolve(str(flowers / "nowhere.yaml"))


def test_a_wrong_word_leaves_what_an_earlier_cell_has_kept(tmp_path, tiny):
    words = ["model=random-vitn_reg0", "task=imagenet_knn", f"data={tiny.root}/imagenet", "variant=mini", "workers=0"]
    words += [f"results={tmp_path / 'results'}", f"runs={tmp_path / 'runs'}"]
    program("evaluate", *words, "neighbours=[1]")
    (cell,) = (tmp_path / "runs").rglob("cell.json")
    kept, before = cell.with_name("chosen_heads.safetensors"), cell.read_bytes()
    kept.write_bytes(b"of an hour of training")
    for force in ("force=false", "force=true"):
        assert "k=5000 is above" in mistake("evaluate", *words, "neighbours=[5000]", force)
        assert (kept.read_bytes(), cell.read_bytes()) == (b"of an hour of training", before)
    program("evaluate", *words, "neighbours=[2]")
    assert [file.name for file in cell.parent.iterdir()] == ["cell.json"]
    assert not [folder for folder in cell.parents[1].iterdir() if folder.name.startswith(".")]


def test_the_program_takes_a_name_for_the_record(tmp_path, tiny):
    words = ["task=imagenet_knn", f"data={tiny.root}/imagenet", "variant=mini", "workers=0", "neighbours=[1]"]
    folders = [f"results={tmp_path / 'results'}", f"runs={tmp_path / 'runs'}"]
    program("evaluate", "model=random-vitn_reg0", "name=mine+2", *words, *folders)
    (file,) = (tmp_path / "results").rglob("*.json")
    assert records.read_record(file).model == file.parent.name == "mine+2"
    assert records.read_record(file).digests.keys() == {"train", "test"}
    shutil.rmtree(tmp_path / "results")
    refused = mistake("evaluate", "model=random-vitn_reg0", "name=../up", *words, *folders)
    assert "name=../up: expected" in refused
    assert not (tmp_path / "results").exists()
