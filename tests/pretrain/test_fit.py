"""A pretraining run: interruption, broken files, bad losses, full disks, and a folder that holds another run."""

import json
import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from regvit_lightning import settings
from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import UserError
from regvit_lightning.models import sources, weights
from regvit_lightning.pretrain import fit
from regvit_lightning.pretrain.run import _same, changes
from regvit_lightning.runtime import atomic, locks
from regvit_lightning.runtime.checkpoints import TrainingStopped
from regvit_lightning.settings import SettingsError
from tests.pretrain.golden import first_losses

WORDS = [
    "workers=0",
    "batch_size=16",
    "device_batch=16",
    "epochs=2",
    "checkpoint_every=3",
    "log_every=2",
    "lr=5e-3",
    "warmup_epochs=1",
    "layer_scale=0.1",
    "colour_jitter=0.3",
    "drop_path=0.1",
    "cutmix=1.0",
    "label_smoothing=0.1",
]


def prepare(data, folder, *words, model="vitn_reg2"):
    words = [*[w for w in WORDS if w.partition("=")[0] not in {o.partition("=")[0] for o in words}], *words]
    return fit.Run(model, "deit3", settings.load_settings("recipes", "deit3", "mini", words)[1], data, 0, Path(folder))


class StopAt(Callback):
    """Dies after a number of steps, as an interrupted process would."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            raise KeyboardInterrupt("interrupted")


def die_at(run, step):
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit.fit(run, [StopAt(step)])


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """An uninterrupted run of 12 steps."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    fit.fit(prepare(tiny, folder))
    return folder


def same_bits(ours, theirs, name="backbone"):
    ours, theirs = load_file(ours / f"{name}.safetensors"), load_file(theirs / f"{name}.safetensors")
    return all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("step", [2, 3, 7, 11])
def test_an_interrupted_run_ends_with_the_same_bits(tiny, whole, tmp_path, step):
    run = prepare(tiny, tmp_path / "run")
    die_at(run, step)
    assert not (run.folder / "backbone.safetensors").exists()
    fit.fit(run)
    assert same_bits(run.folder, whole)
    assert same_bits(run.folder, whole, "backbone_ema")


def test_with_accumulation_it_may_die_twice(tiny, tmp_path):
    words = ["device_batch=8", "mixup=0.8"]
    once, twice = prepare(tiny, tmp_path / "once", *words), prepare(tiny, tmp_path / "twice", *words)
    fit.fit(once)
    die_at(twice, 4)
    die_at(twice, 8)
    fit.fit(twice)
    assert same_bits(twice.folder, once.folder)


def test_the_number_of_workers_changes_no_bit(tiny, whole, tmp_path):
    run = prepare(tiny, tmp_path / "run", "workers=2")
    fit.fit(run)
    assert same_bits(run.folder, whole)


def test_the_export_is_a_backbone_with_its_facts(whole):
    backbone = sources.load_backbone(str(whole / "backbone.safetensors"), Path())
    assert backbone.name == "deit3-vitn_reg2"
    assert (backbone.num_registers, backbone.image_size, backbone.depth) == (2, 64, 4)
    _, metadata, *_ = weights.load_weights(whole / "backbone.safetensors")
    assert metadata.info["steps"] == 12
    described = json.loads((whole / "run.json").read_text())  # what a record of this model says
    assert {key: backbone.facts()["trained_with"][key] for key in ("lr", "batch_size", "module")} == {
        key: described[key] for key in ("lr", "batch_size", "module")
    }
    checkpoint = sources.load_backbone(str(whole / "last.ckpt"), Path())
    assert checkpoint.fingerprint == backbone.fingerprint
    assert checkpoint.name == "deit3-vitn_reg2-last"


