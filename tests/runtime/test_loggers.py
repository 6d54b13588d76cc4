"""Loggers by name: where each of them writes, and what a continued run keeps."""

import csv

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from regvit_lightning.runtime import loggers
from regvit_lightning.settings import SettingsError


def log(kind, folder, value, step):
    """One entry of a run's logger."""
    logger = loggers.build(kind, folder)
    loggers.describe(logger, {"lr": 0.5, "blocks": [1, 4]}, step)
    loggers.show(logger, "picture", np.full((4, 6, 3), 7, np.uint8), step)
    logger.log_metrics({"run/x": value}, step)
    logger.save()
    logger.finalize("success")
    return logger


def test_tensorboard_has_texts_pictures_and_no_score_of_its_own(tmp_path):
    logger = log("tensorboard", tmp_path, 2.0, 3)
    assert isinstance(logger, TensorBoardLogger)
    logger.log_hyperparams({"lr": 0.5})  # as a callback of the user's may do
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "log")).Reload()
    assert events.Tags()["scalars"] == ["run/x"]  # and no hp_metric of -1
    assert [(event.step, event.value) for event in events.Scalars("run/x")] == [(3, 2.0)]
    (text,) = events.Tensors("settings/text_summary")
    assert b'"lr": 0.5' in text.tensor_proto.string_val[0]
    (picture,) = events.Images("picture")
    assert (picture.step, picture.width, picture.height) == (3, 6, 4)


def test_csv_of_a_continued_run_keeps_the_first_part(tmp_path):
    assert isinstance(log("csv", tmp_path, 1.0, 0), CSVLogger)
    log("csv", tmp_path, 2.0, 5)
    for name, row in (("log", ("0", "1.0")), ("log_1", ("5", "2.0"))):
        with (tmp_path / name / "metrics.csv").open(newline="") as file:
            assert [(line["step"], line["run/x"]) for line in csv.DictReader(file)] == [row]
        assert "lr: 0.5" in (tmp_path / name / "hparams.yaml").read_text()


def test_none_writes_nothing(tmp_path):
    assert loggers.build("none", tmp_path) is False
    loggers.describe(None, {"lr": 0.5}, 0)
    loggers.show(None, "picture", np.zeros((4, 6, 3), np.uint8), 0)
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_none_of_them():
    with pytest.raises(SettingsError, match="logger=tensorbord: nearest: tensorboard"):
        loggers.check_kind("tensorbord")


def test_weights_and_biases_must_be_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="logger=wandb: the package wandb is not installed; pip install wandb, or"):
        loggers.build("wandb", tmp_path)


def test_weights_and_biases_goes_on_under_the_same_name(monkeypatch, tmp_path):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")

    def facts(folder):
        run = log("wandb", folder, 0.0, 0).experiment
        wandb.finish()
        return run.id, run.name, run.project

    folder = tmp_path / "deit3-vitn_reg4" / "seed0"
    first = facts(folder)
    assert first[1:] == ("deit3-vitn_reg4-seed0", loggers.PROJECT)
    assert facts(folder) == first
    assert facts(tmp_path / "other" / "seed0")[0] != first[0]
