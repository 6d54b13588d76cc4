"""Where the new side is better: planted differences between two states of the results, and none by chance."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compare import comment, groups, sides
from benchmarks.compare.lines import compare_records
from benchmarks.tables import scored_records
from regvit_lightning.data.annotated import Annotated, Property
from tests.benchmarks.compare.test_compare import program
from tests.by_hand import cell, save

CLASSES = ["cat", "dog", "fox", "hen"]
EACH = 50
LABELS = np.repeat(np.arange(4), EACH)
SIZES = np.tile(np.arange(EACH, dtype=float), 4)
KNOWN = Annotated(
    "imagenet",
    {"rendered": "aa"},
    [[int(label)] for label in LABELS],
    CLASSES,
    [Property("object size", "%", "by hand", SIZES.tolist())],
)


def right(share, seed):
    """Per-image scores of a training that is right with a probability for each image."""
    return 100.0 * (np.random.default_rng(seed).random(len(LABELS)) < share)


FOXES = np.select([LABELS == 2, LABELS == 3], [0.97, 0.03], 0.5)  # better on foxes, as much worse on hens


def trained(model, share, first, seeds=3, **more):
    facts = {"images": len(LABELS), "digests": {"rendered": "aa"}, **more}
    return [cell(model, seed=seed, per_image=right(share, first + seed), **facts) for seed in range(seeds)]


def states(folder, old, new, known=KNOWN):
    """Two folders of results with the annotations beside the new ones, compared."""
    for name, cells in (("old", old), ("results", new)):
        for one in cells:
            save(folder / name, one)
    if known:
        known.save(folder / "results" / "mini" / "annotations")
    base, head = sides.of_states(folder / "results", "mini", str(folder / "old"), "")
    return base, head, compare_records(base, head)


def pairs_of(folder, *arguments, **more):
    _, head, lines = states(folder, *arguments, **more)
    return groups.pairs(lines, head.known, ("old", "new"))


def found(pair):
    return {(line.kind, line.name): line.verdict for line in pair.lines if line.found}


def test_a_planted_class_is_found_after_the_correction_and_no_other(tmp_path):
    (pair,) = pairs_of(tmp_path, trained("deit3-vitn_reg4", 0.5, 0), trained("deit3-vitn_reg4", FOXES, 10))
    assert found(pair) == {("class", "fox"): "better", ("class", "hen"): "worse"}
    assert (pair.name, pair.sides, pair.tested) == ("deit3-vitn_reg4", ("old", "new"), 4 + 3)
    better, worse = (line for line in pair.lines if line.found)
    for line, sign in ((better, 1), (worse, -1)):
        assert line.second - line.first == pytest.approx(sign * 47, abs=10)
        assert line.change.p < line.p < 0.05


def test_equal_states_differ_nowhere(tmp_path):
    """Twenty pairs of states without a difference: at 5 % for any alarm, four or more come once in sixty times."""
    alarms = 0
    for draw in range(20):
        old, new = (trained("deit3-vitn_reg4", 0.6, 1000 * draw + side) for side in (0, 500))
        (pair,) = pairs_of(tmp_path / str(draw), old, new)
        alarms += bool(found(pair))
    assert alarms <= 3


def test_every_model_that_changed_is_compared_and_none_that_did_not(tmp_path):
    old = trained("a-vitn_reg0", 0.5, 0) + trained("a-vitn_reg4", 0.5, 20) + trained("a-vitn_reg8", 0.5, 40)
    new = trained("a-vitn_reg0", 0.6, 60) + trained("a-vitn_reg4", 0.5, 20) + trained("a-vitn_reg16", 0.5, 80)
    assert [pair.name for pair in pairs_of(tmp_path, old, new)] == ["a-vitn_reg0"]


def test_tasks_of_a_model_are_corrected_together(tmp_path):
    tasks = ("imagenet_knn", "imagenet_linear")
    layout = {"imagenet": "imagenet"}
    old, new = (
        [
            one
            for index, task in enumerate(tasks)
            for one in trained("a-vitn_reg4", 0.5, first + 30 * index, task=task, layout=layout)
        ]
        for first in (0, 100)
    )
    (pair,) = pairs_of(tmp_path, old, new)
    assert [part.task for part in pair.parts] == list(tasks)
    assert pair.tested == 2 * (4 + 3)
    least = min((line for line in pair.lines if line.p is not None), key=lambda line: line.change.p)
    assert least.p == pytest.approx(min(1.0, 14 * least.change.p))


def two_metrics(model, first, **more):
    """Scores of a main metric that has no difference, and of others that would show one."""
    columns = {name: {"better": better, "unit": "%", "decimals": 1} for name, better in more.items()}
    made = []
    for one in trained(model, 0.5, first, columns=columns, metrics=dict.fromkeys(columns, 50.0), intervals={}):
        scores = {
            name: right(0.5 if index == 0 else 0.5 + first / 20, first + index) for index, name in enumerate(columns)
        }
        metrics = {name: float(values.mean()) for name, values in scores.items()}
        made.append(replace(one, record=replace(one.record, metrics=metrics), scores=scores))
    return made


def test_the_main_metric_alone_is_looked_at(tmp_path):
    more = {"top1": 1, "top5": 1}
    (pair,) = pairs_of(tmp_path, two_metrics("a-vitn_reg4", 0, **more), two_metrics("a-vitn_reg4", 10, **more))
    assert [part.column.metric for part in pair.parts] == ["top1"]


def test_neither_the_best_on_test_nor_a_metric_without_direction_is_the_main_one(tmp_path):
    more = {"top1_best_on_test": 1, "share": 0, "top5": 1}
    (pair,) = pairs_of(tmp_path, two_metrics("a-vitn_reg4", 0, **more), two_metrics("a-vitn_reg4", 10, **more))
    assert [part.column.metric for part in pair.parts] == ["top5"]


def test_floors_are_no_models(tmp_path):
    old, new = (trained("a-vitn_reg4", 0.5, at, floors={"chance": {"top1": 6.0 + at}}) for at in (0, 10))
    assert [pair.name for pair in pairs_of(tmp_path, old, new)] == ["a-vitn_reg4"]


def test_another_protocol_is_not_compared(tmp_path):
    other = trained("a-vitn_reg4", FOXES, 10, settings={"crop": 96, "workers": 1})
    assert pairs_of(tmp_path, trained("a-vitn_reg4", 0.5, 0), other) == []
    assert groups.markdown([], "mini") == []


def test_the_comment_says_where(tmp_path):
    old, new = trained("deit3-vitn_reg4", 0.5, 0), trained("deit3-vitn_reg4", FOXES, 10)
    base, head, lines = states(tmp_path, old, new)
    text = comment.markdown(base, head, "mini", lines)
    after = text.partition("#### Where is it better? deit3-vitn_reg4")[2]
    assert after.splitlines()[2] == "Better on 1 and worse on 1 of 7 classes and kinds of images in 1 task."
    rows = [line for line in after.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in rows[0].split("|")[1:]][1:4] == ["n", "old", "new"]
    assert len(rows) == 4
    for row, name, verdict in ((rows[2], "fox", "better"), (rows[3], "hen", "worse")):
        assert f"class {name}" in row
        assert f"**{verdict}**" in row
        assert " 50 |" in row
    assert "Holm" in after


def test_without_a_difference_the_nearest_two_are_shown(tmp_path):
    base, head, lines = states(tmp_path, trained("a-vitn_reg4", 0.5, 0), trained("a-vitn_reg4", 0.5, 10))
    after = comment.markdown(base, head, "mini", lines).partition("#### Where")[2]
    assert "No difference beyond noise on any of 7 classes and kinds of images in 1 task. Nearest to one:" in after
    (pair,) = groups.pairs(lines, head.known, ("old", "new"))
    nearest = sorted(pair.lines, key=lambda line: line.change.p)[:2]
    rows = [line for line in after.splitlines() if line.startswith("|")]
    assert [line.name in row for line, row in zip(nearest, rows[2:], strict=True)] == [True, True]


def test_without_annotations_it_says_how_to_make_them(tmp_path):
    base, head, lines = states(tmp_path, trained("a-vitn_reg4", 0.5, 0), trained("a-vitn_reg4", 0.6, 10), known=None)
    text = comment.markdown(base, head, "mini", lines)
    assert "nothing is known of the images of imagenet; with the images at hand: make annotate DATA=mini" in text


def test_two_models_are_compared_by_their_names(tmp_path):
    """`make compare MODELS=a,b` names both sides; the second is twice as often right on foxes, and never on hens."""
    for one in trained("a-vitn_reg0", 0.5, 0) + trained("a-vitn_reg4", FOXES, 10):
        save(tmp_path / "results", one)
    KNOWN.save(tmp_path / "results" / "mini" / "annotations")
    done = program(tmp_path, "models=a-vitn_reg0,a-vitn_reg4")
    assert done.returncode == 0
    after = done.stdout.partition("Where is it better? a-vitn_reg4")[2]
    (fox,) = (line for line in after.splitlines() if "class fox" in line)
    assert "**better**" in fox
    (head,) = (line for line in after.splitlines() if "a-vitn_reg0" in line)
    assert head.index("a-vitn_reg0") < head.index("a-vitn_reg4")
    turned = program(tmp_path, "models=a-vitn_reg4,a-vitn_reg0").stdout
    (fox,) = (line for line in turned.splitlines() if "class fox" in line)
    assert "**worse**" in fox


def test_annotations_are_read_with_the_records(tmp_path):
    states(tmp_path, trained("a-vitn_reg4", 0.5, 0), trained("a-vitn_reg4", 0.6, 10))
    known = scored_records.read_scored_records(Path(tmp_path, "results"), "mini").known
    assert known["imagenet"].classes == CLASSES
