"""The whole chain as a user runs it, on a tiny data set and on real photographs; and every mistake in one line."""

import contextlib
import io
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.tables import scored_records
from regvit_lightning.data import layout
from tests.by_hand import saved_records
from tests.forked import Forked, command_line

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["variant=mini", "epochs=1", "batch_size=16", "device_batch=16", "workers=0"]


def program(name, *words):
    """Standard output of a program that must succeed; in this process, as starting Python and torch takes seconds."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        command_line(name, *words)
    return output.getvalue()


def mistake(name, *words):
    """The one line that a mistake gives."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as stop:
        program(name, *words)
    assert stop.value.code == 2
    lines = errors.getvalue().splitlines()
    assert len(lines) == 1, lines
    return lines[0].removeprefix(f"{name}: ")


def process(name, *words):
    """Standard output of a program in a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def forked(name, *words):
    """Standard output of a program in a forked process."""
    done = Forked(command_line, name, *words)
    output, errors = done.communicate(timeout=300)
    assert done.returncode == 0, errors
    return output


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """Two trained models with their records, made by the programs."""
    place = tmp_path_factory.mktemp("chain")
    folders = [f"runs={place / 'runs'}", f"data={tiny.root}/imagenet"]
    for model in ("vitn_reg0", "vitn_reg4"):
        program("pretrain", f"model={model}", *folders, f"results={place / 'results'}", *QUICK)
    for model in ("random-vitn_reg4", "deit3-vitn_reg0", "deit3-vitn_reg4"):
        words = [f"model={model}", *folders, f"results={place / 'results'}", "variant=mini", "workers=0"]
        program("evaluate", "task=imagenet_knn", "neighbours=[1,10]", *words)
        program("evaluate", "task=imagenet_linear", "steps=2", "batch_size=32", "device_batch=32", *words)
    return place


def models_of(shown, title):
    """The models of the rows of one task's table, in order."""
    rows = shown.partition(f"**{title}**\n\n")[2].partition("\n\n")[0].splitlines()
    return [row.split("|")[1].strip().removesuffix(" (floor)") for row in rows[2:]]


def test_from_folders_to_a_table(trained):
    shown = program("tables", "data=imagenet", f"results={trained / 'results'}")
    for task in ("imagenet_knn", "imagenet_linear"):
        models = models_of(shown, f"{task}: 32 test images")
        assert models == ["most frequent class", "random-vitn_reg4", "deit3-vitn_reg0", "deit3-vitn_reg4"]
    found = saved_records(trained / "results", "imagenet")
    assert len(found) == 6
    curve = (trained / "results" / "imagenet" / "curves" / "deit3-vitn_reg4.seed0.csv").read_text().splitlines()
    assert curve[0] == "step,loss,lr"
    assert len(curve) == 1 + 6
    for record in found:
        assert record.images == 32
        assert record.weights
        assert record.backbone["num_registers"] == (0 if "reg0" in record.model else 4)
    for cell in scored_records.read_scored_records(trained / "results", "imagenet").cells:
        assert cell.scores["top1"].mean() == pytest.approx(cell.record.metrics["top1"], abs=1e-4)
    fingerprints = {record.model: record.weights for record in found}
    assert len(set(fingerprints.values())) == 3


def test_a_second_run_finds_everything_done(trained, tiny, tmp_path):
    shutil.copytree(trained / "results", tmp_path / "results")
    folders = [f"runs={trained / 'runs'}", f"data={tiny.root}/imagenet", "variant=mini", "workers=0"]
    again = program("pretrain", "model=vitn_reg4", *folders, *QUICK[1:4])
    assert "is done" in again
    words = ["model=deit3-vitn_reg4", "task=imagenet_knn", *folders, f"results={tmp_path / 'results'}"]
    assert "is done" in program("evaluate", *words, "neighbours=[1,10]")
    assert "runs again: settings changed: neighbours" in program("evaluate", *words, "neighbours=[1,5]")


