"""`--help` has the values that would be taken, and answers at once."""

import subprocess
import sys

import pytest

from regvit_lightning import settings
from tests.benchmarks.test_chain import mistake, program


def helped(name, *words):
    """The lines of help, by setting."""
    rows = program(name, *words, "--help").splitlines()
    return {row.split("=<")[0].strip(): row for row in rows if "=<" in row and row.startswith("  ")}


def value(rows, key):
    return rows[key].rpartition(" [")[2].removesuffix("]")


def test_help_has_the_values_of_the_data_that_would_be_taken(monkeypatch):
    monkeypatch.delenv("DATA_ROOT", raising=False)
    full = {"epochs": "240", "batch_size": "2048", "image_size": "224", "lr": "1.0e-3", "loss": "softmax"}
    mini = {"epochs": "14", "batch_size": "48", "image_size": "64", "lr": "5.0e-3", "loss": "softmax"}
    for words, expected in (
        ([], mini),
        (["data=mini"], mini),
        (["data=full"], full),
        (["variant="], full),
        (["data=full", "variant=mini"], mini),
        (["epochs=3"], {**mini, "epochs": "3"}),
        (["recipe=deit3_in1k", "data=full"], {"epochs": "800", "image_size": "192", "loss": "bce"}),
    ):
        rows = helped("pretrain", *words)
        assert {key: value(rows, key) for key in expected} == expected


def test_help_has_the_words_of_the_program_itself():
    rows = helped("pretrain", "model=vitb_reg16", "recipe=dinov2", "seed=3")
    assert [value(rows, key) for key in ("model", "recipe", "seed", "data")] == ["vitb_reg16", "dinov2", "3", "mini"]


def test_help_takes_the_overlay_of_a_base_and_of_data_of_its_own(configs):
    (configs / "recipes" / "my.yaml").write_text("# Mine.\nbase: deit3\nlr: 0.5\n")
    (configs / "data" / "small.yaml").write_text("base: mini\nname: small\n")
    rows = helped("pretrain", "recipe=my", "data=small")
    assert [value(rows, key) for key in ("lr", "epochs")] == ["0.5", "14"]
    assert "(configs/recipes/deit3.yaml, configs/recipes/deit3.mini.yaml, configs/recipes/my.yaml)" in program(
        "pretrain", "recipe=my", "data=small", "--help"
    )


def test_help_of_nested_settings_is_under_names_that_words_take():
    rows = helped(
        "evaluate", "task=artifact_report", "data=full", "probes.local.pixels=normalised", "rules={factor: 4}"
    )
    found = [value(rows, key) for key in ("rules.factor", "rules.mads", "probes.tokens.draws", "probes.local.pixels")]
    assert found == ["4", "5", "5", "normalised"]
    words = [f"{key}={value(rows, key)}" for key in rows if key.startswith(("rules.", "probes."))]
    settings.load_settings("tasks", "artifact_report", "", words)


@pytest.mark.parametrize("task", settings.names("tasks"))
def test_every_task_is_helped_and_named(task):
    rows = helped("evaluate", f"task={task}")
    _, chosen = settings.load_settings("tasks", task, "mini")
    assert {key.partition(".")[0] for key in rows} >= set(settings.resolved(chosen))
    assert task in program("evaluate", "--help")


def test_help_opens_with_what_the_files_say():
    shown = program("evaluate", "task=lost_voc12", "--help")
    assert "# Source: Siméoni et al. 2021" in shown
    assert "# Rendered images of about 160" in shown
    assert "lost_voc12 (VOC2012 trainval, 11,540)" in shown
    assert value(helped("evaluate", "task=lost_voc12"), "images") == "voc12"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipe=deit4"], "unknown recipe 'deit4'; nearest: deit3"),
        (["data=minni"], "data 'minni' is neither a folder nor a name of configs/data; nearest: mini"),
        (["variant=huge"], "recipe 'deit3' has no variant 'huge'"),
        (["epoch=3"], "unknown key 'epoch'; nearest: epochs"),
        (["lr=1", "lr=2"], "'lr' is given twice"),
    ],
)
def test_mistakes_are_told_by_help_too(words, message):
    assert message in mistake("pretrain", *words, "--help")


def test_help_answers_at_once_with_a_recipe_and_a_task():
    for words in (["pretrain", "recipe=dinov2"], ["evaluate", "task=artifact_report"], ["evaluate", "task=lost_voc07"]):
        code = (
            f"import sys, runpy; sys.argv = ['x', {words[1]!r}, '--help']\n"
            f"try: runpy.run_module('benchmarks.{words[0]}', run_name='__main__')\n"
            "finally: assert not {'torch', 'lightning', 'numpy', 'timm', 'matplotlib'} & set(sys.modules), 'heavy'\n"
        )
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert shown.returncode == 0, shown.stderr
        assert "device_batch=<int>" in shown.stdout
