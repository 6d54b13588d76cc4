"""Rows in the forms of efficient-probing and VisBench, read back as they read theirs."""

import csv
import io
import json

from benchmarks.tables import row_forms
from tests.by_hand import cell

DINOV2 = "timm-vit_base_patch14_reg4_dinov2.lvd142m"
# The first line of results.csv of efficient-probing, commit 0301553.
THEIRS = (
    "family,method,arch,pretrain,eval,image_size,lp,lp_gap,ep,ep_queries,ep_variant,model,loader,pretrain_tag,finetune,"
    "lp_variant,lp_log,ep_log,notes,verified,amp,waiting,gap_reason,knn,knn_k,knn_T,knn_log,extra_flags,ep_head"
)
SHAPE = {"backbone": {"num_registers": 4, "patch_size": 14}}
EP = {"heads_of_kinds": {"ep": {"inputs": "both"}}}
CELLS = [
    cell(DINOV2, top1=82.0, protocol={"k": 20, "temperature": 0.07}, **SHAPE),
    cell(DINOV2, seed=1, top1=83.0, protocol={"k": 20, "temperature": 0.07}, **SHAPE),
    cell(DINOV2, "imagenet_linear", top1=84.5, protocol={"head": {"avgpool": True}}, **SHAPE),
    cell(DINOV2, "imagenet_attentive", metrics={"top1": 85.0, "top1_ep": 84.9}, protocol=EP, settings={"queries": 32}),
    cell("deit3+long-vitn_reg0", top1=50.0),
    cell("random-vitn_reg4", top1=8.0),
    cell(DINOV2, "artifact_report", metrics={"outlier_share": 1.0}),
]


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_a_row_of_efficient_probing_for_each_trained_model_with_a_probe():
    text = row_forms.efficient_probing(CELLS)
    assert text.splitlines()[0] == THEIRS
    found = {row["model"]: row for row in rows(text)}
    assert set(found) == {DINOV2, "deit3+long-vitn_reg0"}
    row = found[DINOV2]
    assert (row["method"], row["arch"], row["pretrain"], row["eval"]) == ("DINOv2", "ViT-B/14", "LVD-142M", "mini")
    assert (row["knn"], row["knn_k"], row["knn_T"]) == ("82.50", "20", "0.07")  # the mean over seeds
    assert (row["lp"], row["lp_variant"]) == ("84.50", "cls and mean patch")
    assert (row["ep"], row["ep_queries"], row["ep_variant"]) == ("84.90", "32", "both")
    assert row["notes"].startswith("4 registers; 2 seeds; head and k chosen on held-out train")
    ours = found["deit3+long-vitn_reg0"]
    assert (ours["method"], ours["arch"], ours["lp"], ours["ep"]) == ("deit3+long", "vitn_reg0", "", "")


def test_a_row_of_visbench_for_each_record():
    found = rows(row_forms.visbench(CELLS))
    assert len(found) == len(CELLS)
    assert [row["task"] for row in found] == sorted(row["task"] for row in found)
    knn = next(row for row in found if row["backbone"] == DINOV2 and row["seed"] == "1")
    assert json.loads(knn["metrics"])["top1"] == 83.0
    assert json.loads(knn["task_params"]) == {"crop": 64, "workers": 1}
    assert (knn["dataset"], knn["dataset_size"], knn["split"], knn["backbone_key"]) == ("mini", "960", "test", "abc")
    assert knn["timestamp"] == "2026-01-02T03:04:05Z"
