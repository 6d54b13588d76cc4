"""Settings that a grid varies: a tag for each entry, one model more for each, trained and evaluated under it."""

import csv
import json
import re
from pathlib import Path

import pytest

from benchmarks.grid import cells as grids
from benchmarks.grid import variations
from benchmarks.grid.cells import PRETRAINING
from benchmarks.grid.make_commands import Commands
from benchmarks.grid.states import States
from benchmarks.grid.variations import GridModel, tag_of, vary, words_of
from regvit_lightning import records, settings
from tests.benchmarks.test_chain import mistake, program

QUICK = "epochs: 1, batch_size: 16, device_batch: 16, workers: 0"


def grid_of(place, models, entries, tasks="[imagenet_knn]"):
    file = place / "varied.yaml"
    file.write_text(f"models: [{models}]\nsettings: [{entries}]\ntasks: {tasks}\nseeds: [0]\n")
    return file


def chosen(place, **more):
    folders = {"runs": str(place / "runs"), "results": str(place / "results")}
    return grids.Chosen(grid=str(place / "varied.yaml"), **folders, **more)


# ----------------------------------------------------------------------------------------------------------- tags


@pytest.mark.parametrize(
    ("entry", "tag"),
    [
        ({}, ""),
        ({"lr": 0.001}, "lr0.001"),
        ({"lr": 1e-05}, "lr1e-05"),
        ({"lr": 2000000.0 * 1e10}, "lr2e16"),
        ({"lr": 0.002, "drop_path": 0.1}, "lr0.002-drop_path0.1"),
        ({"images": "imagenet", "compile": True}, "imagesimagenet-compiletrue"),
        ({"global_scale": [0.4, 1.0]}, "global_scale-0.4-1.0"),
        ({"layer_scale": None}, "layer_scalenull"),
        ({"lr": 0.002, "tag": "big"}, "big"),
        ({"tag": "again"}, "again"),
    ],
)
def test_tags(entry, tag):
    assert tag_of(entry) == tag


def test_words_are_what_the_recipe_takes_and_the_tag_is_none():
    entry = {"lr": 0.002, "layer_scale": None, "global_scale": [0.4, 1.0], "tag": "x", "centring": "sinkhorn"}
    words = words_of(entry)
    assert words == ("lr=0.002", "layer_scale=null", "global_scale=[0.4, 1.0]", "centring=sinkhorn")
    found = settings.load_settings("recipes", "dinov2", "mini", [word for word in words if not word.startswith("lr")])[
        1
    ]
    assert (found.layer_scale, found.global_scale, found.centring) == (None, [0.4, 1.0], "sinkhorn")


# --------------------------------------------------------------------------------------------------------- models


def test_each_entry_is_a_model_and_models_of_others_are_what_they_are():
    models = ["random-vitn_reg4", "deit3-vitn_reg0", "timm/vit_x", "a/b.safetensors", "deit3+own-vitn_reg0"]
    assert vary(models, [{}, {"lr": 0.1}, {"lr": 0.2, "tag": "big"}]) == [
        GridModel("random-vitn_reg4"),
        GridModel("deit3-vitn_reg0", (), True),
        GridModel("deit3+lr0.1-vitn_reg0", ("lr=0.1",), True),
        GridModel("deit3+big-vitn_reg0", ("lr=0.2",), True),
        GridModel("timm/vit_x"),
        GridModel("a/b.safetensors"),
        GridModel("deit3+own-vitn_reg0"),
    ]
    assert [model.name for model in vary(models, [])] == models


