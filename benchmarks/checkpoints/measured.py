"""What is measured of each kept backbone: three tasks, whose metrics are stored beside the file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import pstdev
from typing import TYPE_CHECKING, Any

from regvit_lightning import evaluation, settings
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.evaluation import Evaluation
from regvit_lightning.models import sources
from regvit_lightning.runtime import atomic

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback

LEAST = 4  # checkpoints of which ranks can be compared
UNLABELLED = {"rankme": "RankMe", "alpha_req": "alpha-ReQ", "lidar": "LiDAR", "dse": "DSE"}
LABELLED = {"knn": "kNN top-1 %", "miou": "mIoU % in context"}
PARTS = ("dse_inter", "dse_intra", "dse_dimension")


@dataclass(frozen=True)
class Row:
    """What was measured of one backbone.

    Attributes:
        step: optimiser steps of its training.
        values: by `UNLABELLED`, `LABELLED` and `PARTS`.
    """

    step: int
    values: Mapping[str, float]


def tasks(data: DataSettings, masks: str, variant: str, seed: int) -> list[Evaluation]:
    """The evaluations that every backbone gets.

    Raises:
        SettingsError: no such set with masks, or variant.
    """
    names = ("label_free", "imagenet_knn", f"hummingbird_{masks}")
    return [evaluation.prepare(name, data, variant, seed) for name in names]


def row(step: int, file: Path, chosen: Sequence[Evaluation], seed: int, callbacks: Sequence["Callback"] = ()) -> Row:
    """Measure the backbone in `file`, or read what was measured of it with the same settings on the same images.

    Args:
        callbacks: that show progress.

    Raises:
        UserError: raised by a task.
    """
    label_free, knn, segmentation = (_metrics(file, one, seed, callbacks) for one in chosen)
    own = {name: label_free[name] for name in (*UNLABELLED, *PARTS)}
    return Row(step, {**own, "knn": knn["top1"], "miou": segmentation["miou"]})


def _metrics(file: Path, one: Evaluation, seed: int, callbacks: Sequence["Callback"] = ()) -> dict[str, float]:
    from regvit_lightning.frozen.contract import RunOptions

    backbone = sources.load_backbone(str(file))
    wanted = {
        "weights": backbone.fingerprint,
        "images": one.digests(),
        "layout": one.layout,
        "seed": seed,
        "settings": json.loads(json.dumps(settings.resolved(one.settings))),
    }
    stored = file.with_name(f"{file.stem}.{one.name}.json")
    kept = _read(stored)
    if {name: kept.get(name) for name in wanted} == wanted:
        return dict(kept["metrics"])
    metrics = one.run(backbone, RunOptions(seed, callbacks=callbacks)).metrics
    atomic.write_text(stored, json.dumps({**wanted, "metrics": metrics}, indent=1) + "\n")
    return metrics


def _read(file: Path) -> dict[str, Any]:
    """Content of a stored measurement; empty where there is none, or it is damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("metrics"), dict) else {}


def with_dse(rows: Sequence[Row]) -> list[Row]:
    """The rows with DSE weighed as published: λ gives its dimension the spread over the rows that the rest has."""
    rest = [row.values["dse_inter"] - row.values["dse_intra"] for row in rows]
    dimension = [row.values["dse_dimension"] for row in rows]
    weight = pstdev(rest) / pstdev(dimension) if pstdev(dimension) > 0 else 0.0
    found = [own + weight * more for own, more in zip(rest, dimension, strict=True)]
    return [replace(row, values={**row.values, "dse": own}) for row, own in zip(rows, found, strict=True)]