def test_a_run_with_other_settings_is_kept_beside_the_old_one(trained, tiny, tmp_path):
    runs, results = tmp_path / "runs", tmp_path / "results"
    for kind, folder in (("runs", runs), ("results", results)):
        shutil.copytree(trained / kind, folder)
    folders = [f"data={tiny.root}/imagenet", f"runs={runs}", f"results={results}"]
    files = [file for file in runs.glob("imagenet/deit3-vitn_reg4/**/*.*") if file.suffix != ".lock"]
    before = {file: file.read_bytes() for file in files}
    train = ["model=vitn_reg4", *folders, *QUICK, "lr=2e-2"]
    assert "TAG=<name> to keep both, or FORCE=1 to start again" in mistake("pretrain", *train)
    assert "deit3+lr2e-2-vitn_reg4" in program("pretrain", *train, "tag=lr2e-2")
    assert "is done" in program("pretrain", *train, "tag=lr2e-2")
    assert {file: file.read_bytes() for file in before} == before
    assert (results / "imagenet" / "curves" / "deit3+lr2e-2-vitn_reg4.seed0.csv").exists()
    cell = ["model=deit3+lr2e-2-vitn_reg4", "task=imagenet_knn", *folders, *QUICK[:1], "workers=0", "neighbours=[1,10]"]
    assert "deit3+lr2e-2-vitn_reg4 imagenet_knn seed 0: top1" in program("evaluate", *cell)
    assert "is done" in program("evaluate", *cell)
    found = {record.model: record for record in saved_records(results, "imagenet") if record.task == "imagenet_knn"}
    assert found["deit3+lr2e-2-vitn_reg4"].weights != found["deit3-vitn_reg4"].weights
    # By its path the export is the same model; its twin would be deit3+lr2e-2-vitn_reg0, which is not there.
    export = runs / "imagenet" / "deit3+lr2e-2-vitn_reg4" / "seed0" / "backbone.safetensors"
    assert "is done" in program("evaluate", f"model={export}", *cell[1:])
    shown = program("tables", "data=imagenet", f"results={results}")
    models = models_of(shown, "imagenet_knn: 32 test images")
    assert models == [
        "most frequent class",
        "random-vitn_reg4",
        "deit3-vitn_reg0",
        "deit3-vitn_reg4",
        "deit3+lr2e-2-vitn_reg4",
    ]
    assert "pretrain" in mistake("evaluate", "model=deit3+other-vitn_reg4", *cell[1:])


# Task, folder of its data, batch size, how two devices are started: once as a user does, the second one by Lightning.
TASKS = [
    ("imagenet_linear", "imagenet", 32, process),
    ("ade20k_linear", "", 4, forked),
    ("nyud_linear1", "", 4, forked),
]


@pytest.mark.parametrize(("task", "below", "batch_size", "on_two"), TASKS)
def test_two_devices_give_the_result_of_one(tiny, tmp_path, task, below, batch_size, on_two):
    words = ["model=random-vitn_reg4", f"task={task}", f"data={tiny.root}/{below}", "variant=mini", "workers=0"]
    words += ["steps=3", f"batch_size={batch_size}", "device_batch=16", "precision=32-true", "accelerator=cpu"]
    found, shown = [], ""
    for devices, start in ((1, program), (2, on_two)):
        place = tmp_path / str(devices)
        shown += start("evaluate", *words, f"devices={devices}", f"results={place}", f"runs={place}")
        found += saved_records(place, below or "tiny")
    # Sums over the devices round differently; the accuracies of the linear probe show nothing of it.
    close = 0 if below else 1e-3
    for name in ("metrics", "floors", "intervals"):
        one, two = (np.array(_numbers(getattr(record, name))) for record in found)
        np.testing.assert_allclose(one, two, rtol=close, atol=close)
    assert found[0].protocol == found[1].protocol
    assert shown.count("record in") == 2  # one line each: the helper processes say nothing


def _numbers(values):
    """All numbers in nested dictionaries and lists, in their order."""
    if isinstance(values, dict):
        values = list(values.values())
    return [number for value in values for number in _numbers(value)] if isinstance(values, list) else [values]


@pytest.mark.parametrize("task", ["lost_voc07", "lost_sweep_coco20k", "tokencut_voc12"])
def test_object_discovery_from_a_folder_to_a_table(tiny, tmp_path, task):
    words = [f"data={tiny.root}", f"results={tmp_path / 'results'}"]
    cell = ["model=random-vitn_reg4", f"task={task}", f"runs={tmp_path}", "variant=mini", "workers=0", *words]
    cell += ["held_out=0.5", "blocks=[-1]"] if "sweep" in task else []
    assert "record in" in program("evaluate", *cell)
    assert "is done" in program("evaluate", *cell)
    (record,) = saved_records(tmp_path / "results", "tiny")
    assert record.images == (1 if "sweep" in task else 2)
    assert record.path(tmp_path / "results").with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    shown = program("tables", *words)
    assert "whole image (floor)" in shown
    assert "centred box of mean size (floor)" in shown
    assert f"**{task}: {record.images} test image" in shown
    assert f"{task[task.rindex('_') + 1 :]} trainval in {tiny.root} is whole: 2 images" in program("data", words[0])


@pytest.fixture
def bare_files(tiny, tmp_path):
    """The rendered images and labels alone, as somebody else's files in the real formats."""
    root = tmp_path / "datasets"
    for folder in ("ADEChallengeData2016", "nyu"):
        shutil.copytree(Path(tiny.root) / folder, root / folder)
    assert not list(root.glob("*.json"))
    return root


