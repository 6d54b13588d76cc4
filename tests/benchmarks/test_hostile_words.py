"""Any words given to any program end in settings, or in one line with status 2."""

import dataclasses
import sys
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from benchmarks import command
from regvit_lightning import settings
from regvit_lightning.errors import UserError
from tests.test_makefile import SCHEMAS

GROUPS = {"pretrain": "recipes", "evaluate": "tasks"}
PROGRAMS = {name.partition(".")[2]: schema for name, schema in SCHEMAS.items()}
NESTED = ["probes.train_images", "probes.tokens.draws", "rules.factor", "probes.trainimages", "a.b.c", ".", "trainer.x"]

NASTY = st.sampled_from(
    # Numbers, texts and flow notations that are empty, huge, of another alphabet, or would be dangerous if evaluated.
    ["", " ", "nan", "inf", "-inf", "1e999", "-1", "0", "1" * 5000, "0x10", "４", "1_000", "é", "\u202e", "'", '"', "=",
     "a\nb", "\x00", "\x1b[31m", "[", "]", "{", "[1", "[[]]", "{a: [}", "{a: 1, a: 2}", "&a [*a]", "*x",
     "!!python/name:os.x", "${oc.env:HOME}", "${a", "???", "null", "~", "true", "no", "../..", "/", "a/b", "-",
     "--help", "?", "[1,[2]]",
     "{}", "{1: 2}", "1:30", "[" * 2000, "{a: " * 500, "os", "- 1", "# x", "%x", "@", "`", "|", ">"]
)  # fmt: skip
VALUES = NASTY | st.text(max_size=12) | st.integers().map(str) | st.floats().map(str)


def keys(program: str) -> list[str]:
    """Settings of a program, and of its recipes or tasks."""
    own = command.keys(PROGRAMS[program])
    group = GROUPS.get(program)
    modules = [settings.load_settings(group, name)[0] for name in settings.names(group)[:4]] if group else []
    return sorted({*own, *NESTED, "", *(field.name for m in modules for field in dataclasses.fields(m.SETTINGS))})


def said(program: str, words: list[str], capsys) -> tuple[int, str]:
    """Exit status and standard error of a program that is asked for its settings."""
    schema, status = PROGRAMS[program], 0
    with mock.patch.object(sys, "argv", [program, *words, "--print-config"]):
        try:
            command.run(program, "", schema, lambda options, words: None, GROUPS.get(program, ""))
        except SystemExit as stop:
            status = stop.code
    return status, capsys.readouterr().err


BASE = {
    "pretrain": ["model=vitn_reg4"],
    "evaluate": ["model=random-vitn_reg4", "task=artifact_report"],
    "cost": ["model=vitn_reg4"],
    "look": ["model=random-vitn_reg4"],
    "compare": ["base=main"],
}


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_any_word_is_accepted_or_refused_in_one_line(program, capsys):
    pairs = st.tuples(st.sampled_from(keys(program)), VALUES)

    @hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(pairs, min_size=1, max_size=2, unique_by=lambda pair: pair[0]))
    @example([("lr", "inf"), ("results", "")])
    @example([("module", "os")])
    @example([("variant", "1" * 5000)])
    @example([("variant", "/../../x")])
    def check(words):
        base = [word for word in BASE.get(program, []) if word.partition("=")[0] not in dict(words)]
        status, error = said(program, [*base, *(f"{key}={value}" for key, value in words)], capsys)
        assert status in (0, 2)
        assert error.count("\n") == (1 if status else 0)
        assert error.startswith(f"{program}: ") or not status

    check()


@pytest.mark.parametrize(
    ("program", "word", "line"),
    [
        ("pretrain", "lr=inf", "lr=inf: expected a number, in (0, 100]"),
        ("pretrain", "cutmix=-1", "cutmix=-1: must lie in [0, 100]"),
        ("pretrain", "label_smoothing=5", "label_smoothing=5: must lie in [0, 1)"),
        ("pretrain", "workers=100000", "workers=100000: must lie in [0, 256]"),
        ("pretrain", "batch_size=10000000", "batch_size=10000000: must lie in [1, 1e6]"),
        ("pretrain", "devices=0", "devices=0: must lie in [1, 1024]"),
        ("pretrain", "module=os", "module is no word of a command"),
        ("pretrain", "results=", "results=: expected a folder; . is the current one"),
        ("pretrain recipe=dinov2", "layer_decay=0", "layer_decay=0: must lie in (0, 1]"),
        ("pretrain recipe=dinov2", "blur_sigma=[2,1]", "expected two numbers in (0, 1e3], the smaller one first"),
        ("pretrain recipe=openclip", "warmup_steps=-1", "warmup_steps=-1: must lie in [0, 1e9]"),
        ("evaluate task=lost_voc07", "bias=nan", "bias=nan: expected a number, in [-1e9, 1e9]"),
        ("evaluate task=ade20k_linear", "short_side=1000000", "short_side=1000000: must lie in [1, 1e4]"),
        ("evaluate", "probes.trainimages=150", "unknown key 'probes.trainimages'; nearest: probes.train_images"),
        ("evaluate", "results= ", "results= : expected a folder"),
        ("cost", "image_size=0", "image_size=0: must lie in [1, 1e4]"),
        ("look", "size=0", "size=0: must lie in [1, 1e4]"),
        ("look", "most=0", "most=0: must lie in [1, 100]"),
        ("plan", "tflops=0", "tflops=0: must lie in (0, 1e6]"),
        ("tables", "results=", "results=: expected a folder"),
        ("tables", "data=a\nb", "'data=a\\nb' holds a line break or another control character"),
    ],
)
def test_a_bad_value_is_one_line_with_setting_value_and_range(program, word, line, capsys):
    program, *words = program.split()
    base = [one for one in BASE.get(program, []) if one.partition("=")[0] not in {w.partition("=")[0] for w in words}]
    status, error = said(program, [*base, *words, word], capsys)
    assert status == 2
    assert line in error
    assert error.count("\n") == 1


def test_a_nested_setting_is_a_word(capsys):
    words = [*BASE["evaluate"], "probes.train_images=150", "probes.tokens.draws=2"]
    with mock.patch.object(sys, "argv", ["evaluate", *words, "--print-config"]):
        command.run("evaluate", "", PROGRAMS["evaluate"], lambda options, words: None, "tasks")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "train_images: 150 # word" in lines
    assert "draws: 2 # word" in lines


@pytest.mark.parametrize("text", ["${oc.env:SECRET}", "x${oc.env:SECRET,y}"])
def test_a_word_never_reads_the_environment(text, capsys, monkeypatch):
    monkeypatch.setenv("SECRET", "hidden")
    for program, word in (("tables", f"results={text}"), ("pretrain", f"partition={text}"), ("plan", f"grid={text}")):
        with mock.patch.object(sys, "argv", [program, *BASE.get(program, []), word, "--print-config"]):
            command.run(program, "", PROGRAMS[program], lambda options, words: None, GROUPS.get(program, ""))
        shown = capsys.readouterr().out
        assert text in shown
        assert "hidden" not in shown


@pytest.mark.parametrize("data", ["", " ", ".", "..", "/", "../.."])
def test_tables_and_pages_stay_below_the_results(data, tmp_path, monkeypatch):
    from benchmarks.tables.scored_records import data_name

    monkeypatch.chdir("/" if data == "../.." else tmp_path)
    with pytest.raises(UserError, match="expected a name such as mini"):
        data_name(data)
