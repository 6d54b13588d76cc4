"""The Makefile: which words reach the programs. Real `make`; a program that prints its words stands for Python."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import command, cost, evaluate, plan, pretrain, status
from benchmarks.annotate import __main__ as annotate
from benchmarks.checkpoints import __main__ as checkpoints
from benchmarks.compare import __main__ as compare
from benchmarks.data import __main__ as data
from benchmarks.demo import __main__ as demo
from benchmarks.gpu_check import __main__ as gpu_check
from benchmarks.grid import __main__ as grid
from benchmarks.look import __main__ as look
from benchmarks.neurons import __main__ as neurons
from benchmarks.report import __main__ as report
from benchmarks.speed import __main__ as speed
from benchmarks.study import __main__ as study
from benchmarks.tables import __main__ as tables

ROOT = Path(__file__).resolve().parents[1]
SCHEMAS = {
    "benchmarks.annotate": annotate.Annotate,
    "benchmarks.checkpoints": checkpoints.Checkpoints,
    "benchmarks.compare": compare.Compare,
    "benchmarks.cost": cost.CostOf,
    "benchmarks.data": data.Data,
    "benchmarks.demo": demo.Demo,
    "benchmarks.evaluate": evaluate.Evaluate,
    "benchmarks.gpu_check": gpu_check.GpuCheck,
    "benchmarks.grid": grid.Grid,
    "benchmarks.look": look.LookAt,
    "benchmarks.neurons": neurons.FindNeurons,
    "benchmarks.plan": plan.Plan,
    "benchmarks.pretrain": pretrain.Pretrain,
    "benchmarks.report": report.ReportOptions,
    "benchmarks.speed": speed.Bench,
    "benchmarks.status": status.Status,
    "benchmarks.study": study.Study,
    "benchmarks.tables": tables.Tables,
}
IN_PROCESSES = ("--numprocesses=3", "--dist=worksteal", "--ignore=tests/slurm")  # the suite's own words for pytest
# The keys that a target itself gives its programs when nobody gives a variable.
OWN = {
    "pretrain": {"model"},
    "eval": {"model", "task"},
    "artifacts": {"model", "task"},
    "cost": {"model"},
    "look": {"model"},
    "checkpoints": {"model"},
    "neurons": {"model"},
    "all": {"pretrain"},
    "test": {"numprocesses", "dist", "ignore"},
}


@pytest.fixture(scope="module")
def venv(tmp_path_factory) -> Path:
    """An environment whose Python prints its words and DATA_ROOT."""
    folder = tmp_path_factory.mktemp("venv")
    program = folder / "bin" / "python"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable} -IS\nimport json, os, sys\n"
        "print(json.dumps({'words': sys.argv[1:], 'DATA_ROOT': os.environ.get('DATA_ROOT')}))\n"
    )
    program.chmod(0o755)
    return folder


def make(venv: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make in the project, with nothing but `environment` from the shell."""
    clean = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, **environment}
    call = ["make", "--no-print-directory", f"VENV={venv}", "READY=", *words]
    return subprocess.run(call, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=60)


def reached(venv: Path, *words: str, **environment: str) -> list[str]:
    """The words that the last program got after its name."""
    done = make(venv, *words, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])["words"][2:]


def lines_of_help() -> dict[str, str]:
    """What `make help` says of each target."""
    shown = make(Path(".venv"), "help").stdout
    return dict(line.split(maxsplit=1) for line in shown.splitlines() if re.match(r"  [a-z-]+ ", line))


TARGETS = sorted(lines_of_help())
VARIABLES = sorted({name for line in lines_of_help().values() for name in re.findall(r"\b([A-Z_]{2,})=", line)})


def test_help_lists_targets_and_variables():
    assert {"help", "data", "pretrain", "eval", "eval-all", "plan", "compare", "test", "lint"} <= set(TARGETS)
    assert {"MODEL", "DATA", "BASE", "HEAD", "ARGS", "GET", "GPUS", "VENV", "DATA_ROOT"} <= set(VARIABLES)


