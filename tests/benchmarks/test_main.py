"""The command `regvit`: its words are those of make, it answers at once, and programs run as after make."""

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import regvit_lightning
from benchmarks import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
OF_A_CHECKOUT = {"help", "setup", "test", "test-slurm", "lint", "format"}  # targets that a package has no use for


def regvit_says(*words, status=0, cwd=ROOT):
    """Standard output of the command, or its error where `status` is not 0."""
    done = subprocess.run([sys.executable, "-m", "benchmarks", *words], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def test_its_words_are_the_targets_of_make():
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets - OF_A_CHECKOUT <= COMMANDS.keys()
    assert COMMANDS.keys() - targets == {"grid", "completion"}


def test_help_lists_every_word_and_answers_at_once():
    best = 9.0
    for _ in range(3):  # another process may hold the core
        begun = time.perf_counter()
        shown = regvit_says("--help")
        best = min(best, time.perf_counter() - begun)
    assert best < 0.5
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.help)}$", shown, re.MULTILINE)
    assert shown == regvit_says() == regvit_says("-h")


def test_version_is_that_of_the_package():
    assert regvit_says("--version") == f"regvit {regvit_lightning.__version__}\n"


def test_an_unknown_word_names_its_neighbour():
    assert regvit_says("evl", status=2) == "regvit: unknown command 'evl'; nearest: eval, eval-all\n"
    assert "known: all, annotate, artifacts, bench," in regvit_says("xyzzy", status=2)


@pytest.mark.parametrize(
    ("name", "shown"), [("eval", "eval"), ("artifacts", "eval"), ("all", "grid"), ("demo", "demo"), ("bench", "bench")]
)
def test_a_program_is_shown_by_its_word(name, shown):
    assert regvit_says(name, "--help").startswith(f"regvit {shown} key=value …")


@pytest.mark.parametrize("command", COMMANDS.values())
def test_every_program_is_there(command):
    assert importlib.util.find_spec(command.program) is not None


def test_a_word_of_a_program_gets_what_the_target_gives():
    shown = regvit_says("artifacts", "model=random-vitn_reg4", "task=imagenet_knn", status=2)
    assert "'task' is given twice: task=artifact_report and task=imagenet_knn" in shown


def test_data_root_is_taken_as_make_takes_it(tmp_path):
    shown = regvit_says("data", "data=full", f"DATA_ROOT={tmp_path}", status=2)
    assert f"no folder {tmp_path}/imagenet/train" in shown


def test_the_code_of_the_command_runs_whatever_the_working_directory_holds(tmp_path):
    (tmp_path / "work" / "benchmarks").mkdir(parents=True)
    (tmp_path / "work" / "benchmarks" / "__init__.py").touch()
    (tmp_path / "work" / "benchmarks" / "tables.py").write_text("raise SystemExit('the wrong code')")
    script = tmp_path / "regvit"
    script.write_text("from benchmarks.__main__ import main\nmain()\n")
    words = [sys.executable, script, "tables", "data=mini"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path / "work", env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("tables: no folder results: ")
