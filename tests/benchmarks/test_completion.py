"""Completion: what is offered is what the programs take, and bash and zsh put it into the line as it stands."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import COMMANDS, completion
from regvit_lightning import settings
from regvit_lightning.pretrain import parallel
from regvit_lightning.runtime import hardware, loggers

ROOT = Path(__file__).resolve().parents[2]


def keys_of(line):
    return [word.removesuffix("=") for word in completion.completions(line) if word.endswith("=")]


def test_commands():
    assert completion.completions("regvit ") == list(COMMANDS)
    assert completion.completions("regvit ev") == ["eval", "eval-all"]
    assert completion.completions("regvit nothing model=") == []


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "completion"])
def test_every_word_that_is_offered_is_taken_and_none_is_left_out(name):
    command = COMMANDS[name]
    fixed = {word.partition("=")[0] for word in command.words}
    schema = completion.schema_of(command.program)
    assert set(keys_of(f"regvit {name} ")) >= {field.name for field in dataclasses.fields(schema)} - fixed
    assert not set(keys_of(f"regvit {name} ")) & fixed


@pytest.mark.parametrize(
    ("command", "group", "names"),
    [("eval task", "tasks", settings.names("tasks")), ("pretrain recipe", "recipes", settings.names("recipes"))],
)
def test_keys_of_a_task_or_recipe_are_its_settings(command, group, names):
    for name in names:
        module, _ = settings.load_settings(group, name)
        own = {field.name for field in dataclasses.fields(module.SETTINGS)} - {"module", "version"}
        assert own <= set(keys_of(f"regvit {command}={name} "))


def test_a_key_that_stands_there_is_not_offered_again():
    assert "model=" not in completion.completions("regvit eval model=random-vitn_reg0 ")
    assert "task=" in completion.completions("regvit eval model=random-vitn_reg0 ")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        (
            "regvit eval task=imagenet_",
            [f"task=imagenet_{name}" for name in ("attentive", "knn", "linear", "zeroshot")],
        ),
        ("regvit pretrain recipe=open", ["recipe=openclip"]),
        ("regvit all grid=mini-p", ["grid=mini-paper"]),
        ("regvit data data=mi", ["data=mini", "data=mini-plain"]),
        ("regvit study study=", ["study=emergence", "study=emergence-gpu"]),
        ("regvit data get=nyu", ["get=nyu_test", "get=nyu_train"]),
        ("regvit eval task=imagenet_knn variant=", ["variant=auto", "variant=mini", "variant=small"]),
        ("regvit eval task=tokencut_coco20k variant=m", ["variant=mini"]),
        ("regvit pretrain launcher=", ["launcher=local", "launcher=slurm"]),
        ("regvit pretrain force=", ["force=true", "force=false"]),
        ("regvit pretrain recipe=deit3 compile=t", ["compile=true"]),
        ("regvit pretrain model=vitg_reg", [f"model=vitg_reg{count}" for count in (0, 1, 2, 4, 8, 16)]),
        ("regvit eval results=/", []),
        ("regvit completion ", ["bash", "zsh"]),
    ],
)
def test_values(line, offered):
    assert completion.completions(line) == offered


def test_choices_are_those_that_are_taken(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # which the choice of the processor sets
    assert completion.CHOICES["logger"] == loggers.KINDS
    assert completion.CHOICES["strategy"] == parallel.STRATEGIES
    for name in completion.CHOICES["precision"]:
        assert hardware.precision(name) in completion.CHOICES["precision"]
    for name in completion.CHOICES["accelerator"]:
        hardware.choose_accelerator(name, 1)


def test_models_of_an_evaluation_are_trained_ones_first(tmp_path):
    trained = tmp_path / "mini" / "deit3-vitn_reg4" / "seed0"
    trained.mkdir(parents=True)
    assert "model=deit3-vitn_reg4" not in completion.completions(f"regvit eval runs={tmp_path} model=")
    (trained / "backbone.safetensors").touch()
    offered = completion.completions(f"regvit eval runs={tmp_path} model=")
    assert offered[0] == "model=deit3-vitn_reg4"
    assert {"model=random-vitb_reg4", "model=timm/"} <= set(offered)
    assert "model=vitb_reg4" not in offered
    assert "model=vitb_reg4" in completion.completions("regvit cost model=")


# ------------------------------------------------------------------------------------------------------ in the shells


@pytest.fixture
def command(tmp_path):
    """A folder with the command `regvit` of this code."""
    script = tmp_path / "regvit"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m benchmarks "$@"\n')
    script.chmod(0o755)
    return tmp_path


def bash(folder, line):
    """What bash would put in place of the last of the words that it sees in `line`."""
    script = (
        'eval "$(regvit completion bash)"; COMP_LINE="$1" COMP_POINT=${#1}; compopt() { echo "compopt $@"; }; '
        'complete -p regvit; _regvit regvit; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script, "_", line], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    registered, *offered = done.stdout.splitlines()
    assert registered == "complete -o default -F _regvit regvit"
    return offered


def test_bash(command):
    assert bash(command, "regvit ar") == ["artifacts"]
    assert bash(command, "regvit eval tas") == ["compopt -o nospace", "task="]
    assert bash(command, "regvit eval task=lost_voc") == ["lost_voc07", "lost_voc12"]  # bash has cut at `=`
    assert bash(command, "regvit eval model=timm/vit_small_patch14_reg4") == [
        "timm/vit_small_patch14_reg4_dinov2.lvd142m"
    ]
    assert bash(command, "regvit eval results=/") == [""]
    assert bash(command, "regvit nothing ") == [""]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
def test_zsh(command):
    script = (
        'autoload -Uz compinit; compinit -D; eval "$(regvit completion zsh)"; '
        'compadd() { print -r -- "$@" }; compset() { :; }; _files() { print files }; '
        'words=(${(z)1}); [[ $1 == *" " ]] && words+=(""); CURRENT=$#words; _regvit'
    )
    environment = {**os.environ, "PATH": f"{command}:{os.environ['PATH']}"}

    def offered(line):
        done = subprocess.run(["zsh", "-fc", script, "_", line], env=environment, capture_output=True, text=True)
        assert done.stderr == ""
        return done.stdout.split()

    assert "artifacts" in offered("regvit ar")
    assert "task=" in offered("regvit eval tas")
    assert "task=lost_voc07" in offered("regvit eval task=lost_voc")
    assert offered("regvit eval results=/") == ["files"]
