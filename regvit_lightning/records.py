"""Result of one cell of the grid: one small JSON file with everything needed to verify and compare it."""

import json
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC
from functools import cache
from pathlib import Path
from typing import Any

from regvit_lightning import settings, statistics
from regvit_lightning.errors import UserError, one_line
from regvit_lightning.models import names
from regvit_lightning.runtime import atomic, git
from regvit_lightning.values import patterns, strict_json
from regvit_lightning.version import __version__

SCHEMA = 4
# Fields missing from records of older schemas, by schema; those records can be read but are stale for their cell.
ADDED: dict[int, dict[str, Any]] = {
    2: {"scores": {}, "source": "", "digests": {}},
    3: {"source": "", "digests": {}},
}
AGAIN = "remove it and evaluate the cell again"
# Settings of tasks and recipes that earlier records lack, and what those were made with.
EARLIER: dict[str, Any] = {
    "augment": True,
    "draft": False,
    "keep_every": 0,
    "pooling": "cls",
    "register_means": "",
    **dict.fromkeys(("register_gram", "register_koleo", "register_disjoint", "register_dropout"), 0.0),
}
FREE_TO_CHANGE = {"workers", "device_batch", "figures"}  # settings that change how a cell is run, not its result
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Record:
    """Result of one cell: model × task × seed.

    Attributes:
        model: model id (`deit3-vitn_reg4`).
        task: task name (`imagenet_linear`).
        data: name of the data.
        data_root: folder of the data; empty for rendered data and for data whose number of images is published.
        seed: seed of the pretraining run and of the evaluation.
        metrics: values by metric name.
        columns: metrics shown in tables, each with `better` (+1 where higher is better, -1 where lower is), `unit`
            and `decimals`.
        intervals: 95 % bootstrap intervals, for metrics with per-image scores.
        per_class: scores by class name, where the task has them; null for a class that does not occur.
        floors: metrics reached without a backbone, by name of the baseline.
        images: number of test images.
        protocol: details of the protocol that affect comparability.
        footnote: keys of `protocol` that tables show.
        settings: resolved settings of the task.
        layout: the data settings that determine which images are read and what their labels mean.
        backbone: registers, width, depth, patch size and input size of the model, and the settings of its recipe
            (`trained_with`) where its file holds them.
        weights: fingerprint of the model's weights.
        provenance: commit (the version of an installed package), dirty, date, versions, device, seconds,
            peak_memory_mib; vectors_read, of how many images another task had computed the features.
        scores: `file`, the file beside the record with the per-image scores, and its `digest`; empty where there are
            none.
        source: file or folder that the model was given as; empty for a model that its name alone identifies.
        digests: digest of each split of the data, see `data/digest.py`; empty where unknown.
        schema: version of the record format.
    """

    model: str
    task: str
    data: str
    data_root: str
    seed: int
    metrics: dict[str, float]
    columns: dict[str, dict[str, Any]]
    intervals: dict[str, list[float]]
    per_class: dict[str, float | None]
    floors: dict[str, dict[str, float]]
    images: int
    protocol: dict[str, Any]
    footnote: list[str]
    settings: dict[str, Any]
    layout: dict[str, Any]
    backbone: dict[str, Any]
    weights: str
    provenance: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, str] = field(default_factory=dict)
    source: str = ""
    digests: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def path(self, results: Path) -> Path:
        """Path of the record below `results`."""
        return path(results, self.data, self.model, self.task, self.seed)

    def save(self, results: Path) -> Path:
        """Write the record atomically and return its path; control characters of names become spaces.

        Raises:
            UserError: the folder cannot be written, or a value is not finite, which JSON does not have.
        """
        target = self.path(results)
        try:
            text = json.dumps(strict_json.cleaned(asdict(self)), indent=1, allow_nan=False)
        except ValueError as error:
            raise UserError(f"{self.task} of {self.model}: not saved, as a value is not finite ({error})") from None
        atomic.write_text(target, text + "\n")
        return target


