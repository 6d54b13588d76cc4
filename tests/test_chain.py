"""The whole chain as a user runs it, on a tiny data set and on real photographs; and every mistake in one line."""

import contextlib
import importlib
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from regvit_lightning import records

ROOT = Path(__file__).resolve().parents[1]
QUICK = ["variant=mini", "epochs=1", "batch_size=16", "device_batch=16", "workers=0"]


def program(name, *words):
    """Standard output of a program that must succeed; in this process, as starting Python and torch takes seconds."""
    module, output = importlib.import_module(f"benchmarks.{name}"), io.StringIO()
    with mock.patch.object(sys, "argv", [name, *map(str, words)]), contextlib.redirect_stdout(output):
        module.cli()
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


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """Two trained models with their records, made by the programs."""
    place = tmp_path_factory.mktemp("chain")
    folders = [f"runs={place / 'runs'}", f"data={tiny.root}/imagenet"]
    for model in ("vitn_reg0", "vitn_reg4"):
        program("pretrain", f"model={model}", *folders, *QUICK)
    for model in ("random-vitn_reg4", "deit3-vitn_reg0", "deit3-vitn_reg4"):
        words = [f"model={model}", *folders, f"results={place / 'results'}", "variant=mini", "workers=0"]
        program("evaluate", "task=imagenet_knn", "neighbours=[1,10]", *words)
        program("evaluate", "task=imagenet_linear", "steps=2", "batch_size=32", "device_batch=32", *words)
    return place


def test_from_folders_to_a_table(trained):
    shown = program("tables", "data=imagenet", f"results={trained / 'results'}")
    assert shown.count("\n| ") == 4
    assert "deit3-vitn_reg4" in shown
    found = records.load_all(trained / "results", "imagenet")
    assert len(found) == 6
    for record in found:
        assert record.images == 32
        assert 0 <= record.metrics["top1"] <= 100
        assert record.weights
        assert record.backbone["num_registers"] == (0 if "reg0" in record.model else 4)
    fingerprints = {record.model: record.weights for record in found}
    assert len(set(fingerprints.values())) == 3


def test_a_second_run_finds_everything_done(trained, tiny):
    folders = [f"runs={trained / 'runs'}", f"data={tiny.root}/imagenet", "variant=mini", "workers=0"]
    again = program("pretrain", "model=vitn_reg4", *folders, *QUICK[1:4])
    assert "is done" in again
    words = ["model=deit3-vitn_reg4", "task=imagenet_knn", *folders, f"results={trained / 'results'}"]
    assert "is done" in program("evaluate", *words, "neighbours=[1,10]")
    assert "runs again: settings changed: neighbours" in program("evaluate", *words, "neighbours=[1,5]")


def test_two_devices_give_the_result_of_one(tiny, tmp_path):
    words = [
        "model=random-vitn_reg4",
        "task=imagenet_linear",
        f"data={tiny.root}/imagenet",
        "variant=mini",
        "workers=0",
    ]
    words += ["steps=3", "batch_size=32", "device_batch=16", "precision=32-true"]
    found, shown = [], ""
    for devices in (1, 2):
        results = tmp_path / str(devices)
        shown += process("evaluate", *words, f"devices={devices}", f"results={results}")
        found.append(records.load_all(results, "imagenet")[0])
    assert found[0].metrics == found[1].metrics
    assert found[0].intervals == found[1].intervals
    assert found[0].protocol == found[1].protocol
    assert shown.count("record in") == 2  # one line each: the helper processes say nothing


def test_real_photographs_by_path(hands, tmp_path):
    folders = [f"data={hands.root}", "variant=mini", f"runs={tmp_path}"]
    program("pretrain", "model=vitn_reg4", *folders, "epochs=1", "workers=0")
    results = tmp_path / "results"
    program("evaluate", "model=deit3-vitn_reg4", "task=imagenet_knn", *folders, "workers=0", f"results={results}")
    record = records.load_all(results, "hands")[0]
    assert record.images == 300
    assert record.protocol["train_images"] == 800


def test_data_is_checked(tiny):
    shown = program("data", f"data={tiny.root}/imagenet")
    assert "96 train and 32 test images of 16 classes" in shown


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("pretrain", ["model=vitx_reg4"], "unknown model 'vitx_reg4'"),
        ("pretrain", ["model=vitn_reg4", "recipe=deit4"], "unknown recipe 'deit4'; nearest: deit3"),
        ("pretrain", ["model=vitn_reg4", "epoch=3"], "unknown key 'epoch'; nearest: epochs"),
        ("pretrain", ["model=vitn_reg4", "lr=high"], "lr=high"),
        ("pretrain", ["model=vitn_reg4", "data=minni"], "neither a folder nor a name of configs/data; nearest: mini"),
        ("pretrain", ["model=vitn_reg4", "variant=huge"], "no variant 'huge'"),
        ("pretrain", [], "not set: model"),
        ("evaluate", ["model=random-vitn_reg4", "task=imagenet_knn", "seed=-1"], "seed=-1: must not be negative"),
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
    line = mistake("evaluate", "model=random-vitn_reg4", "task=imagenet_knn", "data=full")
    assert "no folder" in line
    assert "image-net.org" in line
    (tmp_path / "half" / "train" / "cat").mkdir(parents=True)
    line = mistake("pretrain", "model=vitn_reg4", f"data={tmp_path / 'half'}", "variant=mini")
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
