"""Loggers of a run: TensorBoard, CSV files, Weights & Biases, or none."""

import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from regvit_lightning.runtime import atomic
from regvit_lightning.settings import check, nearest

KINDS = ("tensorboard", "csv", "wandb", "none")
PROJECT = "regvit-lightning"  # at Weights & Biases, unless WANDB_PROJECT is set


def check_kind(kind: str) -> None:
    """Raise `SettingsError` unless `kind` is one of `KINDS` and its packages are installed."""
    check(kind in KINDS, f"logger={kind}: {nearest(kind, KINDS)}")
    missing = kind == "wandb" and find_spec("wandb") is None
    check(not missing, "logger=wandb: the package wandb is not installed; pip install wandb, or give another logger")


def build(kind: str, folder: Path) -> Logger | bool:
    """Build the Lightning logger of a run, which writes below `folder`; False for `none`.

    TensorBoard's event files are written to `log/`; `metrics.csv` to `log/`, or to `log_1/` and so on for a resumed
    run: Lightning's logger would remove the file of the first part. At Weights & Biases, a resumed run is continued.

    Raises:
        SettingsError: see `check_kind`.
    """
    check_kind(kind)
    if kind == "tensorboard":
        return TensorBoardLogger(folder, name="", version="log", default_hp_metric=False)
    if kind == "csv":
        versions = ("log", *(f"log_{number}" for number in range(1, 1000)))
        return CSVLogger(folder, name="", version=next(v for v in versions if not (folder / v).exists()))
    if kind == "wandb":
        project, identity = os.environ.get("WANDB_PROJECT", PROJECT), _identity(folder / "wandb.json")
        name = f"{folder.parent.name}-{folder.name}"
        return WandbLogger(name=name, save_dir=folder, id=identity, project=project, resume="allow")
    return False


def describe(logger: Logger | None, values: Mapping[str, Any], step: int) -> None:
    """Store resolved settings with the log, as text in TensorBoard."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_text("settings", f"```json\n{json.dumps(values, indent=1)}\n```", step)
    elif logger is not None:
        logger.log_hyperparams(dict(values))


def show(logger: Logger | None, name: str, picture: npt.NDArray[np.uint8], step: int) -> None:
    """Log an image (H, W, 3) if the logger supports images."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, picture, step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [picture], step)


def _identity(file: Path) -> str:
    """Persistent id of the run, the same for as long as its folder exists."""
    try:
        identity = json.loads(file.read_text(encoding="utf-8"))["id"]
        if isinstance(identity, str) and identity.isalnum():
            return identity
    except (OSError, ValueError, TypeError, KeyError, RecursionError):  # none yet, or a file of another shape
        pass
    identity = uuid4().hex
    atomic.write_text(file, json.dumps({"id": identity}) + "\n")
    return identity
