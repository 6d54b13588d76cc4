"""Agreement with kept results, in words whose numbers are plain."""

from dataclasses import replace

import numpy as np

from benchmarks.compare.agreement import LUCK, agreement
from benchmarks.tables.scored_records import ScoredRecords
from tests.by_hand import cell


def side(name, *cells):
    return ScoredRecords(name, list(cells), [])


def right(share, images=400):
    return np.where(np.arange(images) < share / 100 * images, 100.0, 0.0)


KEPT = cell("deit3-vitn_reg0", per_image=right(50)), cell("deit3-vitn_reg4", per_image=right(60))


def test_equal_values_are_as_kept_whatever_else_is_kept():
    others = cell("dinov2-vitn_reg0"), cell("deit3-vitn_reg0", seed=1, top1=70.0)
    assert agreement(side("kept", *KEPT, *others), side("here", *KEPT)) == ["as kept: all 2 values are those of kept"]


def test_what_differs_is_named_with_its_size_and_whether_that_is_noise():
    """2 of 400 images more are right, whose 95 % interval holds 0; and 80 of 400 fewer, whose interval does not."""
    here = cell("deit3-vitn_reg0", per_image=right(50.5)), cell("deit3-vitn_reg4", per_image=right(40))
    first, *more = agreement(side("kept", *KEPT), side("here", *here))
    assert first == "0 of 2 values are those of kept"
    assert more[0] == "1 worse beyond image noise, one seed:"
    assert more[1].startswith("  deit3-vitn_reg4 imagenet_knn top-1 60.0 → 40.0, -20.0 [-2")
    assert more[2] == "1 within noise:"
    assert more[3].startswith("  deit3-vitn_reg0 imagenet_knn top-1 50.0 → 50.5, +0.5 [-")
    assert more[4:] == [LUCK]


def test_another_protocol_is_not_compared_and_is_said():
    here = cell("deit3-vitn_reg0", per_image=right(90), settings={"crop": 96, "workers": 1})
    _, *more = agreement(side("kept", *KEPT), side("here", here))
    assert more == ["1 kept under another protocol:", "  deit3-vitn_reg0 imagenet_knn top-1 50.0 → 90.0, crop 64 → 96"]


def test_what_is_not_kept_is_counted():
    _, *more = agreement(side("kept", *KEPT), side("here", KEPT[0], cell("deit3-vitn_reg8")))
    assert more == ["1 not among the kept results"]
    assert agreement(side("kept"), side("here", *KEPT)) == ["nothing in kept is of these models, tasks and seeds"]


def test_settings_and_versions_that_changed_are_said():
    old = replace(KEPT[0].record, provenance={"versions": {"torch": "2.4"}})
    new = replace(KEPT[0].record, provenance={"versions": {"torch": "2.5"}})
    sides = (side("kept", replace(KEPT[0], record=old)), side("here", cell("deit3-vitn_reg0", per_image=right(50.5))))
    changed = side("here", replace(sides[1].cells[0], record=replace(new, metrics={"top1": 50.5})))
    assert agreement(sides[0], changed)[-1] == "changed, versions: torch 2.4 → 2.5"
