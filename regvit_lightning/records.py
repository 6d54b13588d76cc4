"""Result of one cell of the grid: one small JSON file with everything needed to verify and compare it."""

import json
import platform
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC
from pathlib import Path
from typing import Any

from regvit_lightning import statistics
from regvit_lightning.errors import UserError, one_line
from regvit_lightning.runtime import atomic, git
from regvit_lightning.version import __version__

SCHEMA = 3
# Fields missing from records of older schemas, by schema; those records can be read but are stale for their cell.
ADDED: dict[int, dict[str, Any]] = {2: {"scores": {}}}
AGAIN = "remove it and evaluate the cell again"
FREE_TO_CHANGE = {"workers", "device_batch"}  # settings that change how a cell is run, not its result
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Record:
    """Result of one cell: model × task × seed.

    Attributes:
        model: model id (`deit3-vitn_reg4`).
        task: task name (`imagenet_linear`).
        data: name of the data.
        data_root: folder of the data, where nothing else identifies the images; empty for rendered and counted data.
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
        backbone: registers, width, depth, patch size and input size of the model.
        weights: fingerprint of the model's weights.
        provenance: commit (the version of an installed package), dirty, date, versions, device, seconds,
            peak_memory_mib.
        scores: `file`, the file beside the record with the per-image scores, and its `digest`; empty where there are
            none.
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
    schema: int = SCHEMA

    def path(self, results: Path) -> Path:
        """Path of the record below `results`."""
        return path(results, self.data, self.model, self.task, self.seed)

    def save(self, results: Path) -> Path:
        """Write the record atomically and return its path.

        Raises:
            UserError: the folder cannot be written, or a value is not finite, which JSON does not have.
        """
        target = self.path(results)
        try:
            text = json.dumps(asdict(self), indent=1, allow_nan=False)
        except ValueError as error:
            raise UserError(f"{self.task} of {self.model}: not saved, as a value is not finite ({error})") from None
        atomic.write_text(target, text + "\n")
        return target


def path(results: Path, data: str, model: str, task: str, seed: int) -> Path:
    """Path of a record: `<results>/<data>/cells/<model>/<task>.seed<k>.json`."""
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


def parse(content: bytes, where: str) -> Record:
    """Parse a record from the content of a file; one of an older schema keeps its schema number.

    Raises:
        UserError: not JSON, or not a record of this schema or of one in `ADDED`.
    """
    try:
        values = json.loads(content)
    except ValueError as error:
        raise UserError(f"{where}: not readable as a record ({one_line(error)}); {AGAIN}") from None
    schema = values.get("schema") if isinstance(values, dict) else None
    if isinstance(schema, int) and schema in ADDED:
        values = {**ADDED[schema], **values}
    known = {entry.name for entry in fields(Record)}
    if schema not in (SCHEMA, *ADDED) or set(values) != known:
        raise UserError(f"{where}: not a record of schema {SCHEMA}; {AGAIN}")
    return Record(**values)


def scores_path(record: Path) -> Path:
    """Path of the file with the per-image scores, beside their record."""
    return record.with_name(record.stem + statistics.SUFFIX)


def stale(record: Record, settings: dict[str, Any], weights: str, layout: dict[str, Any], data_root: str = "") -> str:
    """Why `record` is out of date for these settings, weights and data, or '' when it is valid."""
    if record.schema != SCHEMA:
        return f"a record of schema {record.schema}, which is now {SCHEMA}"
    if record.data_root != data_root:
        return f"data changed: {record.data_root} -> {data_root}"
    for kind, old, new in (("settings", record.settings, settings), ("layout of the data", record.layout, layout)):
        keys = sorted({**new, **old}.keys() - FREE_TO_CHANGE)
        changed = [f"{key} {old.get(key)} -> {new.get(key)}" for key in keys if new.get(key) != old.get(key)]
        if changed:
            return f"{kind} changed: {', '.join(changed)}"
    if record.weights != weights:
        return f"weights changed: {record.weights} -> {weights}"
    return ""


def provenance(seconds: float) -> dict[str, Any]:
    """Provenance of a result: the suite's commit, package versions and hardware.

    Args:
        seconds: time that the cell took.

    Returns:
        `commit` of the checkout of this code, or the version of the package where it is not a checkout;
        `dirty`, whether its code differs from that commit; `date` in UTC; `versions`; `device`; `seconds`;
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
        "dirty": bool(_git("status", "--porcelain", "--", ".", ":(exclude)results")),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "versions": {"python": platform.python_version(), **{name: installed(name) for name in packages}},
        "device": hardware.device_name(),
        "seconds": round(seconds, 1),
        "peak_memory_mib": round(hardware.peak_memory_mib()),
    }


def _git(*arguments: str) -> str:
    """Output of git in the checkout of this code; empty if it is not a checkout, even inside another repository."""
    if not (ROOT / ".git").exists():
        return ""
    return git.output(ROOT, *arguments).decode().strip()
