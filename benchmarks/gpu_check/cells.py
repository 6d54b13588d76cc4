"""Cells of tasks as users run them, on small rendered data: the time of the whole over that of its forward passes."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.check import Check
from benchmarks.gpu_check.lines import Line, guarded
from benchmarks.speed.timing import timed_cell
from regvit_lightning import settings
from regvit_lightning.models import sources

# In the order of their value. Settings that only shorten: a few steps, and what the few images allow.
TASKS = {
    "imagenet_knn": ("neighbours=[10,20]",),
    "lost_voc07": (),
    "nyud_linear1": (),
    "imagenet_linear": ("batch_size=256",),
    "ade20k_linear": (),
    "artifact_report": ("images=64", "detailed=16", "figures=false", "probes.train_images=64", "probes.local_images=4"),
    "patch_knn_ade20k": ("memory=100000",),
    "spair71k": (),
    "davis2017": (),
    "tokencut_voc07": (),
    "register_discovery_voc07": (),
}
STEPS = {"steps": 8, "warmup_steps": 1, "sig_warmup": 1}
WORKERS = 8  # of the many small cells; starting more takes longer than they save


def cell(task: str, check: Check) -> Iterator[Line]:
    """A line for the cell of a task."""
    title = f"cell / forward, {task}, {check.scale.evaluated}"
    yield from guarded(title, lambda: _cell(task, check, title))


def _cell(task: str, check: Check, title: str) -> Iterator[Line]:
    module, chosen = _settings(task, check)
    size = getattr(chosen, "untrained_size", 224)
    backbone = sources.load_backbone(f"random-{check.scale.evaluated}", Path("runs"), image_size=size)
    found = timed_cell(module, backbone, check.data(), chosen)
    source = f"{found.whole:.1f} s whole, {found.alone:.1f} s forward of {found.images:,} images, crops or windows"
    facts = {"seconds": found.whole, "forward_seconds": found.alone, "images": found.images}
    yield Line(title, found.ratio, source=source, facts=facts)


def _settings(task: str, check: Check) -> Any:
    """Module and settings of a task: its protocol, shortened."""
    variant = check.scale.variant
    usual = settings.load_settings("tasks", task, variant)[1]
    has = {field.name for field in dataclasses.fields(usual)}
    words = [f"{name}={value}" for name, value in STEPS.items() if name in has]
    words += [f"workers={min(WORKERS, check.cores)}", *TASKS[task]]
    return settings.load_settings("tasks", task, variant, words)
