"""The training images as a LightningDataModule: used by itself with a plain Trainer, and listed once."""

from pathlib import Path

import pytest
import torch
from lightning import Trainer

from regvit_lightning.data import imagenet
from regvit_lightning.models import sources
from regvit_lightning.pretrain import fit
from regvit_lightning.pretrain.data import PretrainingData
from regvit_lightning.pretrain.deit3 import DeiT3
from regvit_lightning.pretrain.recipe import Recipe
from regvit_lightning.settings import SettingsError
from tests.pretrain import test_openclip
from tests.pretrain.test_fit import prepare


def plain_trainer(folder, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False}
    return Trainer(accelerator="cpu", logger=False, default_root_dir=folder, precision="32-true", **quiet, **options)


def test_what_a_recipe_is_built_with(tiny):
    images = PretrainingData(prepare(tiny, Path()).settings, tiny, seed=0)
    images.prepare_data()
    images.setup("fit")
    assert (images.num_classes, len(images.files), images.steps) == (16, 96, 12)
    pairs = PretrainingData(test_openclip.prepare(tiny, Path()).settings, tiny, seed=0)
    pairs.setup("fit")
    assert (pairs.num_classes, len(pairs.files), pairs.steps) == (0, 4, 12)
    with pytest.raises(SettingsError, match="batch_size=97 is above the 96 images of 1 epochs"):
        PretrainingData(prepare(tiny, Path(), "batch_size=97", "epochs=1").settings, tiny, 0).setup("fit")


def test_a_plain_trainer_trains_the_weights_of_the_suite_and_its_checkpoint_can_be_evaluated(tiny, tmp_path):
    run = prepare(tiny, tmp_path / "run", "precision=32-true", "epochs=1", "monitor_every=0")
    fit.fit(run)
    images = PretrainingData(run.settings, tiny, seed=0)
    images.prepare_data()
    images.setup("fit")
    recipe = fit._recipe(run, images.num_classes, images.steps)
    trainer = plain_trainer(tmp_path, max_steps=images.steps)
    trainer.fit(recipe, images)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    ours, theirs = (Recipe.load_from_checkpoint(path) for path in (run.folder / "last.ckpt", tmp_path / "own.ckpt"))
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in theirs.state_dict().items())
    backbone = sources.load_backbone(str(tmp_path / "own.ckpt"), Path())
    assert (backbone.name, backbone.num_registers, backbone.image_size) == ("deit3-vitn_reg2-own", 2, 64)


def test_a_recipe_trains_on_a_data_module_of_the_users(tiny, tmp_path):
    from torch.utils.data import DataLoader

    module = DeiT3(prepare(tiny, Path(), "monitor_every=1").settings, "vitn_reg2", 3, 2, 0)
    samples = [
        {"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "label": torch.tensor(label)} for label in (0, 1, 2, 0)
    ]
    trainer = plain_trainer(tmp_path, max_steps=2)
    trainer.fit(module, DataLoader(samples, batch_size=2))
    assert trainer.global_step == 2


def test_images_are_listed_once_for_a_run(tiny, tmp_path, monkeypatch):
    listed = []
    real = imagenet.index
    monkeypatch.setattr(imagenet, "index", lambda *a: listed.append(a) or real(*a))
    fit.fit(prepare(tiny, tmp_path / "run", "epochs=1"))
    assert len(listed) == 1
