"""The command that makes a record again gives its settings, and no shell reads anything else into it."""

import dataclasses
import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.report import commands
from regvit_lightning import settings
from tests.benchmarks.report.pages_by_hand import EVIL, record


@pytest.mark.parametrize("task", settings.names("tasks"))
@pytest.mark.parametrize("words", [[], ["device_batch=7", "precision=32-true"]])
def test_a_command_gives_the_settings_of_its_record(task, words):
    if task == "ade20k_ms":
        words = [*words, "decode_head={type: UPerHead, channels: 512, norm_cfg: {type: BN}}"]
    _, chosen = settings.load_settings("tasks", task, "mini", words)
    made = dataclasses.replace(record(task=task), settings=settings.resolved(chosen))
    make, evaluate, *given = shlex.split(commands.command(made))
    assert (make, evaluate) == ("make", "eval")
    values = dict(word.partition("=")[::2] for word in given)
    assert values["MODEL"] == "deit3-vitn_reg4"
    _, again = settings.load_settings(
        "tasks", values["TASK"], values.get("VARIANT", "mini"), shlex.split(values.get("ARGS", ""))
    )
    ours, theirs = (settings.resolved(one) for one in (again, chosen))
    assert {**ours, "device_batch": 0} == {**theirs, "device_batch": 0}  # it may be run with another


def test_a_run_with_a_tag_is_evaluated_by_its_id():
    made = dataclasses.replace(record(), model="deit3+lr2e-3-vitn_reg4")
    assert commands.command(made).startswith("make eval MODEL=deit3+lr2e-3-vitn_reg4 TASK=imagenet_knn ")
    unknown = dataclasses.replace(record(), model="deit9+lr2e-3-vitn_reg4")
    assert commands.command(unknown).startswith("# no command: ")


@pytest.mark.parametrize("name", [EVIL, "a b", "$(touch /tmp/x)", "`x`", "a;b", "a'b", "é"])
def test_a_name_that_a_shell_would_read_makes_no_command(name):
    for changed in ({"model": name}, {"data": "other", "data_root": name}, {"task": name}):
        made = commands.command(dataclasses.replace(record(), **changed))
        assert made.startswith("# no command: ")
        assert name not in made or changed.get("task") == name
    for evil in ({"view": name}, {name: 1}, {"view": {name: 1}}, {"view": [name]}):
        made = commands.command(dataclasses.replace(record(), settings=evil))
        assert made == "# no command: settings of this record cannot be given as words"


ODD = st.text(st.sampled_from("a0_-.@+/ \n\t;&|<>$`'\"\\(){}[]*?!#~^=:,%…"), max_size=12)


@given(
    ODD,
    ODD,
    st.recursive(ODD | st.integers() | st.floats(), lambda inner: st.lists(inner) | st.dictionaries(ODD, inner)),
)
def test_whatever_a_record_says_its_command_is_one_line_without_a_shells_signs(name, key, value):
    for changed in ({"model": name}, {"weights": name}, {"data_root": name}, {"settings": {key: value}}):
        made = commands.command(dataclasses.replace(record(), **changed))
        assert "\n" not in made
        if not made.startswith("# no command: "):
            outside = re.sub(r' ARGS="[^"]*"', "", made)
            assert re.fullmatch(r"make eval [\w.@+/= …-]+ RESULTS=again", outside)
            for inside in re.findall(r'ARGS="([^"]*)"', made):
                assert re.fullmatch(r"[\w.@+/=' :,{}\[\]-]*", inside)
                assert all(word.count("=") for word in shlex.split(inside))


def test_commands_of_other_models():
    for name in ("vit_large_patch14_reg4_dinov2.lvd142m", "timm-vit_large_patch14_reg4_dinov2.lvd142m"):
        assert " MODEL=timm/vit_large_patch14_reg4_dinov2.lvd142m " in commands.command(record(name))
    assert " MODEL=random-timm/vit_tiny_patch16_224 " in commands.command(record("random-timm-vit_tiny_patch16_224"))
    assert commands.command(record("somebodys-weights")) == (
        "# no command: MODEL is the path of the weights' file, of which only the name is known"
    )
    assert " MODEL=random-vitn_reg4 " in commands.command(record("random-vitn_reg4"))


def changed_at_test_time(model, source, seed=2, **more):
    intervention = {"kind": "ttr", "neurons_by_block": {"1": [3]}, "source": source}
    made = dataclasses.replace(record(model, seed=seed), backbone={"num_registers": 0, "intervention": intervention})
    return dataclasses.replace(made, **more)


def words_of(line):
    make, word, *given = shlex.split(line)
    assert make == "make"
    return word, dict(one.partition("=")[::2] for one in given)


