"""Records in the row forms of two other collections, so that a line can be put beside theirs.

efficient-probing (Psomas et al. 2026, arXiv 2506.10178) has one row a model: kNN, linear and attentive top-1 in %.
VisBench has one row a run: backbone, task, data, metrics and settings; what it nests is JSON in a cell here.
"""

import csv as csv_module
import io
import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.tables import model_names
from benchmarks.tables.scored_records import ScoredRecord
from regvit_lightning.models import catalogue, names
from regvit_lightning.records import Record

EFFICIENT_PROBING = "leaderboard_efficient_probing"
VISBENCH = "leaderboard_visbench"
PROBES = {"lp": ("imagenet_linear", "top1"), "ep": ("imagenet_attentive", "top1_ep"), "knn": ("imagenet_knn", "top1")}
EP_HEADS = [
    "family",
    "method",
    "arch",
    "pretrain",
    "eval",
    "image_size",
    "lp",
    "lp_gap",
    "ep",
    "ep_queries",
    "ep_variant",
    "model",
    "loader",
    "pretrain_tag",
    "finetune",
    "lp_variant",
    "lp_log",
    "ep_log",
    "notes",
    "verified",
    "amp",
    "waiting",
    "gap_reason",
    "knn",
    "knn_k",
    "knn_T",
    "knn_log",
    "extra_flags",
    "ep_head",
]
VISBENCH_HEADS = [
    "backbone",
    "backbone_key",
    "task",
    "dataset",
    "dataset_fingerprint",
    "dataset_size",
    "dataset_params",
    "split",
    "seed",
    "pooling",
    "metrics",
    "task_params",
    "hardware",
    "duration_seconds",
    "timestamp",
    "notes",
]


def efficient_probing(cells: Sequence[ScoredRecord]) -> str:
    """CSV with a row for each trained model that has one of the three probes, means over seeds; unknown is empty.

    Its rows are the best epoch on the validation images, ours the head chosen on held-out train: `notes` says so.
    """
    of_model: dict[str, dict[str, list[Record]]] = {}
    for cell in cells:
        for probe, (task, metric) in PROBES.items():
            if cell.record.task == task and metric in cell.record.metrics:
                of_model.setdefault(cell.record.model, {}).setdefault(probe, []).append(cell.record)
    trained = sorted((model for model in of_model if not model_names.is_untrained(model)), key=model_names.order)
    return _csv(EP_HEADS, [_probed(model, of_model[model]) for model in trained])


def _probed(model: str, records: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    some = next(iter(records.values()))[0]
    row = {**_identity(model, some), "eval": some.data, "image_size": some.settings.get("crop", "")}
    for probe, (_, metric) in PROBES.items():
        if probe in records:
            row[probe] = f"{fmean(record.metrics[metric] for record in records[probe]):.2f}"
    if "lp" in records:
        pooled = _inside(records["lp"][0].protocol, "head", "avgpool")
        row |= {"lp_gap": "no", "lp_variant": "cls and mean patch" if pooled else "cls"}
    if "ep" in records:
        inputs = _inside(records["ep"][0].protocol, "heads_of_kinds", "ep", "inputs")
        row |= {"ep_queries": records["ep"][0].settings.get("queries", ""), "ep_variant": inputs}
    if "knn" in records:
        protocol = records["knn"][0].protocol
        row |= {"knn_k": protocol.get("k", ""), "knn_T": protocol.get("temperature", "")}
    seeds = max(len(of) for of in records.values())
    registers = f"{some.backbone.get('num_registers', 0)} registers"
    notes = [registers, f"{seeds} seed{'s' * (seeds > 1)}", "head and k chosen on held-out train images, not on eval"]
    return {**row, "model": model, "amp": some.settings.get("precision", ""), "notes": "; ".join(notes)}


def _identity(model: str, record: Record) -> dict[str, Any]:
    """Objective, method, architecture and training data: of the catalogue, or of a model that was trained here."""
    patch = record.backbone.get("patch_size", "")
    if entry := catalogue.by_record_id().get(model):
        arch = f"ViT-{entry.size}/{patch}"
        return {"family": entry.objective, "method": entry.family, "arch": arch, "pretrain": entry.data}
    own = names.parse_id(model)
    if own is None:
        return {"method": model, "arch": f"/{patch}"}
    return {"method": own.label, "arch": own.name, "pretrain": record.data}


def visbench(cells: Sequence[ScoredRecord]) -> str:
    """CSV with a row for each record, floors that are models included; metrics keep their names and units here."""
    ordered = sorted(cells, key=lambda cell: (cell.record.task, model_names.order(cell.record.model), cell.record.seed))
    return _csv(VISBENCH_HEADS, [_run(cell.record) for cell in ordered])


def _run(record: Record) -> dict[str, Any]:
    made = record.provenance
    hardware = {"device": made.get("device", ""), "torch": _inside(made, "versions", "torch")}
    return {
        "backbone": record.model,
        "backbone_key": record.weights,
        "task": record.task,
        "dataset": record.data,
        "dataset_fingerprint": ";".join(record.digests.values()),
        "dataset_size": record.images,
        "dataset_params": _json(record.layout),
        "split": "test",
        "seed": record.seed,
        "pooling": record.protocol.get("feature", ""),
        "metrics": _json(record.metrics),
        "task_params": _json(record.settings),
        "hardware": _json(hardware),
        "duration_seconds": made.get("seconds", ""),
        "timestamp": made.get("date", ""),
        "notes": _json({key: record.protocol[key] for key in record.footnote if key in record.protocol}),
    }


def _inside(facts: Any, *keys: str) -> Any:
    """Value of nested mappings of a record, which may be a foreign one; empty where there is none."""
    for key in keys:
        facts = facts.get(key, "") if isinstance(facts, Mapping) else ""
    return facts


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _csv(heads: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv_module.DictWriter(text, heads, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
