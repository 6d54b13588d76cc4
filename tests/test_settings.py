"""Settings: composition, types, and errors that help."""

import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regvit_lightning import settings
from regvit_lightning.settings import SettingsError
from regvit_lightning.values.durations import Hours


@dataclass
class Example:
    lr: float = settings.MISSING
    epochs: int = 3
    name: str = ""
    sizes: list[int] = field(default_factory=lambda: [1])


def test_files_merge_left_to_right_and_words_come_last(tmp_path):
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("lr: 1.0\nepochs: 5\nname: first\n")
    second.write_text("epochs: 7\n")
    found = settings.build(Example, [first, second], ["name=word", "sizes=[2,4]"])
    assert found == Example(lr=1.0, epochs=7, name="word", sizes=[2, 4])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lr=1", "epoch=3"], "unknown key 'epoch'; nearest: epochs"),
        (["lr=1", "epochs=many"], "epochs=many"),
        (["lr=1", "epochs=1.5"], "epochs=1.5"),
        (["lr=1", "sizes=3"], "sizes=3"),
        (["epochs=3"], "not set: lr"),
        (["lr"], "'lr' is not of the form key=value"),
        (["lr=1", "lr=2"], "'lr' is given twice"),
        (["lr=1", "sizes=[", "epochs=1"], "not readable"),
    ],
)
def test_mistakes_are_told_in_one_line(words, message):
    with pytest.raises(SettingsError, match=message.replace("[", r"\[")) as error:
        settings.build(Example, words=words)
    assert "\n" not in str(error.value)


@dataclass
class Nested:
    images: int = 10
    path: str = ""


@dataclass
class Whole:
    probes: Nested = field(default_factory=Nested)
    extra: dict[str, Any] = field(default_factory=dict)
    path: str = ""
    rate: float | None = 0.5
    hours: Hours = 24.0


@pytest.mark.parametrize(
    "text", ["010", "2024_01", "1e3", "no", "null", "/a/b #c", "[", "{a: 1}", "'q'", " a ", "a=b", "${x}"]
)
def test_a_text_is_taken_as_it_stands(tmp_path, text):
    assert settings.build(Whole, words=[f"path={text}", f"probes.path={text}"]) == Whole(Nested(path=text), path=text)


@pytest.mark.parametrize("text", ["010", "2024_01", "1e3", "no", "null", "1:30"])
def test_a_text_in_a_file_is_a_text(tmp_path, text):
    (tmp_path / "a.yaml").write_text(f"path: {text}   # a comment\nprobes: {{path: {text}}}\n")
    assert settings.build(Whole, [tmp_path / "a.yaml"]) == Whole(Nested(path=text), path=text)


@given(st.text())
def test_any_text_is_taken_as_it_stands(text):
    assert settings.build(Whole, words=[f"path={text}"]).path == text
    assert settings.resolved(settings.build(Whole, words=[f"path={text}"]))["path"] == text


def test_words_of_every_type():
    words = ["probes.images=010", "extra={a: [1, no]}", "extra.b.c=1e-3", "rate=null", "hours=1:30"]
    assert settings.build(Whole, words=words) == Whole(Nested(10), {"a": [1, "no"], "b": {"c": 0.001}}, "", None, 1.5)
    assert settings.build(Whole, words=["probes={images: 3}", "probes.path=x"]).probes == Nested(3, "x")
    with pytest.raises(SettingsError, match=r"^unknown key 'probes\.image'; nearest: probes\.images"):
        settings.build(Whole, words=["probes.image=1"])
    with pytest.raises(SettingsError, match=r"^probes\.images=1_0: expected a whole number$"):
        settings.build(Whole, words=["probes.images=1_0"])
    with pytest.raises(SettingsError, match=r"^probes=\{images: x\}: images: expected a whole number$"):
        settings.build(Whole, words=["probes={images: x}"])


