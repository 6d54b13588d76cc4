"""Settings `trainer.<name>=<value>` of a recipe: options of Lightning's Trainer that are left to the user."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler

from regvit_lightning.errors import one_line
from regvit_lightning.settings import SettingsError, check, nearest, word

# Options that the suite sets itself, and what to use instead.
OWN = {
    "accelerator": "the suite takes the GPU where there is one",
    "accumulate_grad_batches": "it follows from batch_size and device_batch",
    "barebones": "give logger=none, norms_every=0 and monitor_every=0",
    "callbacks": "give them to pretrain.fit.fit in Python",
    "default_root_dir": "everything of a run lies in its own folder below runs=",
    "devices": "give devices= (GPUS= of make)",
    "enable_checkpointing": "a run always has its last.ckpt; give checkpoint_every=",
    "enable_model_summary": "the program's first line says what is trained",
    "enable_progress_bar": "the suite has one of its own",
    "log_every_n_steps": "give log_every=",
    "logger": "give logger=",
    "max_epochs": "give epochs=",
    "max_steps": "give steps=",
    "min_epochs": "give epochs=",
    "min_steps": "give steps=",
    "num_nodes": "give nodes= (NODES= of make)",
    "overfit_batches": "batches come from the run's own stream; give trainer.limit_train_batches=",
    "plugins": "the suite sets those for checkpoints and clusters",
    "precision": "give precision=",
    "strategy": "give strategy=",
    "use_distributed_sampler": "the suite shares the images out itself",
}
ALLOWED = tuple(name for name in inspect.signature(Trainer).parameters if name not in OWN)

# Allowed options that affect how a run is executed or when it stops, but not what it computes until then.
FREE = ("detect_anomaly", "fast_dev_run", "max_time", "profiler")

PROFILERS: dict[str, type[Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}


def check_options(options: Mapping[str, Any]) -> None:
    """Raise `SettingsError` unless every name is in `ALLOWED` and the profiler, if any, in `PROFILERS`."""
    for name, value in options.items():
        check(name not in OWN, f"trainer.{name}: {OWN.get(name)}")
        check(name in ALLOWED, f"trainer.{name}: Lightning's Trainer has no such option; {nearest(name, ALLOWED)}")
        profiler = name != "profiler" or value is None or value in PROFILERS
        check(profiler, f"trainer.profiler={value}: {nearest(str(value), PROFILERS)}")


def try_out(options: Mapping[str, Any]) -> None:
    """Raise `SettingsError` unless Lightning accepts the values."""
    if not options:
        return
    try:
        Trainer(accelerator="cpu", logger=False, **options)
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise SettingsError(f"{in_words(options)}: Lightning refuses it: {one_line(error)}") from None


def with_reports(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Options in which the profiler, if any, writes its report to `folder` as `fit-profile*.txt`."""
    if not options.get("profiler"):
        return dict(options)
    kind = PROFILERS[options["profiler"]]
    return {**options, "profiler": kind(dirpath=folder, filename="profile")}  # type: ignore[call-arg]


def in_words(options: Mapping[str, Any]) -> str:
    """Options in command-line form: `trainer.max_time=00:01:00:00 trainer.profiler=simple`."""
    return " ".join(f"trainer.{name}={word(value)}" for name, value in options.items())