def test_the_recipe_as_it_is_is_there_only_where_it_is_listed():
    assert [model.name for model in vary(["deit3-vitn_reg0"], [{"lr": 0.1}])] == ["deit3+lr0.1-vitn_reg0"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("{lr: 1e-3}, {lr: 0.001}", "two entries have the tag 'lr0.001'; give one of them another with tag: <name>"),
        ("{lr: 1, tag: a}, {lr: 2, tag: a}", "two entries have the tag 'a'"),
        ("{}, {}", "two entries are the recipe as it is"),
        ("{lr: 1, tag: 2e-3}", "tag: 0.002: expected a text; put it in quotes"),
        ("{lr: 1, tag: ''}", "expected a text"),
        ("{lr: 1, tag: a b}", "tag=a b: expected letters"),
        ("{lr: 1, tag: x_reg4}", "tag=x_reg4: must not hold _reg<N>"),
        ("{lrr: 1}", "recipe deit3 with lrr=1: unknown key 'lrr'; nearest: lr"),
        ("{lr: high}", "recipe deit3 with lr=high: lr=high"),
        ("{epochs: 0}", "epochs=0: must lie in (0, 1e6]"),
        ("{seed: 1}", "unknown key 'seed'"),
        ("1", "settings="),
        ("[lr]", "settings="),
    ],
)
def test_mistakes_in_entries_are_told_in_a_line_before_anything_runs(tmp_path, entries, message):
    grid_of(tmp_path, "deit3-vitn_reg0", entries)
    assert message in mistake("grid", f"grid={tmp_path}/varied.yaml", f"runs={tmp_path}", f"results={tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["varied.yaml"]


def test_a_recipe_of_the_grid_without_the_setting_is_an_error(tmp_path):
    grid_of(tmp_path, "deit3-vitn_reg0, dinov2-vitn_reg0", "{lr: 0.1}")
    line = mistake("grid", f"grid={tmp_path}/varied.yaml", f"runs={tmp_path}", f"results={tmp_path}")
    assert "recipe dinov2 with lr=0.1: unknown key 'lr'; nearest: " in line


# --------------------------------------------------------------------------------------------------- shapes, models


def test_a_shape_becomes_part_of_the_name_and_no_setting_of_the_recipe():
    entries = [{"model": {"depth": 8, "width": 128}}, {"model": {"patch_size": 4}, "lr": 0.1, "tag": "big"}]
    assert vary(["deit3-vitn_reg0", "deit3-vitn16_d2_reg4"], entries) == [
        GridModel("deit3-vitn_d8_w128_reg0", (), True),
        GridModel("deit3+big-vitn4_reg0", ("lr=0.1",), True),
        GridModel("deit3-vitn16_d8_w128_reg4", (), True),
        GridModel("deit3+big-vitn4_d2_reg4", ("lr=0.1",), True),
    ]


def test_shapes_alone_need_no_tag_to_be_told_apart():
    entries = [{}, {"model": {"depth": 2}}, {"model": {"depth": 3}}, {"lr": 0.1}, {"model": {"depth": 2}, "lr": 0.1}]
    assert [model.name for model in vary(["deit3-vitn_reg0"], entries)] == [
        "deit3-vitn_reg0",
        "deit3-vitn_d2_reg0",
        "deit3-vitn_d3_reg0",
        "deit3+lr0.1-vitn_reg0",
        "deit3+lr0.1-vitn_d2_reg0",
    ]


def test_an_entry_for_some_models_is_for_no_other():
    models = ["deit3-vitn_reg0", "deit3-vitn_reg4", "random-vitn_reg4"]
    entries = [{}, {"lr": 0.1, "models": ["deit3-vitn_reg4"]}]
    assert [model.name for model in vary(models, entries)] == [
        "deit3-vitn_reg0",
        "deit3-vitn_reg4",
        "deit3+lr0.1-vitn_reg4",
        "random-vitn_reg4",
    ]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("{model: {dept: 8}}", "settings: model: unknown key 'dept'; nearest: depth"),
        ("{model: {depth: 0}}", "settings: model: depth: 0: expected a whole number of at least 1"),
        ("{model: {depth: 1.5}}", "settings: model: depth: 1.5: expected a whole number"),
        ("{model: {width: 100}}", "the width must be a multiple of 32, the width of one head of its size"),
        ("{model: 8}", "settings: model: 8: expected keys depth, width, patch_size"),
        ("{models: deit3-vitn_reg0}", "settings: models: deit3-vitn_reg0: expected a list of models"),
        (
            "{models: [deit3-vitn_reg4]}",
            "deit3-vitn_reg4 is no model of the grid that is trained without a tag",
        ),
        ("{model: {depth: 2}}, {model: {depth: 2}}", "two entries are the recipe as it is"),
    ],
)
def test_mistakes_in_shapes_and_models_are_told_before_anything_runs(tmp_path, entries, message):
    grid_of(tmp_path, "deit3-vitn_reg0", entries)
    with pytest.raises(settings.SettingsError, match=re.escape(message)):
        grids.build(chosen(tmp_path))


def test_a_shape_is_trained_and_evaluated_under_its_name(tmp_path):
    grid_of(tmp_path, "deit3-vitn_reg0", "{model: {depth: 2, width: 32}, lr: 0.1, tag: small}")
    built = grids.build(chosen(tmp_path, pretrain=True))
    commands = Commands(chosen(tmp_path), built, force=False)
    pretraining, evaluation = built.cells
    assert {"model=vitn_d2_w32_reg0", "tag=small", "lr=0.1"} <= set(commands.words(pretraining))
    assert evaluation.model == "deit3+small-vitn_d2_w32_reg0"


# ---------------------------------------------------------------------------------------------------------- cells


def test_cells_are_trained_with_their_entry_and_evaluated_under_its_tag(tmp_path):
    grid_of(tmp_path, "random-vitn_reg4, deit3-vitn_reg0", "{}, {lr: 0.1, tag: big}")
    built = grids.build(chosen(tmp_path, pretrain=True))
    assert [(cell.model, cell.task, cell.words) for cell in built.cells] == [
        ("deit3-vitn_reg0", PRETRAINING, ()),
        ("deit3+big-vitn_reg0", PRETRAINING, ("lr=0.1",)),
        ("random-vitn_reg4", "imagenet_knn", ()),
        ("deit3-vitn_reg0", "imagenet_knn", ()),
        ("deit3+big-vitn_reg0", "imagenet_knn", ()),
    ]
    assert [cell.needs for cell in built.cells] == [None, None, None, *built.cells[:2]]
    commands = Commands(chosen(tmp_path), built, force=False)
    plain, big = (commands.words(cell) for cell in built.cells[:2])
    assert {"model=vitn_reg0", "recipe=deit3", "tag=big", "lr=0.1"} <= set(big)
    assert not [word for word in plain if word.startswith(("tag=", "lr="))]
    assert "model=deit3+big-vitn_reg0" in commands.words(built.cells[4])


