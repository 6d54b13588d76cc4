"""What a run logs beside its losses, against closed forms; with which logger makes no difference to the weights."""

import csv
import json
import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from regvit_lightning.pretrain import fit, run_log
from regvit_lightning.pretrain.run_log import gradient_norm
from regvit_lightning.settings import SettingsError
from tests.pretrain.test_fit import prepare, same_bits

PLAIN = ["cutmix=0", "mixup=0", "drop_path=0", "precision=32-true"]  # nothing is drawn per batch of a device


class Norms(Callback):
    """The gradient's norm before every update, in float64."""

    def __init__(self):
        self.values = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        squares = [p.grad.double().square().sum() for p in module.parameters() if p.grad is not None]
        self.values.append(float(torch.stack(squares).sum().sqrt()))


@pytest.fixture(scope="module")
def logged(tiny, tmp_path_factory):
    """A run of 12 steps that logs every second one, its events, and the norm of every step's gradient."""
    run, norms = prepare(tiny, tmp_path_factory.mktemp("runs") / "run", *PLAIN), Norms()
    fit.fit(run, [norms])
    return run, EventAccumulator(str(run.folder / "log")).Reload(), norms.values


def test_norms_by_hand():
    module = nn.Linear(2, 1)
    module.weight.grad, module.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
    assert gradient_norm(module) == 5
    module.bias.grad = None
    assert gradient_norm(module) == 3


def test_every_second_step_has_the_norm_of_its_gradient(logged):
    _, events, norms = logged
    found = [(event.step, event.value) for event in events.Scalars("run/gradient_norm")]
    assert [step for step, _ in found] == [2, 4, 6, 8, 10, 12]
    assert [value for _, value in found] == pytest.approx(norms[1::2], rel=1e-4)


def test_an_accumulated_step_has_one_norm_that_of_all_its_images(tiny, tmp_path, logged):
    run = prepare(tiny, tmp_path / "run", *PLAIN, "device_batch=8")
    fit.fit(run)
    events = EventAccumulator(str(run.folder / "log")).Reload()
    found, whole = ([event.value for event in log.Scalars("run/gradient_norm")] for log in (events, logged[1]))
    assert len(found) == 6
    assert found[0] == pytest.approx(whole[0], rel=1e-3)


def test_speed_is_images_over_time(tiny, tmp_path, monkeypatch):
    class Clock:
        now = 0.0

    class Tick(Callback):
        def on_train_batch_start(self, *_):
            Clock.now += 0.25

    monkeypatch.setattr(run_log.time, "perf_counter", lambda: Clock.now)
    run = prepare(tiny, tmp_path / "run", *PLAIN)
    fit.fit(run, [Tick()])
    events = EventAccumulator(str(run.folder / "log")).Reload()
    assert [event.value for event in events.Scalars("run/images_per_second")] == [16 / 0.25] * 6


def test_memory_is_that_of_this_process(logged):
    values = [event.value for event in logged[1].Scalars("run/memory_mib")]
    assert len(values) == 6
    assert 100 < values[0] <= values[-1] < 100_000
    assert all(math.isfinite(value) for value in values)


def test_the_settings_stand_in_the_log_as_text_and_no_score_is_made_up(logged):
    run, events, _ = logged
    (text,) = events.Tensors("settings/text_summary")
    words = json.loads(text.tensor_proto.string_val[0].decode().removeprefix("```json").removesuffix("```"))
    assert (words["model"], words["recipe"], words["workers"]) == ("vitn_reg2", "deit3", 0)
    assert words["lr"] == run.settings.lr
    assert "hp_metric" not in events.Tags()["scalars"]
    assert "train/lr" in events.Tags()["scalars"]


@pytest.mark.parametrize("kind", ["csv", "none"])
def test_another_logger_changes_no_bit_and_a_finished_run_stays_finished(tiny, tmp_path, logged, kind):
    run = prepare(tiny, tmp_path / "run", *PLAIN, f"logger={kind}")
    fit.fit(run)
    assert same_bits(run.folder, logged[0].folder)
    assert fit.finished(prepare(tiny, run.folder, *PLAIN))
    assert (run.folder / "augmented.png").stat().st_size > 1000
    assert (run.folder / "log").exists() == (kind == "csv")
    if kind == "csv":
        with (run.folder / "log" / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert {"train/loss", "train/lr", "run/images_per_second", "monitor/knn_top1"} <= set(rows[0])


def test_a_logger_that_is_not_there_is_named_at_once(tiny, tmp_path):
    with pytest.raises(SettingsError, match="logger=tensorbord: nearest: tensorboard"):
        prepare(tiny, tmp_path / "run", "logger=tensorbord")