@pytest.mark.parametrize("target", TARGETS)
def test_without_a_variable_a_program_gets_no_key_that_nobody_set(venv, target):
    shown = make(venv, "-n", target)
    assert shown.returncode == 0
    keys = set() if target == "help" else set(re.findall(r"\b(\w+)=", shown.stdout))
    assert keys == OWN.get(target, set())


@pytest.mark.parametrize("target", TARGETS)
def test_the_shells_environment_sets_no_variable(venv, target):
    environment = {name: "evil" for name in VARIABLES if name not in ("VENV", "PYTHON", "DATA_ROOT")}
    assert make(venv, "-n", target, **environment).stdout == make(venv, "-n", target).stdout
    assert make(venv, "-n", "-e", target, **environment).stdout == make(venv, "-n", target).stdout


@pytest.mark.parametrize("target", [target for target in TARGETS if target not in ("help", "setup", "format", "lint")])
def test_a_target_takes_what_its_help_names_and_its_program_knows(venv, target):
    refused = make(venv, target, "GET=x", "STRICT=x").stderr  # no target takes both
    taken = set(re.search(r"it takes (.*)\.  Stop", refused)[1].split(", ")) - {"VENV", "PYTHON", "PY", "READY"}
    named = set(re.findall(r"\b([A-Z]{2,})=", lines_of_help()[target]))
    assert taken - {"RUNS", "RESULTS", "DATA_ROOT"} == named
    done = make(venv, target, *(f"{name}=1" for name in taken - {"ARGS"}))
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        program, *words = json.loads(line)["words"][1:]
        keys = {word.partition("=")[0] for word in words if "=" in word}
        assert keys <= set(
            command.keys(SCHEMAS[program]) if program in SCHEMAS else ["--numprocesses", "--dist", "--ignore"]
        )


