"""Records made by hand, whose tables can be worked out on paper."""

import hashlib

import numpy as np

from benchmarks.tables import model_names
from benchmarks.tables.scored_records import ScoredRecord
from regvit_lightning import records, statistics
from regvit_lightning.records import Record


def record(model="deit3-vitn_reg4", task="imagenet_knn", seed=0, top1=50.0, settings=None, weights="abc", **more):
    facts = {
        "model": model,
        "task": task,
        "data": "mini",
        "data_root": "",
        "seed": seed,
        "metrics": {"top1": top1, "top1_k10": 1.0},
        "columns": {"top1": {"better": 1, "unit": "%", "decimals": 1}},
        "intervals": {"top1": [top1 - 1, top1 + 1]},
        "per_class": {},
        "floors": {},
        "images": 960,
        "protocol": {"k": 10, "k_chosen_on": "train"},
        "footnote": ["k_chosen_on"],
        "settings": settings or {"crop": 64, "workers": 1},
        "layout": {"imagenet": "imagenet"},
        "backbone": {"num_registers": model_names.registers(model)},
        "weights": weights,
        "provenance": {"commit": "c0ffee" * 7, "date": "2026-01-02T03:04:05Z", "dirty": False},
    }
    return Record(**{**facts, **more})


def cell(*words, per_image=None, **more):
    """A cell; with scores per image of its first metric its value is their mean."""
    if per_image is None:
        return ScoredRecord(record(*words, **more), {})
    per_image = np.asarray(per_image, float)
    return ScoredRecord(record(*words, top1=float(np.nanmean(per_image)), **more), {"top1": per_image})


def save(results, kept):
    """Write a cell as `make eval` does."""
    values = kept.record
    file = values.path(results)
    if kept.scores:
        content = statistics.pack(kept.scores)
        beside = records.scores_path(file)
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content)
        named = {"file": beside.name, "digest": hashlib.sha256(content).hexdigest()[:16]}
        values = Record(**{**vars(values), "scores": named})
    return values.save(results)


def saved_records(results, data):
    """All records of one data set, in the order of their files."""
    return [records.read_record(file) for file in sorted((results / data / "cells").glob("*/*.json"))]


def report(model, scale=1.0):
    """An artifact report of a model of two blocks, its norms multiplied by `scale`."""
    held = {"train_images": 8, "test_images": 80, "C": 1.0}
    registers = int(model.partition("_reg")[2] or 0)
    tokens = {"CLS": {"top1": 80.0, "std_over_draws": 0.0, **held}}
    tokens["normal"] = {"top1": 40.0, "std_over_draws": 0.5, **held}
    tokens["outlier"] = None if registers else {"top1": 70.0, "std_over_draws": 1.25, **held}
    tokens |= {f"reg_{index}": {"top1": 60.0 + index, "std_over_draws": 0.0, **held} for index in range(registers)}
    pixels = {"l2": 18.38, "rms": 2.5, "l2_of_mean": 40.0, "penalty": 1.0, "patches": 900}
    protocol = {
        "rule": "share above three medians",
        "view": "as it is",
        "pixel_scale": "0..255",
        "single_tokens": tokens,
        "position": {"normal": {"top1": 41.7, "distance": 0.79, "patches": 900}, "outlier": None},
        "pixels": {"normal": pixels, "outlier": None},
        "norms_by_block": {
            "levels": [0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0],
            "patches": [[scale * value for value in (1, 2, 3, 4, 5, 6, 7 + block)] for block in range(3)],
        },
        "norms_of_last_block": [scale * value for value in range(201)],
        "findings": {"factor": {"shares": [0.0, 0.0237]}},
        "cost": [
            {"registers": n, "parameters": 500_000 + 96 * n, "macs": 10_000_000 + n, "more_parameters": n / 50}
            | {"more_macs": n / 10}
            for n in (0, 4)
        ],
    }
    share = {"outlier_share": 0.0 if registers else 2.37}
    facts = {"metrics": share, "intervals": {}, "settings": {"rule": "factor", "version": 2}, "protocol": protocol}
    columns = {"outlier_share": {"better": -1, "unit": "%", "decimals": 2}}
    return cell(model, "artifact_report", **facts, columns=columns, footnote=["rule", "view"])