@pytest.mark.parametrize("task", ["ade20k_linear", "nyud_linear1"])
def test_files_alone_from_another_folder_through_data_root(bare_files, tmp_path, task, monkeypatch):
    words = [f"task={task}", "data=own", "variant=mini", "workers=0", "steps=2", "batch_size=2"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("DATA_ROOT", str(bare_files))
    assert "whole" in program("data", "data=own")
    shown = program("evaluate", "model=random-vitn_reg4", *words)
    assert "record in results/own/cells/random-vitn_reg4" in shown
    record = saved_records(elsewhere / "results", "own")[0]
    assert record.images == 1
    assert record.data_root == str(bare_files)
    assert record.floors
    file = record.path(elsewhere / "results")
    assert file.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    folder = elsewhere / "runs" / "own" / "random-vitn_reg4" / "seed0" / task
    assert (folder / "head.safetensors").exists()
    assert list((folder / "log").glob("events*"))
    assert not (folder / "last.ckpt").exists()
    assert "is done" in program("evaluate", "model=random-vitn_reg4", *words)


def test_what_is_missing_of_the_real_data_is_said_exactly(bare_files, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(bare_files))
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), pytest.raises(SystemExit):
        program("data", "data=full")
    lines = errors.getvalue().splitlines()
    assert lines[0] == "data: not whole"
    told = dict(line.strip().split(": ", 1) for line in lines[1:])
    assert "no folder" in told["imagenet train"]
    assert "no folder" in told["imagenet22k train"]
    assert "has 2 images, expected 20,210" in told["segmentation train"]
    assert "has 1 images, expected 2,000" in told["segmentation test"]
    assert "has 1 images, expected 24,231" in told["depth train"]
    assert "has 1 images, expected 654" in told["depth test"]


def test_a_record_holds_for_its_label_rule_only(bare_files, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(bare_files))
    monkeypatch.chdir(tmp_path)
    words = ["model=random-vitn_reg4", "task=ade20k_linear", "data=own", "variant=mini", "workers=0", "steps=1"]
    program("evaluate", *words, "batch_size=2")
    resolve = layout.resolve

    def with_a_class_more(name):
        data = resolve(name)
        data.segmentation.classes, data.segmentation.vocabulary = 151, ""
        return data

    monkeypatch.setattr(layout, "resolve", with_a_class_more)
    assert "runs again: layout of the data changed: classes 150 -> 151" in program("evaluate", *words, "batch_size=2")


def test_a_bad_file_stops_two_devices_with_a_line_each(bare_files, tmp_path):
    for mask in bare_files.glob("ADEChallengeData2016/annotations/training/*.png"):
        Image.fromarray(np.full_like(np.asarray(Image.open(mask)), 200)).save(mask)
    words = ["task=ade20k_linear", f"data={bare_files}", "variant=mini", "workers=0", "steps=2", "batch_size=2"]
    words += ["devices=2", "accelerator=cpu", f"runs={tmp_path}", f"results={tmp_path}"]
    done = Forked(command_line, "evaluate", "model=random-vitn_reg4", *words)
    errors = done.communicate(timeout=300)[1]
    assert done.returncode != 0
    assert "class number 200" in errors
    assert "Traceback" not in errors


def test_real_photographs_by_path(hands, tmp_path):
    folders = [f"data={hands.root}", "variant=mini", f"runs={tmp_path}"]
    results = tmp_path / "results"
    program("pretrain", "model=vitn_reg4", *folders, "epochs=1", "workers=0", f"results={results}")
    program("evaluate", "model=deit3-vitn_reg4", "task=imagenet_knn", *folders, "workers=0", f"results={results}")
    record = saved_records(results, "hands")[0]
    assert record.images == 300
    assert record.protocol["train_images"] == 800


def test_data_is_checked(tiny):
    shown = program("data", f"data={tiny.root}/imagenet")
    assert "imagenet train" in shown
    assert "is whole: 96 images" in shown
    assert "is whole: 32 images" in shown


