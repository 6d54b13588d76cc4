"""Length of a run: in passes over the data, which may be a fraction, or in optimiser steps."""

import json
from pathlib import Path

import pytest
import torch

from regvit_lightning import settings
from regvit_lightning.errors import UserError
from regvit_lightning.pretrain import fit
from regvit_lightning.pretrain.data import PretrainingData
from regvit_lightning.pretrain.deit3 import DeiT3
from regvit_lightning.pretrain.recipe import Recipe, recipe_class
from regvit_lightning.settings import SettingsError
from tests.pretrain.test_fit import prepare, same_bits


@pytest.mark.parametrize(
    ("words", "drawn", "steps"),
    [  # 100 images, 16 in a step
        (["epochs=2"], 200, 12),
        (["epochs=2.5"], 250, 15),
        (["epochs=0.29"], 29, 1),  # 0.29 * 100 is below 29 in floating point
        (["epochs=0.1"], 10, 0),
        (["steps=7", "epochs=null"], 112, 7),
        (["steps=10000", "epochs=null"], 160_000, 10_000),
    ],
)
def test_length_by_hand(words, drawn, steps):
    chosen = settings.load_settings("recipes", "deit3", "mini", ["batch_size=16", "warmup_epochs=0", *words])[1]
    assert (chosen.images_in_all(100), chosen.steps_in_all(100)) == (drawn, steps)
    assert chosen.epochs_in_all(100) == pytest.approx(drawn / 100)


@pytest.mark.parametrize("recipe", ["deit3", "dinov2", "openclip"])
def test_the_cost_of_a_run_counts_the_images_of_its_steps(recipe):
    chosen = settings.load_settings("recipes", recipe, "mini", ["steps=10", "epochs=null"])[1]
    work = recipe_class(chosen.module).work(chosen, {chosen.images: [1_000_000]})
    crops = 2 if recipe == "dinov2" else 1
    assert work.passes[0].images == 10 * chosen.batch_size * crops


@pytest.mark.parametrize("recipe", ["deit3", "dinov2", "openclip"])
def test_two_lengths_or_none_are_refused(recipe):
    with pytest.raises(SettingsError, match=r"epochs=3\.0 and steps=5 are two lengths; add epochs=null or steps=null"):
        settings.load_settings("recipes", recipe, "mini", ["steps=5", "epochs=3"])
    with pytest.raises(SettingsError, match="a run has no length: give epochs= or steps="):
        settings.load_settings("recipes", recipe, "mini", ["epochs=null"])
    with pytest.raises(SettingsError, match=r"steps=0: must lie in \[1, 1e9\]"):
        settings.load_settings("recipes", recipe, "mini", ["steps=0", "epochs=null"])


def test_a_run_in_steps_is_the_run_in_epochs_of_that_length(tiny, tmp_path):
    """96 images in batches of 16: half a pass is three steps, of which a warm-up of a third of a pass takes two."""
    half = prepare(tiny, tmp_path / "half", "epochs=0.5", "warmup_epochs=0.3333")
    three = prepare(tiny, tmp_path / "three", "steps=3", "epochs=null", "warmup_epochs=0.3333")
    for run in (half, three):
        fit.fit(run)
        assert fit.finished(run)
    assert same_bits(half.folder, three.folder)
    assert torch.load(three.folder / "last.ckpt", weights_only=True)["global_step"] == 3
    kept = json.loads((three.folder / "run.json").read_text())
    assert (kept["steps"], kept["epochs"]) == (3, None)
    again = Recipe.load_from_checkpoint(three.folder / "last.ckpt")
    assert (again.steps, again.epochs, again.warmup) == (3, 0.5, 2)
    assert [again.schedule(step)["lr"] for step in range(3)] == [
        Recipe.load_from_checkpoint(half.folder / "last.ckpt").schedule(step)["lr"] for step in range(3)
    ]
    with pytest.raises(UserError, match=r"holds a run with other settings \(steps: 3 -> 4"):
        fit.fit(prepare(tiny, three.folder, "steps=4", "epochs=null", "warmup_epochs=0.3333"))


def test_the_length_in_epochs_follows_from_the_number_of_images(tiny):
    run = prepare(tiny, Path(), "steps=9", "epochs=null", "warmup_epochs=1")
    images = PretrainingData(run.settings, tiny, seed=0)
    images.setup("fit")
    assert (images.steps, images.epochs) == (9, 1.5)


def test_a_run_in_epochs_before_there_were_steps_is_the_same_run(tiny, tmp_path):
    run = prepare(tiny, tmp_path / "run", "epochs=1")
    fit.fit(run)
    kept = json.loads((run.folder / "run.json").read_text())
    del kept["steps"]
    kept["epochs"] = 1
    (run.folder / "run.json").write_text(json.dumps(kept))
    assert fit.finished(run)


def test_a_warmup_longer_than_the_run_names_the_remedy(tiny, tmp_path):
    with pytest.raises(
        SettingsError, match=r"warmup_epochs=3 is above the 2\.5 epochs of the run; give warmup_epochs=0 or"
    ):
        prepare(tiny, Path(), "epochs=2.5", "warmup_epochs=3")
    run = prepare(tiny, tmp_path / "run", "steps=6", "epochs=null", "warmup_epochs=3")  # a pass over 96 images
    with pytest.raises(
        SettingsError, match="warmup_epochs=3 is above the 1 epochs of the run; give warmup_epochs=0 or"
    ):
        fit.fit(run)
    assert not run.folder.exists()
    with pytest.raises(SettingsError, match="steps=6: the warm-up is in epochs"):
        DeiT3(run.settings, "vitn_reg2", 16, 6, 0)


@pytest.mark.parametrize("name", ["warmup", "teacher_warmup", "freeze_last_layer"])
def test_a_warmup_longer_than_the_schedule_of_dinov2_names_the_remedy(name):
    longer = f"{name}=200 is above schedule_epochs=100, the length of the run; give {name}=0 or a smaller one"
    with pytest.raises(SettingsError, match=longer):
        settings.load_settings("recipes", "dinov2", "mini", [f"{name}=200"])


def test_a_warmup_longer_than_the_run_of_openclip_names_the_remedy(tiny):
    chosen = settings.load_settings("recipes", "openclip", "mini", ["steps=12", "epochs=null"])[1]
    longer = "warmup_steps=50 is above the 12 steps of the run; give warmup_steps=0 or a smaller one, or a longer run"
    with pytest.raises(SettingsError, match=longer):
        recipe_class("openclip")(chosen, "vitn_reg0", 0, 12, 0)
