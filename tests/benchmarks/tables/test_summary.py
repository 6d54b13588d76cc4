"""The summary names a difference only where it is one: for the whole table, with several seeds, above a floor."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.tables import columns, summary, summary_formats
from benchmarks.tables.formats import Origin
from benchmarks.tables.scored_records import ScoredRecord, ScoredRecords
from regvit_lightning import statistics
from tests.by_hand import cell

IMAGES = 400


def side(model, share, seeds=(0, 1, 2), task="imagenet_knn", better=1, spread=2, **more):
    """Seeds of a model that are right on nearly `share` percent of the images, each on a few more than the last."""
    columns_of = {"top1": {"better": better, "unit": "%", "decimals": 1}}
    made = []
    for seed in seeds:
        right = np.zeros(IMAGES)
        right[: round(share / 100 * IMAGES) + spread * (seed - 1)] = 100.0
        made.append(cell(model, task, seed=seed, per_image=right, columns=columns_of, images=IMAGES, **more))
    return made


def pair(without, with_registers, family="deit3-vitn", registers=4, **more):
    return [*side(f"{family}_reg0", without, **more), *side(f"{family}_reg{registers}", with_registers, **more)]


def answers(cells):
    return summary.answers(columns.overview(cells))


def texts(cells):
    table = columns.overview(cells)
    return summary_formats.formats(table, Origin("mini", ScoredRecords("results", list(cells), []), "make tables"))


@pytest.mark.parametrize(
    ("without", "with_registers", "better", "verdict"),
    [(50, 70, 1, "help"), (70, 50, 1, "hurt"), (70, 50, -1, "help"), (50, 70, -1, "hurt"), (50, 50.5, 1, "unclear")],
)
def test_the_verdict_follows_the_direction_of_the_metric(without, with_registers, better, verdict):
    (row,) = answers(pair(without, with_registers, better=better))
    assert (row.verdict, row.seeds, row.images) == (verdict, "3", IMAGES)
    assert row.change.value == pytest.approx(with_registers - without)


@pytest.mark.parametrize("seeds", [((0,), (0,)), ((0, 1, 2), (0,)), ((0,), (0, 1, 2))])
def test_one_seed_on_a_side_is_unclear_however_large_the_difference(seeds):
    (row,) = answers([*side("a_reg0", 20, seeds[0]), *side("a_reg4", 90, seeds[1])])
    assert (row.verdict, row.sign, row.p) == ("unclear", "△", None)
    text = texts([*side("a_reg0", 20, seeds[0]), *side("a_reg4", 90, seeds[1])])["md"]
    assert "unclear △ |" in text
    assert "- with one seed on a side a difference may be luck of the training: always unclear" in text
    assert "One seed cannot tell whether registers help: unclear in 1 of 1 comparison." in text
    assert "Holm" not in text


def test_the_headline_says_what_rests_on_one_seed():
    several = [*pair(50, 70), *pair(70, 50, family="b-vitn"), *pair(50, 50.5, family="c-vitn")]
    counts = "Registers help in 1, hurt in 1 and are unclear in {} of {} comparisons{}."
    assert summary.headline(answers(several)) == counts.format(1, 3, "")
    more = [*several, *pair(50, 90, family="d-vitn", seeds=(0,))]
    assert summary.headline(answers(more)) == counts.format(2, 4, ", 1 of them with one seed")
    single = [*pair(50, 90, seeds=(0,)), *pair(50, 90, family="d-vitn", seeds=(0,))]
    words = "One seed cannot tell whether registers help: unclear in 2 of 2 comparisons."
    assert summary.headline(answers(single)) == words


def test_many_rows_need_smaller_p_values_than_one():
    """A difference at p = 0.02 is one by itself, and none among twenty rows."""
    alone = pair(50, 56, spread=1)
    (row,) = answers(alone)
    assert row.verdict == "help"
    twenty = [kept for n in range(20) for kept in pair(50, 50 + (n == 0) * 3.25, family=f"f{n:02}-vitn", spread=3)]
    rows = answers(twenty)
    by_hand = statistics.holm([row.change.p for row in rows])
    assert rows[0].change.beyond_noise
    assert rows[0].p == pytest.approx(by_hand[0])
    assert rows[0].p > 0.05
    assert {row.verdict for row in rows} == {"unclear"}


def test_rows_with_one_seed_do_not_count_in_the_correction():
    tested = pair(50, 56, spread=1)
    (alone,) = answers(tested)
    more = [kept for n in range(30) for kept in pair(50, 50, family=f"g{n:02}-vitn", seeds=(0,))]
    (row,) = [row for row in answers([*tested, *more]) if row.family == "deit3-vitn"]
    assert (row.verdict, row.p) == (alone.verdict, alone.p)


def test_equal_families_are_called_different_in_five_percent_of_tables():
    """Tables of 5 rows without any difference: seeds and images vary, as two trainings of one recipe do."""
    generator, alarms, tables = np.random.default_rng(0), 0, 60
    for _ in range(tables):
        cells = []
        for family in range(5):
            difficulty = generator.normal(0, 20, 40)
            for registers in (0, 4):
                for seed in range(3):
                    scores = 50 + difficulty + generator.normal(0, 3) + generator.normal(0, 5, 40)
                    cells.append(cell(f"f{family}-vitn_reg{registers}", seed=seed, per_image=scores))
        alarms += any(row.verdict != "unclear" for row in answers(cells))
    assert alarms / tables <= 0.05 + 2 * (0.05 * 0.95 / tables) ** 0.5


def test_two_models_below_a_floor_have_nothing_to_compare():
    floor = side("random-vitn_reg4", 80)
    (row,) = answers([*pair(50, 70), *floor])
    assert (row.verdict, row.below_floor) == ("unclear", True)
    assert "unclear (p < 0.001) † |" in texts([*pair(50, 70), *floor])["md"]
    (row,) = answers([*pair(50, 95), *floor])  # with registers above the floor
    assert (row.verdict, row.below_floor) == ("help", False)


def test_noise_that_is_not_known_is_no_certainty():
    """All images and seeds agree: the interval has no width, which is not the same as none."""
    (row,) = answers(pair(50, 50, spread=0, better=-1))
    assert row.verdict == "unclear"
    flat = [*(cell("a_reg0", seed=s, per_image=[1.5] * 50) for s in (0, 1))]
    flat += [*(cell("a_reg4", seed=s, per_image=[2.5] * 50) for s in (0, 1))]
    (row,) = answers(flat)
    assert (row.change.interval, row.verdict, row.p) == ((1.0, 1.0), "unclear", None)


def test_a_difference_without_interval_is_unclear():
    cells = [ScoredRecord(replace(kept.record, intervals={}), {}) for kept in pair(20, 90)]
    (row,) = answers(cells)
    assert (row.verdict, row.change.interval) == ("unclear", None)


def test_the_model_of_four_registers_is_compared_whatever_the_others_say():
    cells = [*pair(50, 50.5), *side("deit3-vitn_reg1", 90), *side("deit3-vitn_reg8", 5)]
    (row,) = answers(cells)
    assert (row.registers, row.verdict) == (4, "unclear")
    (row,) = answers([*side("b_reg0", 50), *side("b_reg8", 80), *side("b_reg16", 10)])
    assert row.registers == 8
    assert "80.0 (8 registers)" in texts([*side("b_reg0", 50), *side("b_reg8", 80)])["md"]


def test_released_weights_floors_and_models_without_twin():
    names = {f"a_reg{n}": f"timm-vit_small_patch14{'_reg4' * (n > 0)}_dinov2.lvd142m" for n in (0, 4)}
    cells = [replace(kept, record=replace(kept.record, model=names[kept.record.model])) for kept in pair(60, 80, "a")]
    rows = answers([*cells, *pair(50, 70, family="random-vitn"), *side("alone_reg4", 90)])
    assert [(row.family, row.verdict) for row in rows] == [("timm-vit_small_patch14_dinov2.lvd142m", "help")]
    assert not answers(side("alone_reg4", 90))


def test_a_test_time_register_is_a_row_of_its_own_beside_the_trained_ones():
    plain, more = pair(50, 70, family="deit3-vitn"), side("deit3-vitn_reg4", 60)
    added = [
        replace(kept, record=replace(kept.record, model="deit3-vitn_reg0+ttr", backbone={"num_registers": 1}))
        for kept in more
    ]
    found = {row.family: (row.registers, row.change.value) for row in answers([*plain, *added])}
    assert found == {"deit3-vitn": (4, pytest.approx(20)), "deit3-vitn+ttr": (1, pytest.approx(10))}
    assert "60.0 (1 register)" in texts([*plain, *added])["md"]
    note = "+ttr in the name of a family: with is the model with +ttr, without the same weights without it"
    assert note in texts([*plain, *added])["md"].replace("\\", "")


def test_the_main_metric_is_not_the_best_on_test():
    names = ("top1_best_on_test", "top1", "other")
    facts = {name: {"better": 1, "unit": "%", "decimals": 1} for name in names}
    cells = [cell(f"a_reg{n}", columns=facts, metrics=dict.fromkeys(names, 50.0)) for n in (0, 4)]
    assert [row.column.metric for row in answers(cells)] == ["top1"]


def test_csv_has_plain_numbers_and_every_task_its_rows():
    cells = [*pair(50, 70), *pair(40, 41, task="imagenet_linear"), *pair(30, 50, family="openclip-vitn")]
    found = texts(cells)
    rows = list(csv.DictReader(io.StringIO(found["csv"])))
    assert [(row["task"], row["family"], row["verdict"]) for row in rows] == [
        ("imagenet_knn", "deit3-vitn", "help"),
        ("imagenet_knn", "openclip-vitn", "help"),
        ("imagenet_linear", "deit3-vitn", "unclear"),
    ]
    assert float(rows[0]["difference"]) == pytest.approx(20)
    assert float(rows[0]["low"]) < 20 < float(rows[0]["high"])
    assert float(rows[0]["p corrected"]) >= float(rows[0]["p"])
    assert (rows[0]["seeds without"], rows[0]["seeds with"], rows[0]["images"]) == ("3", "3", "400")
    assert "**help** (p" in found["md"]
    (single,) = csv.DictReader(io.StringIO(texts(pair(50, 70, seeds=(0,)))["csv"]))
    assert (single["p"], single["p corrected"]) == ("", "")  # one seed is no evidence
    assert found["md"].count("imagenet_knn top-1 % ↑") == 2  # at a glance, and in the first of its rows