def test_the_run_leaves_curves_and_a_picture_of_its_input(whole):
    events = EventAccumulator(str(whole / "log")).Reload()
    assert {"train/loss", "train/lr"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["train/augmented"]
    assert (whole / "augmented.png").stat().st_size > 1000
    rates = {event.step: event.value for event in events.Scalars("train/lr")}
    assert max(rates.values()) <= 5e-3 + 1e-9


def test_a_finished_run_is_not_trained_again(tiny, whole, tmp_path):
    before = (whole / "backbone.safetensors").stat().st_mtime_ns
    run = prepare(tiny, whole, "workers=1", "checkpoint_every=5")
    assert fit.finished(run)
    fit.fit(run)
    assert (whole / "backbone.safetensors").stat().st_mtime_ns == before


def test_a_run_of_before_a_setting_was_there_had_its_default(tiny, whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    run, file = prepare(tiny, tmp_path), tmp_path / "run.json"
    said = json.loads(file.read_text())
    del said["strategy"]
    said["monitor_every"] = 7  # written by a version that did not let it differ
    file.write_text(json.dumps(said))
    assert fit.finished(run)
    assert changes(prepare(tiny, tmp_path, "strategy=fsdp", "norms_every=0")) == ["strategy: ddp -> fsdp"]


def test_a_run_is_the_same_wherever_its_folder_and_its_images_stand(tiny, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "elsewhere" / "run")
    root = tmp_path / "mount"
    shutil.copytree(Path(tiny.root), root, symlinks=True)
    moved = replace(tiny, root=str(root))
    assert fit.finished(prepare(moved, tmp_path / "elsewhere" / "run"))
    away = replace(tiny, root=str(tmp_path / "not-mounted"))
    assert fit.finished(prepare(away, tmp_path / "elsewhere" / "run"))
    added = next((root / "imagenet" / "train").rglob("*.JPEG"))
    shutil.copy(added, added.with_name("added.JPEG"))
    (change,) = changes(prepare(moved, tmp_path / "elsewhere" / "run"))
    assert change.startswith("images of train: ")
    with pytest.raises(UserError, match=r"other settings \(images of train: \w+ -> \w+\)"):
        fit.fit(prepare(moved, tmp_path / "elsewhere" / "run"))


def test_an_interrupted_run_goes_on_where_its_images_were_moved(tiny, whole, tmp_path):
    root = tmp_path / "mount"
    shutil.copytree(Path(tiny.root), root, symlinks=True)
    die_at(prepare(tiny, tmp_path / "run"), 7)
    shutil.move(tmp_path / "run", tmp_path / "moved")
    fit.fit(prepare(replace(tiny, root=str(root)), tmp_path / "moved"))
    assert same_bits(tmp_path / "moved", whole)


def test_initial_weights_may_be_moved_with_their_runs(tmp_path):
    settings = {"start_from": "runs/full/dinov2-vitl14_reg4/seed0/last.ckpt"}
    moved = {"start_from": "/new/runs/full/dinov2-vitl14_reg4/seed0/last.ckpt"}
    assert _same("start_from", settings, moved)
    assert not _same("start_from", settings, {"start_from": "runs/full/dinov2-vitl14_reg4/seed1/last.ckpt"})
    assert not _same("start_from", settings, {"start_from": ""})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=9), values, max_size=3),
    max_leaves=9,
)


@settings_of_hypothesis(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_description_of_another_shape_is_told_in_a_line(tiny, whole, tmp_path, data):
    """run.json torn, of another kind, with keys missing or values of other types."""
    kept = (whole / "run.json").read_bytes()
    values = json.loads(kept)
    key = st.sampled_from(sorted(values))
    made = data.draw(
        st.integers(0, len(kept) - 2).map(lambda end: kept[:end])
        | st.binary(max_size=30)
        | JSON.map(lambda value: json.dumps(value).encode())
        | st.tuples(key, JSON).map(lambda pair: json.dumps({**values, pair[0]: pair[1]}).encode())
        | key.map(lambda name: json.dumps({k: v for k, v in values.items() if k != name}).encode())
    )
    (tmp_path / "run.json").write_bytes(made)
    lines = changes(prepare(tiny, tmp_path))
    assert isinstance(lines, list)
    assert all("\n" not in line and len(line) < 250 for line in lines)


def test_another_runs_folder_is_refused_and_kept(tiny, whole):
    before = sorted((path.name, path.stat().st_mtime_ns) for path in whole.iterdir())
    with pytest.raises(UserError, match=r"other settings \(lr: 0.005 -> 0.1\).*FORCE=1"):
        fit.fit(prepare(tiny, whole, "lr=0.1"))
    assert sorted((path.name, path.stat().st_mtime_ns) for path in whole.iterdir()) == before


def test_force_begins_anew_but_only_when_the_command_is_right(tiny, tmp_path):
    run = prepare(tiny, tmp_path / "run")
    fit.fit(run)
    with pytest.raises(UserError, match="above the 192 images"):
        fit.fit(prepare(tiny, run.folder, "batch_size=500"), force=True)
    assert fit.finished(run)
    longer = prepare(tiny, run.folder, "epochs=1")
    fit.fit(longer, force=True)
    assert fit.finished(longer)


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_in_which_another_process_trains_is_refused_and_kept(tiny, whole, tmp_path, monkeypatch, force):
    monkeypatch.setattr(locks, "PATIENCE", 0.0)
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "backbone.safetensors").unlink()
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "run").iterdir())
    run = prepare(tiny, tmp_path / "run", *(["epochs=1"] if force else []))
    told = rf"{tmp_path}/run is in use by process {os.getpid()} on host .* since 20.*; wait for its end"
    with locks.held(run.folder), pytest.raises(UserError, match=told):
        fit.fit(run, force=force)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "run").iterdir()) == before
    fit.fit(run, force=force)
    assert fit.finished(run)


def test_force_does_not_remove_the_folder_of_an_evaluation_at_work(tiny, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.0)
    shutil.copytree(whole, tmp_path / "run")
    run, cell = prepare(tiny, tmp_path / "run", "epochs=1"), tmp_path / "run" / "imagenet_linear"
    with locks.held(cell):
        atomic.write_text(cell / "last.ckpt", "of a head")
        with pytest.raises(UserError, match="imagenet_linear is in use by process"):
            fit.fit(run, force=True)
    assert (cell / "last.ckpt").exists()
    fit.fit(run, force=True)
    assert not cell.exists()


