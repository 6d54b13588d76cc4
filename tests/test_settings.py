"""Settings: composition, types, and errors that help."""

import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from regvit_lightning import settings
from regvit_lightning.settings import SettingsError


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
        (["lr=1", "name=[", "epochs=1"], "not readable"),
    ],
)
def test_mistakes_are_told_in_one_line(words, message):
    with pytest.raises(SettingsError, match=message.replace("[", r"\[")) as error:
        settings.build(Example, words=words)
    assert "\n" not in str(error.value)


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
