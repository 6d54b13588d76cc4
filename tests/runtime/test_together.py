"""Trainings on two CPU processes: what one of them meets stops both, with one line and no wait."""

import os
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback

from benchmarks import command, terminal
from regvit_lightning.errors import UserError
from regvit_lightning.pretrain import fit
from regvit_lightning.runtime import atomic, hardware, together
from regvit_lightning.runtime.checkpoints import FiniteLoss, TrainingStopped
from regvit_lightning.settings import SettingsError
from tests.forked import Forked
from tests.pretrain.test_fit import die_at, prepare


class Meets(Callback):
    """A process meets a loss that is no number, or a full disk, when it has done some steps."""

    def __init__(self, rank, what, folder):
        self.rank, self.what, self.folder = rank, what, folder

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if self.what == "nan" and trainer.global_rank == self.rank and trainer.global_step == 3:
            real = module.training_step
            module.training_step = lambda *batch: real(*batch) * float("nan")

    def on_train_batch_end(self, trainer, module, outputs, batch, *_):
        if self.what == "full" and trainer.global_rank == self.rank and trainer.global_step == 4:
            atomic.temporary_of(self.folder / "last.ckpt", os.getpid()).symlink_to("/dev/full")


@dataclass
class Nothing:
    """No settings."""


def train(tiny, place, rank, what):
    """The program that trains 12 steps on two processes, one of which meets something."""

    def body(options, words):
        hardware.choose_accelerator("cpu", 2)
        run = prepare(tiny, place, "norms_every=0", "monitor_every=0", "logger=none", "precision=32-true")
        fit.fit(replace(run, devices=2), [Meets(rank, what, place)])

    sys.argv[1:] = []
    command.run("train", "", Nothing, body)


@pytest.mark.parametrize(
    ("rank", "what", "told"),
    [(1, "nan", "train: the loss of step 4 is nan; the last good"), (0, "full", "last.ckpt: No space left on device")],
)
def test_what_one_process_meets_stops_both_with_one_line(tiny, tmp_path, rank, what, told):
    process = Forked(train, tiny, tmp_path / "run", rank, what)
    errors = process.communicate(timeout=200)[1]
    assert process.returncode == 2
    assert "Traceback" not in errors, errors
    lines = [line for line in errors.splitlines() if line.startswith("train: ")]
    assert len(lines) == 1, lines
    assert told in lines[0]


def trainer_of(rank=0, world=1, agreed=False):
    """A Trainer that another process told something."""
    strategy = SimpleNamespace(
        reduce=lambda value, reduce_op: value,
        reduce_boolean_decision=lambda here, all: here or agreed,
        root_device=torch.device("cpu"),
        launcher=None,
    )
    return SimpleNamespace(strategy=strategy, world_size=world, global_rank=rank, is_global_zero=rank == 0)


def test_one_process_stops_with_its_error_and_without_one_goes_on():
    together.stop_if_any(trainer_of(), None)
    with pytest.raises(UserError, match="full"):
        together.stop_if_any(trainer_of(), UserError("full"))


def test_the_first_bad_loss_of_a_group_is_named():
    guard = FiniteLoss(10)
    guard.pending = [(3, torch.tensor(1.0)), (4, torch.tensor(float("inf"))), (5, torch.tensor(float("nan")))]
    with pytest.raises(TrainingStopped, match="the loss of step 4 is inf"):
        guard.check(trainer_of())
    guard.pending = [(7, torch.tensor(float("-inf"))), (8, torch.tensor(1.0))]
    with pytest.raises(TrainingStopped, match="the loss of step 7 is inf"):
        guard.check(trainer_of())
    guard.pending = [(9, torch.tensor(1.0))]
    guard.check(trainer_of())


