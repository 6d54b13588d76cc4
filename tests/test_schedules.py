"""Schedules at their ends and in the middle, by hand; those of a recipe are compared with its reference beside it."""

import pytest

from regvit_lightning import schedules


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_schedule_starts_and_ends_where_it_says_however_short_it_is(steps):
    for schedule in (schedules.cosine, schedules.linear):
        assert schedule(0, steps, 5.0, 2.0) == 5.0
        assert schedule(steps, steps, 5.0, 2.0) == schedule(steps + 3, steps, 5.0, 2.0) == 2.0
    assert schedules.polynomial(0, steps, 0.9) == 1.0
    assert schedules.polynomial(steps, steps, 0.9) == 0.0
    assert schedules.linear_warmup(steps, steps, 0.1) == 1.0
    assert schedules.linear_warmup(0, steps, 0.1) == pytest.approx(0.1)


def test_the_middle_by_hand():
    assert schedules.cosine(1, 2, 5.0, 3.0) == pytest.approx(4.0)
    assert schedules.cosine(1, 3, 1.0) == pytest.approx(0.75)  # (1 + cos 60°) / 2
    assert schedules.linear(1, 4, 0.0, 2.0) == pytest.approx(0.5)
    assert schedules.polynomial(1, 2, 2.0) == pytest.approx(0.25)


def test_warm_ups_of_both_kinds():
    ours = [schedules.warmup_then_cosine(step, 7, 3, 1.0, 0.0, 0.0) for step in range(8)]
    assert ours == pytest.approx([0, 0.5, 1, 1, 0.8535533905932737, 0.5, 0.14644660940672627, 0])
    timms = [schedules.cosine_after_warmup(step, 4, 2, 1.0, 0.0, 0.0) for step in range(5)]
    assert timms == pytest.approx([0, 0.5, 0.5, 0.14644660940672627, 0])  # the cosine began at step 0


def test_no_steps_at_all_are_at_the_end_or_the_start_but_no_error():
    assert schedules.cosine(0, 0, 5.0, 2.0) == 5.0
    assert schedules.linear_warmup(0, 0, 0.5) == 0.5