def test_the_environment_is_asked_by_files_of_data_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "/s")
    file = tmp_path / "a.yaml"
    file.write_text("path: ${oc.env:SECRET}/a\nprobes: {path: '${oc.env:SECRET}'}\n")
    assert settings.build(Whole, [file], environment=True) == Whole(Nested(path="/s"), path="/s/a")
    assert settings.build(Whole, [file]).path == "${oc.env:SECRET}/a"
    word = "path=${oc.env:SECRET}"
    assert settings.build(Whole, [file], [word], environment=True).path == "${oc.env:SECRET}"
    monkeypatch.delenv("SECRET")
    with pytest.raises(SettingsError, match=r"a\.yaml: SECRET is not set \(give SECRET=<folder>\)"):
        settings.build(Whole, [file], environment=True)


def test_a_wrong_file_is_named(tmp_path):
    broken, unknown = tmp_path / "broken.yaml", tmp_path / "unknown.yaml"
    broken.write_text("lr: [1\n")
    unknown.write_text("lrr: 1\n")
    with pytest.raises(SettingsError, match=r"broken\.yaml"):
        settings.build(Example, [broken])
    with pytest.raises(SettingsError, match=r"unknown\.yaml: unknown key 'lrr'; nearest: lr"):
        settings.build(Example, [unknown])


@pytest.mark.parametrize("recipe", settings.names("recipes"))
@pytest.mark.parametrize("variant", ["", "mini"])
def test_every_shipped_recipe_builds_and_lists_every_setting(recipe, variant):
    _, built = settings.load_settings("recipes", recipe, variant)
    listed = {key for path in settings.find("recipes", recipe) for key in settings.read_yaml(path)} - {"base"}
    assert listed == set(settings.resolved(built))


@pytest.mark.parametrize("task", settings.names("tasks"))
@pytest.mark.parametrize("variant", ["", "mini"])
def test_every_shipped_task_builds_and_lists_every_setting(task, variant):
    module, built = settings.load_settings("tasks", task, variant)
    listed = {key for path in settings.find("tasks", task) for key in settings.read_yaml(path)} - {"base"}
    assert listed == set(settings.resolved(built))
    assert module.METRICS


@pytest.mark.parametrize("group", ["recipes", "tasks"])
def test_every_shipped_protocol_opens_with_what_command_and_expectation(group):
    for name in settings.names(group):
        head = (settings.CONFIGS / group / f"{name}.yaml").read_text().split("\n")
        comment = "\n".join(line for line in head if line.startswith("#"))
        assert head[0].startswith("# ")
        assert "make " in comment
        assert "Hardware and time" in comment


def test_every_grid_names_tasks_and_recipes_that_exist():
    from benchmarks.grid.cells import GridFile

    for name in settings.names("grids"):
        cells = settings.build(GridFile, settings.find("grids", name))
        assert set(cells.tasks) <= set(settings.names("tasks"))
        ours = {model.partition("-")[0] for model in cells.models if not model.startswith("timm/")}
        assert ours <= {"random", *settings.names("recipes")}


def test_unknown_names_and_variants():
    with pytest.raises(SettingsError, match="unknown recipe 'deit'; nearest: deit3"):
        settings.find("recipes", "deit")
    with pytest.raises(SettingsError, match="unknown task 'imagenet_lin'; nearest: imagenet_linear"):
        settings.find("tasks", "imagenet_lin")
    with pytest.raises(SettingsError, match="no variant 'tiny'"):
        settings.find("recipes", "deit3", "tiny")


def test_data_root_is_asked_for(monkeypatch):
    from regvit_lightning.data import layout

    monkeypatch.delenv("DATA_ROOT", raising=False)
    with pytest.raises(SettingsError, match="DATA_ROOT is not set"):
        layout.resolve("full")


@pytest.mark.parametrize("program", ["pretrain", "evaluate", "grid", "tables", "data", "speed"])
def test_help_answers_without_heavy_imports(program):
    code = (
        "import sys, runpy; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module('benchmarks.{program}', run_name='__main__')\n"
        "finally: assert not {'torch', 'lightning', 'matplotlib'} & set(sys.modules), 'heavy import'\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
    assert "Settings" in shown.stdout
    assert "data" in shown.stdout
