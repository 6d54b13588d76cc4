"""What every program shares."""

import os
import sys
import warnings
from dataclasses import dataclass

import pytest

from benchmarks import command
from regvit_lightning.errors import Notice


@dataclass
class Nothing:
    """No settings."""


@pytest.mark.parametrize("given", [None, "active"])
def test_waiting_threads_sleep_unless_the_environment_says_otherwise(monkeypatch, given):
    monkeypatch.setenv("OMP_WAIT_POLICY", "")  # so that it is put back
    monkeypatch.delenv("OMP_WAIT_POLICY")
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    monkeypatch.setattr(sys, "argv", ["nothing"])
    seen = []
    command.run("nothing", "", Nothing, lambda options, words: seen.append(os.environ["OMP_WAIT_POLICY"]))
    assert seen == [given or "passive"]


def test_what_the_library_decides_for_the_user_is_a_line_of_the_program(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["nothing"])

    def body(options, words):
        warnings.warn("the first of two is taken", Notice, stacklevel=1)

    shown = warnings.showwarning
    command.run("nothing", "", Nothing, body)
    assert capsys.readouterr().err == "nothing: the first of two is taken\n"
    assert warnings.showwarning is shown