def test_what_a_pretraining_asks_for_is_that_of_its_entry(tmp_path):
    grid_of(tmp_path, "deit3-vitn_reg0", "{workers: 7}, {workers: 3}")
    built = grids.build(chosen(tmp_path, pretrain=True))
    commands = Commands(chosen(tmp_path), built, force=False)
    assert [commands.workers(cell) for cell in built.cells if cell.pretrains] == [7, 3]


def test_a_text_tower_of_an_entry_is_seen(tmp_path):
    grid_of(tmp_path, "deit3-vitn_reg0", "{}, {images: pairs}", "[imagenet_zeroshot]")
    built = grids.build(chosen(tmp_path))
    assert [cell.model for cell in built.cells] == ["deit3+imagespairs-vitn_reg0"]


def test_a_tag_whose_settings_nobody_knows_is_evaluated_and_not_trained(tmp_path):
    grid_of(tmp_path, "deit3+own-vitn_reg0", "")
    built = grids.build(chosen(tmp_path, pretrain=True))
    assert [(cell.model, cell.task, cell.needs) for cell in built.cells] == [
        ("deit3+own-vitn_reg0", "imagenet_knn", None)
    ]
    assert built.left_out == ["pretrain of deit3+own-vitn_reg0: the grid does not know the settings of its tag"]
    state = States(built).of(built.cells[0])
    assert not state.runnable
    assert 'make pretrain MODEL=vitn_reg0 RECIPE=deit3 TAG=own SEED=0 ARGS="<the settings of this tag>"' in state.note


def test_recipes_of_ids():
    assert variations.recipe("deit3+own-vitn_reg0") == "deit3"
    assert variations.recipe("dinov2_8gpu-vitn_reg0") == "dinov2_8gpu"
    for model in ("random-vitn_reg4", "deit4+own-vitn_reg0", "timm/deit3-vitn_reg0", "deit3-vitn"):
        assert variations.recipe(model) == ""


# ----------------------------------------------------------------------------------------------------- the whole chain


@pytest.fixture
def pictures(tiny, tmp_path):
    """Class folders and boxes in one folder, given by its path."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("imagenet/train", "imagenet/val", "VOCdevkit"):
        (folder / Path(name).name).symlink_to(Path(tiny.root) / name)
    return folder


@pytest.mark.usefixtures("norms_undrawn")
def test_a_grid_with_settings_from_folders_to_a_table(pictures, tmp_path):
    entries = f"{{{QUICK}, tag: usual}}, {{{QUICK}, lr: 1.0e-2, tag: quick}}"
    grid = grid_of(tmp_path, "deit3-vitn_reg0, deit3-vitn_reg4", entries, "[lost_voc07]")
    options = chosen(tmp_path, data=str(pictures), variant="mini", pretrain=True)
    built = grids.build(options)
    commands = Commands(options, built, force=False)
    for cell in built.cells:  # what the grid's children run, without the seconds of starting each
        program(commands.program(cell), *commands.words(cell), *([] if cell.pretrains else ["workers=0"]))
    where = [f"grid={grid}", f"data={pictures}", "variant=mini", f"runs={tmp_path}/runs"]
    where += [f"results={tmp_path}/results", "pretrain=true"]
    assert "8 done" in program("status", *where)
    assert "8 cells, 8 done, 0 to do" in program("grid", *where)
    results, models = tmp_path / "results" / "pictures", [cell.model for cell in built.cells if cell.pretrains]
    assert {folder.name for folder in (results / "cells").iterdir()} == set(models)
    files = (tmp_path / "runs" / "pictures" / f"deit3+{tag}-vitn_reg4" / "seed0" for tag in ("usual", "quick"))
    assert [json.loads((folder / "run.json").read_text())["lr"] for folder in files] == [5e-3, 1e-2]
    # Each tag is a row of its own, and its twin is the one with the same tag.
    program("tables", "data=pictures", f"results={tmp_path}/results")
    rows = (results / "tables" / "overview.csv").read_text().splitlines()
    shown = {row["model"]: row for row in csv.DictReader(rows) if row["model"].startswith("deit3")}
    assert list(shown) == [f"deit3+{tag}-vitn_reg{count}" for tag in ("quick", "usual") for count in (0, 4)]
    found = {model: records.read_record(results / "cells" / model / "lost_voc07.seed0.json") for model in models}
    for tag in ("quick", "usual"):
        without, with_registers = (found[f"deit3+{tag}-vitn_reg{count}"].metrics["corloc"] for count in (0, 4))
        change = shown[f"deit3+{tag}-vitn_reg4"]["lost_voc07 corloc change"]
        assert float(change) == pytest.approx(with_registers - without, abs=0.05)
        assert not shown[f"deit3+{tag}-vitn_reg0"]["lost_voc07 corloc change"]