def test_all_leave_the_process_group_and_only_the_first_goes_on(monkeypatch):
    for rank in (0, 1):
        calls = []
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "barrier", lambda calls=calls: calls.append("barrier"))
        monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda calls=calls: calls.append("destroy"))
        if rank:
            with pytest.raises(SystemExit) as stop:
                together.leave_helpers(first=False)
            assert stop.value.code == 0
        else:
            together.leave_helpers(first=True)
        assert calls == ["barrier", "destroy"]


def test_lines_are_said_by_the_first_process(monkeypatch, capsys):
    terminal.say_once("here")
    monkeypatch.setattr(hardware, "first_process", lambda: False)
    terminal.say_once("there")
    assert capsys.readouterr().out == "here\n"


def test_a_head_is_not_trained_on_devices_that_are_not_there(monkeypatch):
    from regvit_lightning.frozen import trainer
    from regvit_lightning.frozen.contract import RunOptions

    monkeypatch.setattr(hardware, "accelerator", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SettingsError, match="devices=2: this machine has 1"):
        trainer.fit(None, SimpleNamespace(stream=1), 1, RunOptions(devices=2))


@pytest.fixture(scope="module")
def stopped(tiny, tmp_path_factory):
    """A run that was interrupted at step 4 of 12, with a checkpoint of step 3."""
    run = prepare(tiny, tmp_path_factory.mktemp("runs") / "run", "logger=none", "norms_every=0", "monitor_every=0")
    die_at(run, 4)
    return run, torch.load(run.folder / "last.ckpt", weights_only=True)


VALUES = st.sampled_from([None, 1, -1.5, "x", [], {}, [1], {"a": 1}, torch.zeros(2)])


@settings_of_hypothesis(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_checkpoint_of_another_shape_is_told_in_a_line(stopped, data):
    run, good = stopped
    last = run.folder / "last.ckpt"
    kept = last.read_bytes()
    try:
        kind = data.draw(st.sampled_from(["torn", "bytes", "key", "missing", "whole"]))
        if kind == "torn":
            last.write_bytes(kept[: data.draw(st.integers(0, len(kept) - 1))])
        elif kind == "bytes":
            last.write_bytes(data.draw(st.binary(max_size=50)))
        elif kind == "whole":
            torch.save(data.draw(VALUES), last)
        else:
            keys = ["state_dict", "optimizer_states", "loops", "global_step", "epoch"]
            key = data.draw(st.sampled_from(keys))
            changed = {name: value for name, value in good.items() if name != key}
            if kind == "key":
                changed[key] = data.draw(VALUES)
            torch.save(changed, last)
        with pytest.raises((UserError, Reached)) as told:
            fit.fit(run, [StopAtOnce()])
        assert isinstance(told.value, Reached) or ("last.ckpt" in str(told.value) and "\n" not in str(told.value))
    finally:
        last.write_bytes(kept)


class Reached(BaseException):
    pass


class StopAtOnce(together.Callback):
    def on_train_start(self, *_):
        raise Reached


@pytest.mark.parametrize(
    ("changed", "told"),
    [({"optimizer_states": []}, "not enough values"), ({"global_step": 2}, "numbers of steps differ")],
)
def test_a_checkpoint_without_what_training_goes_on_from_is_refused(stopped, tmp_path, changed, told):
    run = replace(stopped[0], folder=tmp_path / "run")
    run.folder.mkdir()
    torch.save({**stopped[1], **changed}, run.folder / "last.ckpt")
    with pytest.raises(UserError, match=f"cannot continue from .*/last.ckpt: ValueError: .*{told}"):
        fit.fit(run, [StopAtOnce()])


def test_a_checkpoint_of_another_model_is_told_in_a_line(tiny, stopped, tmp_path):
    run = prepare(tiny, tmp_path / "run", "logger=none", "norms_every=0", "monitor_every=0", model="vitn_reg4")
    run.folder.mkdir()
    (run.folder / "last.ckpt").write_bytes((stopped[0].folder / "last.ckpt").read_bytes())
    with pytest.raises(UserError, match=r"cannot continue from .*/last.ckpt: RuntimeError: .*FORCE=1 to start again"):
        fit.fit(run)