def test_pairs_are_checked_and_broken_shards_named(tiny, tmp_path):
    (tmp_path / "pairs").mkdir()
    shutil.copy(Path(tiny.root) / "shards" / "train-000000.tar", tmp_path / "pairs" / "0.tar")
    assert "pairs train" in program("data", f"data={tmp_path}")
    (tmp_path / "pairs" / "1.tar").write_bytes(b"")
    command = ["pretrain", "model=vitn_reg0", "recipe=openclip", f"data={tmp_path}", "variant=mini"]
    assert f"{tmp_path}/pairs/1.tar: truncated, empty" in mistake(*command, f"runs={tmp_path}")


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("pretrain", ["model=vitx_reg4"], "unknown model 'vitx_reg4'"),
        ("pretrain", ["model=vitn_reg4", "recipe=deit4"], "unknown recipe 'deit4'; nearest: deit3"),
        ("pretrain", ["model=vitn_reg4", "epoch=3"], "unknown key 'epoch'; nearest: epochs"),
        ("pretrain", ["model=vitn_reg4", "lr=high"], "lr=high"),
        ("pretrain", ["model=vitn_reg4", "tag=a b"], "tag=a b: expected letters, digits"),
        ("pretrain", ["model=vitn_gated_reg4", "arm=diff"], "MODEL=vitn_gated_reg4 and arm=diff are two arms"),
        ("pretrain", ["model=vitn_reg4", "arm=gatd"], "arm: there is no arm 'gatd'; nearest: gated"),
        ("pretrain", ["model=vitn_reg4", "tag=x_reg4"], "tag=x_reg4: must not hold _reg<N>"),
        ("pretrain", ["model=vitn_reg4", "data=minni"], "neither a folder nor a name of configs/data; nearest: mini"),
        ("pretrain", ["model=vitn_reg4", "variant=huge"], "no variant 'huge'"),
        ("pretrain", [], "not set: model"),
        (
            "evaluate",
            ["model=random-vitn_reg4", "task=imagenet_knn", "seed=-1"],
            "seed=-1: must lie in [0, 4294967295]",
        ),
        (
            "evaluate",
            ["model=random-vitn_reg4", "task=imagenet_nn"],
            "unknown task 'imagenet_nn'; nearest: imagenet_knn",
        ),
        ("evaluate", ["model=deit3-vitn_reg9", "task=imagenet_knn"], "make pretrain MODEL=vitn_reg9 RECIPE=deit3"),
        ("evaluate", ["model=deit3vitn", "task=imagenet_knn"], "unknown model 'deit3vitn'"),
        ("evaluate", ["model=timm/vit_smal_patch14", "task=imagenet_knn"], "unknown model 'timm/vit_smal_patch14'"),
        ("evaluate", ["model=./none.pth", "task=imagenet_knn"], "none.pth"),
        ("grid", ["grid=demoo"], "unknown grid 'demoo'; nearest: demo"),
        ("grid", ["gird=demo"], "unknown key 'gird'; nearest: grid"),
        ("tables", ["data=nothing"], "no record in"),
        ("data", ["data=full"], "DATA_ROOT"),
    ],
)
def test_mistakes(name, words, message, monkeypatch):
    monkeypatch.delenv("DATA_ROOT", raising=False)
    assert message in mistake(name, *words)


def test_data_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "nowhere"))
    folders = [f"runs={tmp_path}", f"results={tmp_path}"]
    line = mistake("evaluate", "model=random-vitn_reg4", "task=imagenet_knn", "data=full", *folders)
    assert "no folder" in line
    assert "README.md says how to get it" in line
    (tmp_path / "half" / "train" / "cat").mkdir(parents=True)
    line = mistake("pretrain", "model=vitn_reg4", f"data={tmp_path / 'half'}", "variant=mini", *folders)
    assert "holds no image" in line


class Harmful:
    def __reduce__(self):
        return (os.system, ("touch harmed",))


def test_checkpoints_that_are_refused(trained, tmp_path):
    """Another architecture, a harmful pickle, a file of something else: nothing runs, one line each."""
    torch.save(torch.nn.Linear(3, 3).state_dict(), tmp_path / "linear.pth")
    (tmp_path / "text.pth").write_text("hello")
    with (tmp_path / "harmful.pth").open("wb") as file:
        pickle.dump({"x": Harmful()}, file)
    export = next(trained.glob("runs/imagenet/deit3-vitn_reg4/seed0/backbone.safetensors"))
    renamed = tmp_path / "runs" / "mini" / "deit3-vitn_reg0" / "seed0" / "backbone.safetensors"
    renamed.parent.mkdir(parents=True)
    renamed.write_bytes(export.read_bytes())
    (tmp_path / "cut.safetensors").write_bytes(export.read_bytes()[:1000])
    for name in ("linear.pth", "text.pth", "harmful.pth", "cut.safetensors"):
        assert name in mistake("evaluate", f"model={tmp_path / name}", "task=imagenet_knn", f"results={tmp_path}")
    line = mistake("evaluate", "model=deit3-vitn_reg0", "task=imagenet_knn", f"runs={tmp_path / 'runs'}")
    assert "deit3-vitn_reg4, not deit3-vitn_reg0" in line
    assert not (ROOT / "harmed").exists()
    assert not list(tmp_path.glob("**/*.json"))