def test_a_broken_description_is_told(tiny, whole, tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json is not readable.*FORCE=1"):
        fit.fit(prepare(tiny, tmp_path))


class PoisonAt(Callback):
    """Puts an infinity into a weight before a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, module, *_):
        if trainer.global_step == self.step:
            module.backbone.norm.weight.data[0] = float("inf")


def test_a_bad_loss_stops_with_its_step_and_keeps_the_good_checkpoint(tiny, whole, tmp_path):
    run = prepare(tiny, tmp_path / "run")
    with pytest.raises(TrainingStopped, match=r"the loss of step 5 is (nan|inf)"):
        fit.fit(run, [PoisonAt(4)])
    checkpoint = torch.load(run.folder / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    assert all(torch.isfinite(value).all() for value in checkpoint["state_dict"].values() if value.is_floating_point())
    fit.fit(run)
    assert same_bits(run.folder, whole)


class FullDiskAt(Callback):
    """From a step on the next checkpoint is written to a device that is always full."""

    def __init__(self, step, folder):
        self.step, self.temporary = step, atomic.temporary_of(folder / "last.ckpt")

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            self.temporary.symlink_to("/dev/full")


def test_a_full_disk_loses_no_checkpoint(tiny, whole, tmp_path):
    run = prepare(tiny, tmp_path / "run")
    with pytest.raises(UserError, match=r"cannot write .*last\.ckpt: No space left on device; make room"):
        fit.fit(run, [FullDiskAt(4, run.folder)])
    assert torch.load(run.folder / "last.ckpt", weights_only=True)["global_step"] == 3
    assert not [path for path in run.folder.iterdir() if path.suffix == ".tmp"]
    fit.fit(run)
    assert same_bits(run.folder, whole)


@pytest.fixture
def spoilt(tiny, tmp_path):
    """A copy of the data in which files can be broken."""
    root = tmp_path / "spoilt"
    shutil.copytree(Path(tiny.root) / "imagenet", root / "imagenet")
    return replace(tiny, name="spoilt", root=str(root)), sorted((root / "imagenet" / "train").rglob("*.JPEG"))


def test_above_one_percent_of_unreadable_images_training_stops(spoilt, tmp_path):
    data, files = spoilt
    files[5].write_bytes(files[5].read_bytes()[:100])
    with pytest.raises(DataError, match=rf"1 of 96 images are unreadable, above 1%: first {files[5]}"):
        fit.fit(prepare(data, tmp_path / "run"))
    assert (tmp_path / "run" / "unreadable.txt").read_text() == f"{files[5]}\n"


def test_below_one_percent_they_are_skipped_and_reported(spoilt, tmp_path, monkeypatch):
    from regvit_lightning.pretrain.unreadable import Unreadable

    data, files = spoilt
    files[5].write_bytes(b"")
    monkeypatch.setattr(Unreadable, "LIMIT", 0.02)
    fit.fit(prepare(data, tmp_path / "run"))
    assert (tmp_path / "run" / "unreadable.txt").read_text() == f"{files[5]}\n"
    assert (tmp_path / "run" / "backbone.safetensors").exists()


def test_data_smaller_than_a_batch(tiny, tmp_path):
    with pytest.raises(SettingsError, match="batch_size=500 is above the 192 images"):
        fit.fit(prepare(tiny, tmp_path / "run", "batch_size=500"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder(tiny, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot write"):
        fit.fit(prepare(tiny, tmp_path / "locked" / "run"))


def test_a_file_in_the_way_of_the_folder(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file"):
        fit.fit(prepare(tiny, tmp_path / "file" / "run"))


def test_atomic_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    atomic.write_text(path, "old")

    def broken(temporary):
        temporary.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        atomic.write(path, broken)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_half_written_is_removed(tiny, whole, tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    run = prepare(tiny, tmp_path)
    left, alive = (atomic.temporary_of(tmp_path / "last.ckpt", process) for process in (gone.pid, os.getppid()))
    theirs, forgotten = (tmp_path / f".{name}.node7.{gone.pid}.tmp" for name in ("last.ckpt", "norms.png"))
    for file in (left, alive, theirs, forgotten):
        file.write_bytes(b"half")
    os.utime(forgotten, (time.time() - 2 * 86400,) * 2)
    with fit.claimed(run, force=False):
        pass
    assert not left.exists()
    assert alive.exists()
    assert theirs.exists()  # perhaps a process of that number runs on the other host
    assert not forgotten.exists()


# Losses of the first ten steps, fp32, one thread: python -m pytest tests/pretrain/test_fit.py -k golden prints them.
GOLDEN = [2.80998, 2.71221, 2.82947, 2.81559, 2.85361, 2.87695, 2.75145, 2.79064, 2.79405, 2.83587]


@pytest.mark.skipif(not torch.__version__.startswith("2.15."), reason="made with the versions of constraints.txt")
def test_golden_losses(tiny, tmp_path):
    assert first_losses(prepare(tiny, tmp_path / "run", "precision=32-true")) == pytest.approx(GOLDEN, abs=2e-3)
