"""Curves of sinks and locality during training, from rows made by hand."""

import math

import pytest

from regvit_lightning.figures.tokens_in_training import locality_during_training, sinks_during_training


def rows(steps=(0, 50, 100), depth=3, **changes):
    """Rows of `norms.csv`: sinks in block 2 alone, one more at each step; cosines that rise with the block."""
    made = []
    for index, step in enumerate(steps):
        for block in range(1, depth + 1):
            sinks = index if block == 2 else 0
            row = {"step": step, "block": block, "sinks": 2.0 * sinks, "nop_sinks": 0.5 * sinks}
            row |= {"broadcast_sinks": 1.0 * sinks, "mean_cosine": 0.1 * block, "cls_cosine": -0.1 * block}
            made.append(row | changes)
    return made


def lines(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def words(axes):
    return [text.get_text() for text in axes.texts]


def test_sinks_are_summed_over_blocks_by_kind_and_shown_by_block():
    left, right = sinks_during_training(rows()).axes
    assert lines(left) == {
        "all sinks: 4.00 at the end": [[0, 0], [50, 2], [100, 4]],
        "NOP: 1.00 at the end": [[0, 0], [50, 0.5], [100, 1]],
        "broadcast: 2.00 at the end": [[0, 0], [50, 1], [100, 2]],
    }
    assert lines(right)["block 2"] == [[0, 0], [50, 2], [100, 4]]
    assert lines(right)["block 3"] == [[0, 0], [50, 0], [100, 0]]
    assert words(left) == words(right) == []


def test_cosines_are_shown_by_block():
    left, right = locality_during_training(rows()).axes
    assert lines(left)["block 3"] == [[step, pytest.approx(0.3)] for step in (0, 50, 100)]
    assert lines(right)["block 1"] == [[step, pytest.approx(-0.1)] for step in (0, 50, 100)]
    assert right.get_ylim()[0] < -0.3


def test_a_deep_model_has_a_line_for_some_blocks():
    _, right = sinks_during_training(rows(depth=24)).axes
    assert list(lines(right)) == [f"block {block}" for block in (1, 5, 9, 12, 16, 20, 24)]


@pytest.mark.parametrize(("value", "said"), [(math.nan, "not measured"), (0.0, "none, in any block at any step")])
def test_where_there_is_nothing_it_says_so(value, said):
    for axes in sinks_during_training(rows(sinks=value)).axes:
        assert words(axes) == [said]


def test_a_model_without_cls_has_one_curve_of_locality():
    left, right = locality_during_training(rows(cls_cosine=math.nan)).axes
    assert lines(left)
    assert not right.lines
    assert words(right) == ["no CLS, or not measured"]
