"""Commands in messages are those that the user can type where the code lies."""

import pytest

from regvit_lightning import invocation


@pytest.mark.parametrize(
    ("variables", "further", "by_make", "by_regvit"),
    [
        ({}, "", "make status", "regvit status"),
        ({"MODEL": "a", "SEED": 0}, "", "make status MODEL=a SEED=0", "regvit status model=a seed=0"),
        ({"DATA_ROOT": "/d"}, "", "make status DATA_ROOT=/d", "regvit status DATA_ROOT=/d"),
        ({"TASK": "t"}, "k='[1, 2]'", "make status TASK=t ARGS=\"k='[1, 2]'\"", "regvit status task=t k='[1, 2]'"),
    ],
)
def test_by_make_in_a_checkout_and_by_regvit_elsewhere(monkeypatch, tmp_path, variables, further, by_make, by_regvit):
    assert invocation.invocation("status", variables, further) == by_make
    monkeypatch.setattr(invocation, "MAKEFILE", tmp_path / "Makefile")
    assert invocation.invocation("status", variables, further) == by_regvit
