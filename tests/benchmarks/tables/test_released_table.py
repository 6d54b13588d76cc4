"""The table of released backbones from hand-made records: order, pairs, differences, facts."""

import pytest

from benchmarks.tables import __main__ as program
from benchmarks.tables import columns, formats, latex, released_table
from benchmarks.tables.formats import Origin
from benchmarks.tables.scored_records import ScoredRecords
from tests.by_hand import cell

S, S_REG = "timm-vit_small_patch14_dinov2.lvd142m", "timm-vit_small_patch14_reg4_dinov2.lvd142m"
L_REG = "timm-vit_large_patch14_reg4_dinov2.lvd142m"
ONE, FOUR = (f"timm-vit_medium_patch16_reg{count}_gap_256.sbb_in1k" for count in (1, 4))
SW, SBB = "timm-vit_medium_patch16_gap_256.sw_in12k_ft_in1k", "timm-vit_medium_patch16_reg4_gap_256.sbb_in12k_ft_in1k"
TOPS = {L_REG: 70.0, FOUR: 51.0, ONE: 50.5, SBB: 54.0, SW: 53.0}
# of 8 images each; the second model is better by 2 on every image, so that the paired difference has no noise
SCORES = {S: [59.0, 61.0] * 4, S_REG: [61.0, 63.0] * 4}
CELLS = [
    *(cell(model, per_image=values) for model, values in SCORES.items()),
    *(cell(model, top1=top) for model, top in TOPS.items()),
    cell(S_REG, "imagenet_linear", top1=80.0),
    cell("random-vits14_reg0", top1=9.0),
    cell("deit3-vits_reg4", top1=75.0),
]


def built(cells=CELLS):
    return released_table.build(cells, columns.overview(cells))


def test_pairs_stand_together_and_show_their_difference():
    table = built()
    shown = [(row.model, row.part) for row in table.rows]
    assert shown == [
        ("random-vits14_reg0", ""),
        (ONE, "1"),
        (FOUR, "4"),
        (SW, "0"),
        (SBB, "4"),
        (S, "0"),
        (S_REG, "4"),
        (L_REG, "4"),
    ]
    changes = {row.model: score.change for (row, _), score in table.scores.items() if score.change}
    assert {model: change.value for model, change in changes.items()} == {S_REG: 2.0, FOUR: 0.5, SBB: 1.0}
    assert changes[S_REG].interval == pytest.approx((2.0, 2.0)), "paired over the images"
    low, high = changes[FOUR].interval
    assert high - low > 2, "without scores of single images as of independent ones"
    assert {column.task for column in table.columns} == {"imagenet_knn", "imagenet_linear"}


def test_its_notes_say_what_was_trained_how_and_what_else_differs():
    table = built()
    notes = "\n".join(table.footnotes)
    assert "DINOv2: trained by images on LVD-142M; licence: apache-2.0; Oquab" in notes
    assert "sbb: trained by labels on IN1k or IN12k, then IN1k; licence: see its page" in notes
    assert f"{SBB} differs from its pair in the recipe (sbb against sw), too" in notes
    assert "without registers, or with fewer" in table.against
    origin = Origin("full", ScoredRecords("results", CELLS, []), "make tables DATA=full")
    assert "(+2.0" in formats.markdown(table, origin)
    assert "tabular" in latex.latex(table, origin)


def test_without_released_models_there_is_no_such_table():
    own = [cell("deit3-vits_reg4", top1=75.0), cell("random-vits14_reg0", top1=9.0)]
    assert built(own) is None
    assert "released" not in {table.name for table in program.tables(own)}
    assert "released" in {table.name for table in program.tables(CELLS)}
