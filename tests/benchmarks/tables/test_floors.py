"""Models that are not better than a floor, with floors and images whose answer is plain."""

import numpy as np
import pytest

from benchmarks.tables import columns, floors
from tests.by_hand import cell, report


def right(share, images=400):
    """Scores per image of which `share` percent are right."""
    return np.where(np.arange(images) < share / 100 * images, 100.0, 0.0)


def lines(cells):
    table = columns.overview(cells)
    return [line for column in table.columns for line in floors.lines(table, column)]


def test_a_model_well_above_its_floors_has_no_line():
    chance = {"chance": {"top1": 10.0}}
    assert not lines([cell("deit3-vitn_reg0", per_image=right(60), floors=chance), cell("random-vitn_reg0", top1=8.0)])


def test_the_best_floor_that_a_model_misses_is_named():
    """30 % of the same images against 50 % of them: -20 on 80 of 400 images, standard error 2 %."""
    chance = {"chance": {"top1": 35.0}}
    model = cell("deit3-vitn_reg0", per_image=right(30), floors=chance, intervals={"top1": [25.5, 34.5]})
    (line,) = lines([model, cell("random-vitn_reg4", per_image=right(50))])
    assert line.startswith("not better than random-vitn_reg4: deit3-vitn_reg0 (-20.0 [-2")
    low, high = map(float, line[line.index("[") + 1 : line.index("]")].split(","))
    assert (low, high) == pytest.approx((-20 - 1.97 * 2, -20 + 1.97 * 2), abs=0.3)


def test_within_noise_of_a_constant_is_not_better():
    """The constant is exact, so the interval is that of the model: 36 ± 2 is better than 33, but not than 35."""
    facts = {"intervals": {"top1": [34.0, 38.0]}, "top1": 36.0}
    assert not lines([cell("deit3-vitn_reg0", floors={"chance": {"top1": 33.0}}, **facts)])
    (line,) = lines([cell("deit3-vitn_reg0", floors={"chance": {"top1": 35.0}}, **facts)])
    assert line == "not better than chance: deit3-vitn_reg0 (+1.0 [-1.0, 3.0])"


def test_where_less_is_better_more_than_the_floor_misses_it():
    less = {"columns": {"top1": {"better": -1, "unit": "m", "decimals": 1}}}
    floor = cell("random-vitn_reg0", top1=50.0, **less)
    assert not lines([floor, cell("deit3-vitn_reg0", top1=40.0, **less)])
    (line,) = lines([floor, cell("deit3-vitn_reg0", top1=60.0, **less)])
    assert line.startswith("not better than random-vitn_reg0: deit3-vitn_reg0 (+10.0")


def test_models_of_one_floor_share_a_line_and_seeds_count():
    models = [cell(f"deit3-vitn_reg{n}", seed=seed, top1=30.0 + 9 * seed) for n in (0, 4) for seed in (0, 1)]
    (line,) = lines([*models, cell("random-vitn_reg0", top1=33.0), cell("random-vitn_reg0", seed=1, top1=33.0)])
    assert line.count("deit3-vitn") == 2
    assert "(+1.5 [" in line


def test_without_an_interval_the_value_decides():
    facts = {"intervals": {}, "floors": {"chance": {"top1": 33.0}}}
    assert not lines([cell("deit3-vitn_reg0", top1=33.1, **facts)])
    (line,) = lines([cell("deit3-vitn_reg0", top1=33.0, **facts)])
    assert line == "not better than chance: deit3-vitn_reg0 (0.0)"


def test_the_mark_of_a_value_is_that_of_its_line():
    cells = [cell(f"deit3-vitn_reg{n}", top1=30.0 + n, floors={"chance": {"top1": 33.5}}) for n in range(6)]
    table = columns.overview(cells)
    (line,) = lines(cells)
    marked = {row.model for (row, _), score in table.scores.items() if "f" in score.marks}
    assert marked == {f"deit3-vitn_reg{n}" for n in range(5)} == {n for n in marked if n in line}


def test_an_artifact_report_has_no_floor_to_miss():
    assert not lines([report("deit3-vitn_reg0"), report("random-vitn_reg4")])


def test_shares_of_outliers_in_other_tasks_have_no_floor_either():
    """An untrained model has no outliers: it has learnt nothing."""
    shown = {
        "pck": {"better": 1, "unit": "%", "decimals": 1},
        "outlier_matches": {"better": -1, "unit": "%", "decimals": 1},
    }
    models = {"deit3-vitn_reg0": (9.0, 10.0), "random-vitn_reg4": (10.0, 0.0)}
    cells = [
        cell(model, "spair71k", columns=shown, metrics={"pck": pck, "outlier_matches": share})
        for model, (pck, share) in models.items()
    ]
    (line,) = lines(cells)
    assert line == "not better than random-vitn_reg4: deit3-vitn_reg0 (-1.0)"