def test_a_model_with_a_test_time_register_needs_its_neurons_first():
    made = changed_at_test_time(
        "deit3+a-vitn_reg0+ttr", "make neurons, 500 train images of mini at 64 px, score contrast"
    )
    first, then = commands.command(made).split(" && ")
    assert words_of(first) == ("neurons", {"MODEL": "deit3+a-vitn_reg0", "DATA": "mini", "SEED": "2"})
    word, given = words_of(then)
    assert (word, given["MODEL"], given["SEED"]) == ("eval", "deit3+a-vitn_reg0+ttr", "2")
    plain = dataclasses.replace(made, model="deit3+a-vitn_reg0", backbone={"num_registers": 0})
    assert commands.command(plain) == then.replace("+ttr", "")


def test_another_search_of_neurons_is_made_again_as_it_was():
    source = "make neurons, 1,200 train images of photos at 64 px, score activation"
    first, _ = commands.command(changed_at_test_time("random-vitn_reg4+bias_per_block", source)).split(" && ")
    word, given = words_of(first)
    assert (word, given["MODEL"], given["DATA"]) == ("neurons", "random-vitn_reg4", "photos")
    assert sorted(given["ARGS"].split()) == ["images=1200", "score=activation"]


def test_published_neurons_are_taken_by_their_name():
    source = settings.read_yaml(settings.CONFIGS / "neurons" / "dinov2_vitl14.yaml")["source"]
    first, then = commands.command(changed_at_test_time("timm-vit_large_patch14_dinov2.lvd142m+ttr", source)).split(
        " && "
    )
    assert words_of(first)[1]["ARGS"] == "known=dinov2_vitl14"
    assert words_of(first)[1]["MODEL"] == "timm/vit_large_patch14_dinov2.lvd142m"
    assert words_of(then)[1]["MODEL"] == "timm/vit_large_patch14_dinov2.lvd142m+ttr"


@pytest.mark.parametrize("name", [EVIL, "$(touch /tmp/x)", "a;b", "a'b"])
def test_a_hostile_source_of_neurons_is_no_part_of_a_command(name):
    for source in (name, f"make neurons, 500 train images of {name} at 64 px, score contrast", [name], {name: name}):
        line = commands.command(changed_at_test_time("deit3-vitn_reg0+ttr", source))
        assert name not in line
        assert line.startswith("make neurons MODEL=deit3-vitn_reg0 DATA=mini SEED=2 && make eval ")


def trained(model="deit3-vitn_reg4", words=(), **changed):
    """A record of a model that was trained with the settings of its recipe and `words`."""
    _, chosen = settings.load_settings("recipes", "deit3", "mini", list(words))
    backbone = {"num_registers": 4, "trained_with": settings.resolved(chosen)}
    return dataclasses.replace(record(model), backbone=backbone, **changed)


@pytest.mark.parametrize("words", [[], ["lr=0.002", "epochs=3.0"]])
def test_the_command_that_trains_a_model_gives_the_settings_in_its_weights(words):
    made = trained("deit3+mine-vitn_reg4", words, seed=3)
    make, pretrain, *given = shlex.split(commands.training(made))
    assert (make, pretrain) == ("make", "pretrain")
    values = dict(word.partition("=")[::2] for word in given)
    expected = {"MODEL": "vitn_reg4", "RECIPE": "deit3", "TAG": "mine", "DATA": "mini", "SEED": "3", "RESULTS": "again"}
    assert {key: value for key, value in values.items() if key in expected} == expected
    further = shlex.split(values.get("ARGS", ""))
    assert sorted(further) == sorted(words)  # nothing that the recipe says by itself
    _, again = settings.load_settings("recipes", "deit3", values.get("VARIANT", "mini"), further)
    assert settings.resolved(again) == made.backbone["trained_with"]


def test_no_command_trains_what_no_recipe_here_has_trained():
    assert commands.training(record()) == ""  # the record does not say how
    assert commands.training(trained("random-vitn_reg4")) == ""
    assert commands.training(trained("vit_small_patch16_224")) == ""
    assert commands.training(trained("deit9-vitn_reg4")) == ""


@pytest.mark.parametrize("name", [EVIL, "a b", "$(touch /tmp/x)", "`x`", "a;b", "a'b"])
def test_a_hostile_record_trains_nothing(name):
    elsewhere = trained(data="other", data_root=name)
    assert commands.training(elsewhere).startswith("# no command: ")
    for evil in ({"lr": name}, {name: 1}, {"lr": {name: 1}}):
        made = dataclasses.replace(record(), backbone={"trained_with": evil})
        assert commands.training(made) == "# no command: settings of this record cannot be given as words"