def path(results: Path, data: str, model: str, task: str, seed: int) -> Path:
    """Path of a record: `<results>/<data>/cells/<model>/<task>.seed<k>.json`.

    Raises:
        UserError: a name that is not safe in a path, so that the record would lie outside of `results`.
    """
    names.check_id(model, "the id of a model,")
    names.check_id(task, "the name of a task,")
    if data in ("", ".", "..") or set(data) & {"/", "\\", "\0"}:
        raise UserError(f"the name of a data set, {data!r}: not the name of a folder")
    return results / data / "cells" / model / f"{task}.seed{seed}.json"


def read_record(file: Path) -> Record:
    """Read one record.

    Raises:
        UserError: not JSON, or not a record of this schema.
    """
    try:
        return parse(file.read_bytes(), str(file))
    except OSError as error:
        raise UserError(f"{file}: not readable as a record ({one_line(error)}); {AGAIN}") from None


NAME = names.SAFE  # of a model, a task, a file
NAME_RULE = "expected letters of ASCII, digits, '_', '.', '+' and '-', at most 151, a letter or a digit first"
NUMBERS = {str: float}
COLUMN = {"better": int, "unit": str, "decimals": int}
PATTERN = {
    "model": NAME,
    "task": NAME,
    "data": re.compile(r"[^/\\]{1,200}"),
    "data_root": str,
    "seed": int,
    "metrics": NUMBERS,
    "columns": {str: COLUMN},
    "intervals": {str: [float, float]},
    "per_class": {str: (None, float)},
    "floors": {str: NUMBERS},
    "images": int,
    "protocol": dict,
    "footnote": [str],
    "settings": dict,
    "layout": dict,
    "backbone": {"num_registers?": int},
    "weights": str,
    "provenance": {
        "commit?": str,
        "dirty?": bool,
        "date?": str,
        "versions?": {str: str},
        "device?": str,
        "seconds?": float,
        "peak_memory_mib?": float,
        "vectors_read?": int,
    },
    "scores": {"file?": NAME, "digest?": str},
    "source": str,
    "digests": {str: str},
    "schema": int,
}


def parse(content: bytes, where: str) -> Record:
    """Parse a record from the content of a file; one of an older schema keeps its schema number.

    Raises:
        UserError: in one line, if it is not JSON, not a record of this schema or of one in `ADDED`, or if any of its
            values has a type or range that no record has.
    """
    try:
        values = strict_json.parse(content)
    except ValueError as error:
        raise UserError(f"{where}: not readable as a record ({one_line(error)}); {AGAIN}") from None
    schema = values.get("schema") if isinstance(values, dict) else None
    if type(schema) is int and schema in ADDED:
        values = {**ADDED[schema], **values}
    if type(schema) is not int or schema not in (SCHEMA, *ADDED) or values.keys() != PATTERN.keys():
        raise UserError(f"{where}: not a record of schema {SCHEMA}; {AGAIN}")
    if wrong := patterns.mismatch(values, PATTERN) or _out_of_range(values):
        raise UserError(f"{where}: {wrong[:200]}; {AGAIN}")
    return Record(**values)


def _out_of_range(values: dict[str, Any]) -> str:
    """What no record holds although the types are right, or ''."""
    wrong = next((key for key, column in values["columns"].items() if not _is_column(column)), None)
    if wrong is not None:
        return f"columns.{wrong}: expected better in -1..1, unit, and decimals in 0..9"
    swapped = next((key for key, (low, high) in values["intervals"].items() if low > high), None)
    if swapped is not None:
        return f"intervals.{swapped}: its ends are in the wrong order"
    for name in ("seed", "images"):
        if values[name] < 0:
            return f"{name}: must not be negative"
    if not 0 <= values["backbone"].get("num_registers", 0) <= 10_000:
        return "backbone.num_registers: must lie in 0..10000"
    if set(values["footnote"]) - values["protocol"].keys():
        return "footnote: names facts that protocol lacks"
    if values["scores"] and values["scores"].keys() != {"file", "digest"}:
        return "scores: expected a file and its digest"
    return ""


def _is_column(column: dict[str, Any]) -> bool:
    return column.keys() == COLUMN.keys() and abs(column["better"]) <= 1 and 0 <= column["decimals"] <= 9


def scores_path(record: Path) -> Path:
    """Path of the file with the per-image scores, beside their record."""
    return record.with_name(record.stem + statistics.SUFFIX)


