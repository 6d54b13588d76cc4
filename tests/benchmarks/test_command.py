"""What every program shares."""

import gc
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import command
from regvit_lightning.errors import Notice

ROOT = Path(__file__).resolve().parents[2]


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


def test_collections_pause_while_packages_are_imported_and_leave_what_they_made_alone():
    before = gc.get_freeze_count()
    with command.importing():
        assert not gc.isenabled()
        cycles = [[] for _ in range(10_000)]
        for cycle in cycles:
            cycle.append(cycle)
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + 10_000


def test_what_imports_made_is_collected_at_the_end():
    """Else nanobind's modules, triton's among them, report hundreds of leaks, and the last line of a log is theirs."""
    code = """
from benchmarks import command

class Cycle:
    def __init__(self):
        self.own = self
    def __del__(self):
        print("collected")

with command.importing():
    Cycle()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (ended.stdout, ended.stderr) == ("collected\n", "")


def test_a_failed_import_leaves_the_collector_running():
    with pytest.raises(ImportError), command.importing():
        raise ImportError
    assert gc.isenabled()


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists(), reason="no large pages here")
def test_a_large_tensor_of_a_program_lies_in_large_pages():
    """Writing 64 MiB takes 16,384 pages of 4 KiB, or 32 large ones."""
    if "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        pytest.skip("large pages are switched off")
    lines = (
        "import resource",
        "from benchmarks import command",
        "command.take_large_pages()",
        "import torch",
        "torch.ones(2**19)",
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt",
        "torch.ones(2**24)",
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)",
    )
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    ran = subprocess.run([sys.executable, "-c", "\n".join(lines)], env=environment, capture_output=True, check=True)
    assert int(ran.stdout) < 12_000
