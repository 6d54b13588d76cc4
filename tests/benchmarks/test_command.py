"""What every program shares."""

import os
import sys
from dataclasses import dataclass

import pytest

from benchmarks import command


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
