"""Tables on a terminal: every line fits, and the numbers are those of the records."""

import re

import pytest

from benchmarks.tables import blocks, columns
from benchmarks.tables.formats import Origin
from benchmarks.tables.scored_records import ScoredRecords
from tests.by_hand import cell, report

BOTH = {
    "columns": {
        "top1_best_on_test": {"better": 1, "unit": "%", "decimals": 1},
        "top1": {"better": 1, "unit": "%", "decimals": 1},
    }
}


def best(model, top1, better, **more):
    kept = cell(model, top1=top1, **BOTH, **more)
    kept.record.metrics["top1_best_on_test"] = better
    return kept


CELLS = [
    best("random-vitn_reg4", 8.0, 9.0, floors={"chance": {"top1": 6.25}}),
    best("deit3-vitn_reg0", 58.0, 60.0),
    best("deit3-vitn_reg4", 9.0, 62.0),
    report("deit3-vitn_reg0"),
    report("deit3-vitn_reg4"),
]


def shown(width, cells=CELLS, skipped=()):
    return blocks.text(columns.overview(cells), width, Origin("mini", ScoredRecords("r", cells, [*skipped]), "make x"))


def test_a_block_by_hand():
    block = shown(100).split("\n\n")[2].splitlines()
    assert block == [
        "imagenet_knn: 960 test images",
        "  model            top-1 % ↑           against no registers    best on test",
        "  deit3-vitn_reg0  58.0 [57.0, 59.0]                           60.0",
        "  deit3-vitn_reg4   9.0 [8.0, 10.0]†ᵘ  -49.0 [-50.4, -47.6] ▽  62.0",
        "  floors of top-1: random-vitn_reg4 8.0 [7.0, 9.0], chance 6.2",
        "  floors of best on test: random-vitn_reg4 9.0",
        "  ! top-1 not better than random-vitn_reg4: deit3-vitn_reg4 (+1.0 [-0.4, 2.4])",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 300])
def test_every_line_fits_and_no_number_is_lost(width):
    long = cell("timm-vit_large_patch14_dinov2.lvd142m-with-a-name-of-one-hundred-characters-and-more-of-them")
    text = shown(width, [*CELLS, long], ["a file that cannot be read " * 9])
    longest = max(len(line) for line in text.splitlines() if len(line.strip().split()) > 1)
    assert longest <= min(width, 100)
    everything = re.findall(r"-?\d+\.\d+", shown(100, [*CELLS, long]).partition("\n\n")[2])
    assert sorted(everything) == sorted(re.findall(r"-?\d+\.\d+", text.partition("\n\n")[2]))


def test_what_does_not_fit_beside_stands_below():
    lines = shown(70).splitlines()
    assert "  model            best on test" in lines
    assert not any("against" in line and "best" in line for line in lines)


def test_several_seeds_have_their_number_and_spread():
    cells = [cell(f"deit3-vitn_reg{n}", seed=seed, top1=50.0 + seed) for n in (0, 4) for seed in (0, 1, 2)]
    text = shown(80, cells)
    assert re.search(r"deit3-vitn_reg4  51\.0 ± 1\.0ᵘ +3 +0\.0 \[-2\.\d, 2\.\d\] ≈", text)
    assert "mean ± standard deviation over seeds" in text
    assert "value of one seed" not in text


def test_floors_alone_are_a_block_too():
    assert "  floors: random-vitn_reg4 50.0 [49.0, 51.0]" in shown(80, [cell("random-vitn_reg4")])
