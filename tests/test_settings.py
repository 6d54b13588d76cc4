"""Settings: composition, types, and errors that help."""

import re
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from regvit_lightning import settings
from regvit_lightning.settings import SettingsError
from regvit_lightning.values import durations


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
        (["lr=1", "name=???"], "name=???: ??? stands for what is not given"),
    ],
)
def test_mistakes_are_told_in_one_line(words, message):
    with pytest.raises(SettingsError, match=re.escape(message)) as error:
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
    hours: float = settings.setting("", 24.0, reader=durations.hours)


@pytest.mark.parametrize(
    "text", ["010", "2024_01", "1e3", "no", "null", "/a/b #c", "[", "{a: 1}", "'q'", " a ", "a=b", "${x}"]
)
def test_a_text_is_taken_as_it_stands(tmp_path, text):
    assert settings.build(Whole, words=[f"path={text}", f"probes.path={text}"]) == Whole(Nested(path=text), path=text)


@pytest.mark.parametrize("text", ["010", "2024_01", "1e3", "no", "null", "1:30"])
def test_a_text_in_a_file_is_a_text(tmp_path, text):
    (tmp_path / "a.yaml").write_text(f"path: {text}   # a comment\nprobes: {{path: {text}}}\n")
    assert settings.build(Whole, [tmp_path / "a.yaml"]) == Whole(Nested(path=text), path=text)


@given(st.text(min_size=1) | st.text("\\${}oc.env:HOME", min_size=1))
@example("${oc.env:HOME}")
@example("\\${oc.env:HOME}")
@example("\\\\${x}\\\\")
@example("${a}\\\\${b}")
def test_any_text_is_taken_as_it_stands(text):
    assume(text != "???")  # OmegaConf's mark of what is missing
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
    assert settings.build(Whole, [file], environment=["path"]) == Whole(Nested(path="${oc.env:SECRET}"), path="/s/a")
    assert settings.build(Whole, [file]).path == "${oc.env:SECRET}/a"
    word = "path=${oc.env:SECRET}"
    assert settings.build(Whole, [file], [word], environment=["path"]).path == "${oc.env:SECRET}"
    monkeypatch.delenv("SECRET")
    with pytest.raises(SettingsError, match=r"a\.yaml: SECRET is not set \(give SECRET=<folder>\)"):
        settings.build(Whole, [file], environment=["path"])


def test_a_grid_does_not_ask_the_environment(tmp_path, monkeypatch):
    from benchmarks.grid.cells import GridFile

    monkeypatch.setenv("SECRET", "/s")
    (tmp_path / "a.yaml").write_text("models: ['${oc.env:SECRET}', 010]\ntasks: [no]\nseeds: [010]\n")
    grid = settings.build(GridFile, [tmp_path / "a.yaml"])
    assert (grid.models, grid.tasks, grid.seeds) == (["${oc.env:SECRET}", "010"], ["no"], [10])


def test_a_wrong_file_is_named(tmp_path):
    broken, unknown = tmp_path / "broken.yaml", tmp_path / "unknown.yaml"
    broken.write_text("lr: [1\n")
    unknown.write_text("lrr: 1\n")
    (tmp_path / "quoted.yaml").write_text("lr: 1\nsizes: '[1]'\n")
    with pytest.raises(SettingsError, match=r"quoted\.yaml: sizes=\[1\]: expected a list"):
        settings.build(Example, [tmp_path / "quoted.yaml"])
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
        head = settings.find(group, name)[-1].read_text().split("\n")
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


# ----------------------------------------------------------------------------------------------------- inheritance


def write(configs, **files):
    """Files of a group, `recipes__my` for `recipes/my.yaml` and `recipes__my__mini` for `recipes/my.mini.yaml`."""
    for name, text in files.items():
        group, *stem = name.split("__")
        (configs / group / f"{'.'.join(stem)}.yaml").write_text(text)


def files_of(*arguments):
    return [path.stem for path in settings.find(*arguments)]


def test_a_file_inherits_over_any_number_of_bases(configs):
    write(configs, recipes__a="base: deit3\nlr: 1.0\nepochs: 7\n", recipes__b="base: a\nlr: 2.0\n")
    _, found = settings.load_settings("recipes", "b")
    _, deit3 = settings.load_settings("recipes", "deit3")
    assert (found.lr, found.epochs, found.batch_size) == (2.0, 7, 2048)
    assert {**settings.resolved(found), "lr": 0, "epochs": 0} == {**settings.resolved(deit3), "lr": 0, "epochs": 0}
    assert "b" in settings.names("recipes")


def test_the_overlay_of_a_base_applies_where_a_file_has_none(configs):
    write(configs, recipes__a="base: deit3\nlr: 0.5\n", recipes__b="base: a\ndrop_path: 0.3\n")
    assert files_of("recipes", "b", "mini") == ["deit3", "deit3.mini", "a", "b"]
    _, found = settings.load_settings("recipes", "b", "mini")
    _, deit3 = settings.load_settings("recipes", "deit3", "mini")
    # What a file says itself stands above what it inherits, overlays included: deit3.mini has lr 5e-3, drop_path 0.
    assert (found.lr, found.drop_path, found.image_size) == (0.5, 0.3, deit3.image_size)
    write(configs, recipes__a__mini="lr: 0.25\n")
    assert files_of("recipes", "b", "mini") == ["deit3", "a", "a.mini", "b"]
    write(configs, recipes__b__mini="drop_path: 0.0\n")
    assert files_of("recipes", "b", "mini") == ["deit3", "a", "b", "b.mini"]
    assert files_of("recipes", "b") == ["deit3", "a", "b"]


