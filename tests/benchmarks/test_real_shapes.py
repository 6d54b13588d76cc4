"""The memory rows hold at small shapes; at the real ones they are measured by `make bench`."""

from functools import partial

import pytest
import torch

from benchmarks.speed import real_shapes

SMALL = {
    "knn": {"images": 20_000, "width": 64, "queries": 32},
    "linear_choice": {"held_out": 12_000, "test": 5_000},
    "linear_step": {"batch": 16, "width": 32},
    "attentive_step": {"batch": 8, "width": 64, "side": 4, "classes": 20},
    "zero_shot": {"classes": 20, "embed": 64, "images": 1000},
    "intervals": {"images": 5_000},
    "segmentation_step": {"batch": 2, "width": 32, "side": 140},
    "segmentation_image": {"height": 520, "width": 530, "classes": 8},
    "depth_step": {"batch": 2, "width": 16, "rows": 112, "columns": 140},
    "lost": {"images": 2, "side": 20, "width": 64},
    "token_cut": {"images": 1, "side": 10, "width": 32},
    "register_boxes": {"images": 2, "blocks": 2, "side": 10},
    "saliency": {"side": 60, "grid": 8, "blocks": 2, "tokens": 2},
    "robustness": {"images": 5_000, "batch": 16, "width": 32},
    "propagation": {"rows": 12, "columns": 14, "width": 32},
    "keypoint_matches": {"pairs": 2, "side": 10, "width": 32, "points": 5},
    "rankings": {"queries": 3, "images": 20_000, "width": 16},
    "label_free": {"images": 500, "width": 16, "patches": 20},
    "shifted_content": {"images": 4, "side": 6, "width": 16},
    "norms": {"images": 20, "depth": 3, "side": 8},
    "single_token": {"images": 1000, "width": 32, "classes": 100},
    "several_classes": {"images": 500, "width": 32, "classes": 5},
    "position": {"images": 20, "side": 12, "width": 32, "tokens": 1000},
    "pixels": {"images": 12, "side": 10, "width": 32},
    "placement": {"images": 50, "side": 12},
}


@pytest.mark.parametrize("name", SMALL)
def test_every_row_runs_within_its_bound(name, monkeypatch):
    row = getattr(real_shapes, name)(**SMALL[name])
    assert row.value <= 1, row.parts
    assert row.name.startswith("(j) memory / bound, ")


def test_all_rows_are_measured(monkeypatch):
    for name in SMALL:
        monkeypatch.setattr(real_shapes, name, partial(str, name))
    assert real_shapes.rows() == list(SMALL)


def test_a_copy_too_many_shows():
    row = real_shapes.measured("300 MiB above a bound of none", 0, lambda: torch.ones(300 << 18))
    assert row.value > 1
