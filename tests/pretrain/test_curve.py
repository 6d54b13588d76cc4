"""The curve of a run as CSV."""

import csv
import os

import pytest

from regvit_lightning.pretrain import curve, fit
from regvit_lightning.pretrain.curve import Curve
from tests.pretrain.test_fit import StopAt, prepare


def read(path):
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


class Losses(StopAt):
    """Keeps the loss of every micro-batch."""

    def __init__(self):
        self.found = []

    def on_train_batch_end(self, trainer, module, outputs, *_):
        self.found.append(float(outputs["loss"]))


def test_a_row_is_the_mean_of_the_steps_since_the_one_before(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(curve, "ROWS", 3)  # 12 steps: every fourth
    path, losses = tmp_path / "curves" / "a.csv", Losses()
    fit.fit(prepare(tiny, tmp_path / "run"), [losses, Curve(path)])
    rows = read(path)
    assert list(rows[0]) == ["step", "loss", "lr"]
    assert [row["step"] for row in rows] == [4, 8, 12]
    for row, first in zip(rows, (0, 4, 8), strict=True):
        assert row["loss"] == pytest.approx(sum(losses.found[first : first + 4]) / 4, rel=1e-5)


@pytest.mark.parametrize("device_batch", [16, 8])
def test_an_interrupted_run_leaves_the_file_of_a_whole_one(tiny, tmp_path, monkeypatch, device_batch):
    monkeypatch.setattr(curve, "ROWS", 4)  # every third step, while checkpoints are those of every second
    words = ["checkpoint_every=2", f"device_batch={device_batch}"]
    whole, broken = tmp_path / "whole.csv", tmp_path / "broken.csv"
    fit.fit(prepare(tiny, tmp_path / "whole", *words), [Curve(whole)])
    run = prepare(tiny, tmp_path / "broken", *words)
    for step in (4, 7, 9):  # after 9 the file is ahead of the checkpoint of step 8
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit.fit(run, [Curve(broken), StopAt(step)])
    fit.fit(run, [Curve(broken)])
    assert broken.read_text() == whole.read_text()


def test_a_long_run_keeps_few_rows_and_a_late_column_stays_empty_before():
    rows = [{"step": 1, "train/loss": 2.0}, {"step": 2, "train/loss": 1.0, "train/entropy": 0.25}]
    assert curve.table(rows) == "step,loss,entropy\n1,2,\n2,1,0.25\n"


def test_a_folder_that_cannot_be_written_stops_before_the_training(tiny, tmp_path):
    from tests.benchmarks.test_chain import QUICK, mistake

    (tmp_path / "results").write_text("")
    words = ["model=vitn_reg2", f"data={tiny.root}/imagenet", f"runs={tmp_path / 'runs'}", *QUICK]
    assert "cannot write" in mistake("pretrain", *words, f"results={tmp_path / 'results'}")
    assert not os.path.exists(tmp_path / "runs")