def test_a_variant_that_neither_a_file_nor_a_base_has_is_told(configs):
    write(configs, recipes__a="base: deit3\n")
    with pytest.raises(
        SettingsError, match=r"recipe 'a' has no variant 'tiny': configs/recipes/a\.tiny\.yaml; there is "
    ):
        settings.find("recipes", "a", "tiny")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"recipes__a": "base: a\n"}, "configs/recipes/a.yaml: base goes round in a circle: a → a"),
        (
            {"recipes__a": "base: b\n", "recipes__b": "base: c\n", "recipes__c": "base: b\n"},
            "configs/recipes/a.yaml: base goes round in a circle: a → b → c → b",
        ),
        ({"recipes__a": "base: dit3\n"}, "configs/recipes/a.yaml: base: unknown recipe 'dit3'; nearest: "),
        ({"recipes__a": "base: [deit3]\n"}, "configs/recipes/a.yaml: base: unknown recipe"),
    ],
)
def test_a_base_that_leads_nowhere_is_told_in_a_line(configs, files, message):
    write(configs, **files)
    with pytest.raises(SettingsError, match=re.escape(message)) as error:
        settings.load_settings("recipes", "a")
    assert "\n" not in str(error.value)
    assert settings.load_settings("recipes", "deit3")[1].epochs == 240  # the others are what they were


def test_grids_models_and_data_inherit_alike(configs):
    from regvit_lightning.data import layout
    from regvit_lightning.models import vit

    write(configs, models__vitxs="base: vits\ndepth: 3\n", data__other="base: mini\nname: other\n")
    assert vit.parse_name("vitxs_reg4")[0].depth == 3
    assert vit.parse_name("vitxs_reg4")[0].embed_dim == vit.parse_name("vits_reg4")[0].embed_dim
    data = layout.resolve("other")
    assert (data.name, data.variant, data.root) == ("other", "mini", layout.resolve("mini").root)


def test_layers_say_where_values_come_from(configs):
    write(configs, tasks__my="base: lost\nk: 50\n")
    found = settings.layers("tasks", "my_voc12", "mini")
    assert [layer.origin for layer in found] == [
        "configs/tasks/lost.yaml",
        "the name my_voc12",
        "configs/tasks/lost.mini.yaml",
        "configs/tasks/my.yaml",
    ]
    assert found[1].values == {"images": "voc12"}
    assert "images" not in found[0].values  # left to the name
    assert settings.merged("tasks", "my_voc12")["k"] == 50
    assert not any("base" in layer.values for layer in found)


# ------------------------------------------------------------------------------------- a task on every set with boxes


METHODS = ("lost", "lost_sweep", "tokencut")


def test_a_method_is_one_file_and_a_task_on_every_set(configs):
    on_sets = {f"{method}_{boxes}" for method in METHODS for boxes in ("voc07", "voc12", "coco20k")}
    assert on_sets <= set(settings.names("tasks"))
    assert not set(METHODS) & set(settings.names("tasks"))
    assert not [path for path in (configs / "tasks").glob("*") if path.stem.partition(".")[0] in on_sets]
    for method in METHODS:
        assert files_of("tasks", f"{method}_coco20k", "mini") == [method, f"{method}.mini"]
        _, found = settings.load_settings("tasks", f"{method}_coco20k")
        _, other = settings.load_settings("tasks", f"{method}_voc07")
        assert (found.images, other.images) == ("coco20k", "voc07")
        assert {**settings.resolved(found), "images": ""} == {**settings.resolved(other), "images": ""}


def test_records_that_are_kept_have_the_settings_of_today():
    from regvit_lightning import precision, records

    kept = [records.read_record(file) for file in (records.ROOT / "results/mini/cells").glob("*/*.json")]
    assert {record.task for record in kept} >= {"lost_sweep_voc07", "artifact_report"}
    for record in kept:
        _, now, _ = precision.module_and_settings("tasks", record.task, "mini")
        today = settings.resolved(now)
        differ = {line.split()[0] for line in records.changes(record.settings, today)}
        assert differ <= {"precision"}, (record.model, record.task)
        assert list({**today, **record.settings}) == list(today)
        assert today.keys() - record.settings.keys() <= records.EARLIER.keys() | records.FREE_TO_CHANGE


def test_a_method_alone_is_no_task_and_says_which_are():
    with pytest.raises(SettingsError, match="unknown task 'lost'; nearest: lost_voc"):
        settings.find("tasks", "lost")