VALUES = [
    "/my data",
    "it's.pth",
    "run(1).pth",
    'say "x"',
    "back\\slash",
    "a#b",
    "x; touch {file}",
    "x & touch {file}",
    "$(touch {file})",
    "$(shell touch {file})",
    "`touch {file}`",
    "'; touch {file} #",
    '"; touch {file} #',
    "$HOME ${{HOME}} $$HOME $(HOME)",
    "a,b|c<d>e*?[f]~!%",
    "-n",
    "=x=",
    "ends with blanks  ",
    "größe",
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_reaches_the_program_as_it_is_and_runs_nothing(venv, tmp_path, value):
    file = tmp_path / "F"
    value = value.format(file=file)
    assert f"model={value}" in reached(venv, "eval", f"MODEL={value}")
    assert f"data={value}" in reached(venv, "pretrain", f"DATA={value}", "MODEL=x")
    assert make(venv, "-n", "compare", f"HEAD={value}").returncode == 0
    done = make(venv, "data", f"DATA_ROOT={value}")
    assert json.loads(done.stdout)["DATA_ROOT"] == value
    assert not file.exists()


# What a word of a command line may hold, but for line breaks, and for a blank in front, which make itself drops.
text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(
    lambda t: not t[0].isspace()
)


@settings(max_examples=25, deadline=None)
@given(st.lists(text, min_size=6, max_size=6))
def test_any_text_reaches_the_program(venv, values):
    names = ["MODEL", "RECIPE", "DATA", "VARIANT", "RUNS", "PARTITION"]
    words = reached(venv, "pretrain", *(f"{name}={value}" for name, value in zip(names, values, strict=True)))
    assert sorted(words) == sorted(f"{name.lower()}={value}" for name, value in zip(names, values, strict=True))


@pytest.mark.parametrize(
    "args", ["lr=1e-3 name='a b'", 'd="it\'s" e=f\\ g', "layers=[1,4] *", "h='{a: 1, b: \"x\"}'", "-k 'a and not b'"]
)
def test_args_are_split_as_a_shell_splits_them(venv, args):
    python = f"{sys.executable} -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "
    by_shell = json.loads(subprocess.run(["sh", "-fc", python + args], capture_output=True, text=True).stdout)
    assert [word for word in reached(venv, "test", f"ARGS={args}") if word not in IN_PROCESSES] == by_shell


@pytest.mark.parametrize(
    "args", ["x; touch {file}", "$(touch {file})", "$(shell touch {file})", "`touch {file}`", "a\nb"]
)
def test_args_run_nothing(venv, tmp_path, args):
    args = args.format(file=tmp_path / "F")
    assert reached(venv, "eval", "MODEL=m", "TASK=t", f"ARGS={args}") == ["task=t", "model=m", *shlex.split(args)]
    assert not (tmp_path / "F").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretran"], "no target pretran; nearest: pretrain"),
        (["tabels"], "no target tabels; nearest: tables"),
        (["pretrain", "MODLE=x"], "no target takes a variable MODLE; nearest: MODEL"),
        (["pretrain", "model=x"], "no target takes a variable model; nearest: MODEL"),
        (["pretrain", "EPOCHS=3"], 'ARGS="epochs=..."'),
        (["eval", "RECIPE=dinov2"], "make eval does not take RECIPE; it takes ARGS, CACHE, DATA"),
        (["cost", "GRID=demo"], "make cost does not take GRID; it takes ARGS"),
        (["test", "ARGS='a"], "ARGS: No closing quotation"),
        (["eval", "MODEL=a\nb"], "MODEL: has several lines"),
        (["$(shell touch F)"], "no target"),
    ],
)
def test_a_mistake_is_said_before_anything_runs(venv, words, message):
    done = make(venv, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""
    assert not (ROOT / "F").exists()


def test_several_targets_share_a_command_line(venv):
    words = [
        json.loads(line)["words"][1:] for line in make(venv, "demo", "report", "GRID=mini-paper").stdout.splitlines()
    ]
    assert ["benchmarks.demo", "grid=mini-paper"] in words
    assert ["benchmarks.report"] in words


def test_an_empty_variable_is_not_given(venv):
    assert reached(venv, "data", "GET=", "DATA=mini") == ["data=mini"]


def test_environment_and_data_root_may_come_from_the_shell(venv, tmp_path):
    call = ["make", "READY=", "data"]
    environment = {"PATH": os.environ["PATH"], "VENV": str(venv), "DATA_ROOT": "/a$b $(shell touch F)"}
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"words": ["-m", "benchmarks.data"], "DATA_ROOT": "/a$b $(shell touch F)"}


@pytest.mark.parametrize(
    "name", ["it's", "run(1)", "a$(touch${{IFS}}{file})", "`touch${{IFS}}{file}`", "a&b", "a=b", "$(shell_x)", "größe"]
)
def test_an_environment_is_made_where_it_is_said(tmp_path, name):
    """A program in place of Python makes the folder that `-m venv` names; the environment's own does nothing."""
    file, base = tmp_path / "F", tmp_path / "base"
    base.write_text('#!/bin/sh\nmkdir -p "$3/bin" && ln -s /bin/true "$3/bin/python"\n')
    base.chmod(0o755)
    where = f"{tmp_path}/{name.format(file='F')}"
    clean = {"PATH": os.environ["PATH"]}
    call = ["make", "-C", str(ROOT), f"VENV={where}", f"PYTHON={base}", "setup"]
    done = subprocess.run(call, env=clean, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert Path(where, "bin", "python").is_symlink()
    assert not file.exists()
    assert not (ROOT / "F").exists()


@pytest.mark.parametrize("name", ["a b", "a;touch${IFS}F", "a|b", "a:b", "a%b", "a#b"])
def test_a_path_that_make_cannot_have_is_refused(name):
    done = make(Path(name), "setup", PYTHON="/bin/false")
    assert done.returncode == 2
    assert "make cannot work with a path that has a blank or one of" in done.stderr
    assert not (ROOT / "F").exists()


def test_completion_in_a_shell_sees_the_targets(venv):
    shown = make(venv, "-npq", "__BASH_MAKE_COMPLETION__=1", ".DEFAULT").stdout
    assert all(re.search(rf"^{target}:", shown, re.MULTILINE) for target in TARGETS)
