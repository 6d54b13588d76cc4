"""Options of Lightning's Trainer as words: which are taken, which are refused, and what a shortened run leaves."""

import inspect
import re
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, timer

from regvit_lightning.pretrain import fit, trainer_options
from regvit_lightning.pretrain.curve import Curve
from regvit_lightning.pretrain.run import changes
from regvit_lightning.settings import SettingsError
from tests.pretrain import test_openclip
from tests.pretrain.dinov2 import test_run
from tests.pretrain.test_fit import StopAt, prepare, same_bits
from tests.pretrain.test_norms_callback import watch


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """An uninterrupted run of 12 steps."""
    run = prepare(tiny, tmp_path_factory.mktemp("runs") / "whole")
    fit.fit(run)
    return run


class Seen(Callback):
    """Keeps the Trainer and the steps of its run."""

    def __init__(self):
        self.steps = []

    def on_train_start(self, trainer, *_):
        self.trainer = trainer

    def on_train_batch_end(self, trainer, *_):
        self.steps.append(trainer.global_step)


def test_every_option_of_the_trainer_is_taken_or_refused():
    names = set(inspect.signature(Trainer).parameters)
    assert names == {*trainer_options.OWN, *trainer_options.ALLOWED}
    assert set(trainer_options.FREE) < set(trainer_options.ALLOWED)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainer.limit_batch=3", "trainer.limit_batch: Lightning's Trainer has no such option; nearest: limit_val"),
        ("trainer.max_epochs=3", "trainer.max_epochs: give epochs="),
        ("trainer.devices=2", "trainer.devices: give devices="),
        ("trainer.overfit_batches=2", "trainer.overfit_batches: batches come from the run's own stream"),
        ("trainer.profiler=simpel", "trainer.profiler=simpel: nearest: simple"),
        ("trainer=simple", "trainer=simple: expected a mapping"),
    ],
)
def test_what_is_refused_says_what_to_give(tiny, tmp_path, word, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        prepare(tiny, tmp_path, word)


def test_a_value_that_lightning_refuses_is_told_before_anything_is_written(tiny, tmp_path):
    for word in ("trainer.limit_train_batches=abc", "trainer.max_time=soon", "trainer.limit_train_batches=-3"):
        run = prepare(tiny, tmp_path / "run", word)
        with pytest.raises(SettingsError, match=rf"{word}: Lightning refuses it: ") as error:
            fit.fit(run)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_gradient_of_dinov2_is_clipped_by_its_own_setting(tiny, tmp_path):
    with pytest.raises(SettingsError, match=r"trainer\.gradient_clip_val: each part of this recipe"):
        test_run.prepare(tiny, tmp_path, "trainer.gradient_clip_val=1.0")
    run, seen = prepare(tiny, tmp_path / "run", "trainer.gradient_clip_val=0.5", "epochs=1"), Seen()
    fit.fit(run, [seen])
    assert seen.trainer.gradient_clip_val == 0.5


def test_a_limited_run_stops_there_exports_nothing_and_is_another_run(tiny, tmp_path, whole):
    run, seen = prepare(tiny, tmp_path / "run", "trainer.limit_train_batches=5"), Seen()
    assert fit.fit(run, [seen]) is None
    assert seen.steps == [1, 2, 3, 4, 5]
    assert not (run.folder / "backbone.safetensors").exists()
    assert not fit.finished(run)
    assert torch.load(run.folder / "last.ckpt", weights_only=True)["global_step"] == 5
    again = Seen()
    assert fit.fit(run, [again]) is None  # the same command finds it done, and trains no further
    assert again.steps == []
    assert changes(prepare(tiny, run.folder)) == ["trainer: {'limit_train_batches': 5} -> {}"]
    assert not fit.finished(prepare(tiny, whole.folder, "trainer.limit_train_batches=5"))


def test_a_limit_that_is_never_reached_leaves_a_finished_run(tiny, tmp_path, whole):
    run = prepare(tiny, tmp_path / "run", "trainer.limit_train_batches=1.0")
    assert fit.fit(run) == run.folder / "backbone.safetensors"
    assert fit.finished(run)
    assert same_bits(run.folder, whole.folder)


def test_a_run_whose_time_is_up_goes_on_with_more_and_ends_with_the_same_bits(tiny, tmp_path, whole, monkeypatch):
    class Clock(Callback):
        now = 0.0

        def on_train_batch_start(self, *_):
            Clock.now += 1

    monkeypatch.setattr(timer, "time", SimpleNamespace(monotonic=lambda: Clock.now))
    run, seen = prepare(tiny, tmp_path / "run", "trainer.max_time=00:00:00:04", "checkpoint_every=100"), Seen()
    assert fit.fit(run, [Clock(), seen]) is None
    assert seen.steps == [1, 2, 3, 4]
    assert torch.load(run.folder / "last.ckpt", weights_only=True)["global_step"] == 4
    assert fit.fit(prepare(tiny, run.folder)) is not None
    assert same_bits(run.folder, whole.folder)


@pytest.mark.parametrize("recipe", ["deit3", "openclip", "dinov2"])
def test_a_fast_run_goes_through_everything_and_keeps_nothing(tiny, tmp_path, recipe):
    make = {"deit3": prepare, "openclip": test_openclip.prepare, "dinov2": test_run.prepare}[recipe]
    run, seen = make(tiny, tmp_path / "run", "trainer.fast_dev_run=2"), Seen()
    watching = [Curve(tmp_path / "curve.csv"), *([watch(run)] if recipe == "deit3" else [])]
    assert fit.fit(run, [seen, *watching]) is None
    assert seen.steps == [1, 2]
    assert list(tmp_path.iterdir()) == []


def test_a_fast_run_leaves_a_run_in_its_folder_as_it_is(tiny, tmp_path, whole):
    run = prepare(tiny, tmp_path / "run")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit.fit(run, [watch(run), StopAt(4)])
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    trial = prepare(tiny, run.folder, "trainer.fast_dev_run=true", "lr=0.1")  # with other settings, too
    seen = Seen()
    assert fit.fit(trial, [seen, watch(trial)], force=True) is None
    assert seen.steps == [1]
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before
    fit.fit(run)
    assert same_bits(run.folder, whole.folder)


def test_a_profile_lies_in_the_folder_and_changes_nothing(tiny, tmp_path, whole):
    run = prepare(tiny, tmp_path / "run", "trainer.profiler=simple", "trainer.detect_anomaly=true")
    fit.fit(run)
    (report,) = run.folder.glob("fit-profile*.txt")
    assert "run_training_batch" in report.read_text()
    assert same_bits(run.folder, whole.folder)
    assert fit.finished(prepare(tiny, run.folder))