def test_a_file_may_be_based_on_a_method_or_on_one_of_its_tasks(configs):
    write(configs, tasks__my="base: lost\nk: 50\n", tasks__one="base: my_voc12\n")
    write(configs, tasks__two="base: my\nimages: voc07\n")
    assert {"my_voc07", "my_voc12", "my_coco20k", "one", "two"} <= set(settings.names("tasks"))
    assert "my" not in settings.names("tasks")
    for name, images in (("my_coco20k", "coco20k"), ("one", "voc12"), ("two", "voc07")):
        found = settings.load_settings("tasks", name, "mini")[1]
        assert (found.images, found.k, found.workers) == (images, 50, 1)


def test_a_set_of_the_data_makes_its_tasks(configs):
    text = "name: animals\nroot: data\ndiscovery:\n  raccoon: {layout: voc, folder: pictures}\n"
    write(configs, data__animals=text)
    assert settings.boxed_sets() == ["raccoon", "voc07", "voc12", "coco20k", "kangaroo"]
    assert {f"{method}_raccoon" for method in METHODS} <= set(settings.names("tasks"))
    assert settings.load_settings("tasks", "tokencut_raccoon")[1].images == "raccoon"


def test_a_name_that_may_be_two_tasks_is_refused(configs):
    sets = "discovery: {x: {layout: voc}, sweep_x: {layout: voc}}\n"
    write(configs, data__animals=f"name: animals\nroot: data\n{sets}")
    with pytest.raises(
        SettingsError, match=r"'lost_sweep_x' may be lost\.yaml of the set 'sweep_x' or lost_sweep\.yaml of"
    ):
        settings.find("tasks", "lost_sweep_x")
    assert settings.load_settings("tasks", "lost_x")[1].images == "x"


def test_a_broken_file_breaks_nothing_but_itself(configs):
    write(configs, tasks__broken="lr: [1\n", data__broken="- 1\n", tasks__round="base: round\n")
    assert {"lost_voc07", "broken", "round"} <= set(settings.names("tasks"))
    with pytest.raises(SettingsError, match=r"broken\.yaml"):
        settings.find("tasks", "broken")


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


@dataclass
class Ranges:
    steps: int = settings.number("[1, 10]", 1)
    lr: float = settings.number("(0, 1)")
    sigma: list[float] = settings.number("(0, 2]", [0.1, 2.0], pair=True)
    sizes: list[int] = settings.number("[1, 9]", [3])
    scale: float | None = settings.number("(0, 10]", None)
    counts: dict[str, list[int]] = settings.number("[0, 5]", {})
    hours: float = settings.setting("h", 24.0, durations.hours, within="(0, 48]")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("steps=0", "steps=0: must lie in [1, 10]"),
        ("steps=11", "steps=11: must lie in [1, 10]"),
        ("lr=0", "lr=0: must lie in (0, 1)"),
        ("lr=1", "lr=1: must lie in (0, 1)"),
        ("sigma=[2,1]", "sigma=[2,1]: expected two numbers in (0, 2], the smaller one first"),
        ("sigma=[0,1]", "sigma=[0,1]: expected two numbers in (0, 2], the smaller one first"),
        ("sigma=[1]", "sigma=[1]: expected two numbers in (0, 2], the smaller one first"),
        ("sizes=[3,10]", "sizes=[3,10]: every number must lie in [1, 9]"),
        ("scale=0", "scale=0: must lie in (0, 10]"),
        ("counts={a: [6]}", "counts={a: [6]}: every number must lie in [0, 5]"),
        ("counts.a=[-1]", "counts.a=[-1]: every number must lie in [0, 5]"),
        ("hours=3d", "hours=3d: must lie in (0, 48]"),
    ],
)
def test_a_number_out_of_its_range_is_refused_with_setting_value_and_range(word, told):
    with pytest.raises(SettingsError, match=f"^{re.escape(told)}$"):
        settings.build(Ranges, words=["lr=0.5", word] if word[:2] != "lr" else [word])


def test_the_ends_of_a_range_and_defaults_are_accepted():
    words = ["steps=10", "lr=0.999", "sigma=[2,2]", "sizes=[1,9]", "scale=null", "counts.a=[0,5]", "hours=2d"]
    expected = Ranges(10, 0.999, [2.0, 2.0], [1, 9], None, {"a": [0, 5]}, 48.0)
    assert settings.build(Ranges, words=words) == expected
    assert settings.build(Ranges, words=["lr=0.5"]) == Ranges(lr=0.5)
    first, second = Ranges(lr=0.5), Ranges(lr=0.5)
    assert first.sizes is not second.sizes


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_of_a_checkpoint_are_checked_too(value):
    with pytest.raises(SettingsError, match=r"lr=(nan|-?inf): must lie in \(0, 1\)"):
        settings.from_resolved(Ranges, {"lr": value})


def test_a_missing_variant_names_those_that_there_are():
    with pytest.raises(SettingsError, match=r"deit3\.small\.yaml; there is VARIANT=mini$"):
        settings.layers("recipes", "deit3", "small")


@pytest.mark.parametrize("variant", ["mini", "small"])
def test_every_task_has_valid_settings_in_every_overlay(variant):
    for task in settings.names("tasks"):
        settings.load_settings("tasks", task, variant)