def stale(
    record: Record,
    settings: dict[str, Any],
    weights: str,
    layout: dict[str, Any],
    digests: dict[str, str] | None = None,
) -> str:
    """Why `record` is out of date for these settings, weights and data, or '' when it is valid.

    Args:
        record: as read.
        settings: resolved settings of the task.
        weights: fingerprint of the model.
        layout: the data settings that determine which images are read.
        digests: digest of each split of the data; one that is missing on either side is not compared, nor is the folder
            of the data.
    """
    from regvit_lightning.data import digest

    if record.schema != SCHEMA:
        return f"a record of schema {record.schema}, which is now {SCHEMA}"
    for kind, old, new in (("settings", record.settings, settings), ("layout of the data", record.layout, layout)):
        changed = changes(old, new)
        if changed:
            return f"{kind} changed: {', '.join(changed)}"
    splits = digest.changed(record.digests, digests or {})
    if splits:
        return f"data changed: names, sizes or labels of {' and '.join(splits)} are not those of the record"
    if record.weights != weights:
        return f"weights changed: {record.weights} -> {weights}"
    return ""


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Settings whose values differ, `crop 64 -> 96`, without those that only change how a cell is run."""
    before, after = decisive(old), decisive(new)
    keys = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    old = {**EARLIER, **old}
    return [f"{key} {old.get(key)} -> {new.get(key)}" for key in keys]


def decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that decide a result: without `FREE_TO_CHANGE`, and without those at their value in `EARLIER`."""
    return without_earlier({key: value for key, value in settings.items() if key not in FREE_TO_CHANGE})


def without_earlier(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those at their value in `EARLIER`, which records from before these settings lack."""
    return {key: value for key, value in settings.items() if key not in EARLIER or value != EARLIER[key]}


def provenance(seconds: float) -> dict[str, Any]:
    """Provenance of a result: the suite's commit, package versions and hardware.

    Args:
        seconds: time that the cell took.

    Returns:
        `commit` of the checkout of this code, or the version of the package where it is not a checkout;
        `dirty`, whether a file that this process uses, its modules and the YAML files of its settings, differs from
        that commit or is not in it; `date` in UTC; `versions`; `device`; `seconds`;
        `peak_memory_mib`.
    """
    from datetime import datetime
    from importlib.metadata import PackageNotFoundError, version

    from regvit_lightning.runtime import hardware

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:  # such as mmcv in place of mmcv-lite
            return ""

    packages = ["torch", "torchvision", "lightning", "timm", "torchmetrics", "numpy", "pillow"]
    packages += ["mmsegmentation", "mmengine", "mmcv-lite", "opencv-python", "h5py", "scipy"]
    return {
        "commit": _git("rev-parse", "HEAD") or __version__,
        "dirty": _is_dirty(_used_files()),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "versions": {"python": platform.python_version(), **{name: installed(name) for name in packages}},
        "device": hardware.device_name(),
        "seconds": round(seconds, 1),
        "peak_memory_mib": round(hardware.peak_memory_mib()),
    }


def _is_dirty(files: Sequence[str]) -> bool:
    """Whether any of these files of the checkout differs from its commit or is not in it."""
    return bool(files and _git("status", "--porcelain", "--untracked-files=all", "--", *files))


def _used_files() -> list[str]:
    """Files of this checkout that this process has imported as modules or read as settings, relative to it."""
    real = cache(os.path.realpath)  # thousands of modules lie in a few folders
    modules = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    used = {os.path.join(real(os.path.dirname(file)), os.path.basename(file)) for file in filter(None, modules)}
    used |= {os.path.realpath(file) for file in settings.FILES_USED}
    inside = (Path(file).relative_to(ROOT) for file in used if file.startswith(f"{ROOT}{os.sep}"))
    return sorted(str(file) for file in inside if "site-packages" not in file.parts)


def _git(*arguments: str) -> str:
    """Output of git in the checkout of this code; empty if it is not a checkout, even inside another repository."""
    if not (ROOT / ".git").exists():
        return ""
    return git.output(ROOT, *arguments).decode().strip()
