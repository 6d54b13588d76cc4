"""What every recipe offers to a Lightning user: checkpoints that build it again, and `forward`."""

from pathlib import Path

import pytest
import torch

from regvit_lightning import settings
from regvit_lightning.errors import UserError
from regvit_lightning.models import sources
from regvit_lightning.pretrain import fit
from regvit_lightning.pretrain.deit3 import DeiT3
from regvit_lightning.pretrain.dinov2 import DINOv2
from regvit_lightning.pretrain.openclip import OpenClip
from regvit_lightning.pretrain.recipe import Recipe
from regvit_lightning.settings import SettingsError
from tests.pretrain import test_fit, test_openclip
from tests.pretrain.dinov2 import test_recipe as dinov2
from tests.pretrain.dinov2 import test_run

RECIPES = {"deit3": (DeiT3, test_fit), "openclip": (OpenClip, test_openclip), "dinov2": (DINOv2, test_run)}


@pytest.fixture(scope="module", params=RECIPES)
def trained(request, tiny, tmp_path_factory):
    """A class of recipes, and a short run of it."""
    kind, tests = RECIPES[request.param]
    run = tests.prepare(tiny, tmp_path_factory.mktemp("runs") / request.param, "epochs=1")
    if request.param == "openclip":
        run = tests.prepare(tiny, run.folder, "epochs=2", "warmup_steps=1")
    fit.fit(run)
    return kind, run


def images(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("whose", ["its own class", "Recipe"])
def test_a_checkpoint_of_a_run_is_all_that_is_needed(trained, whose):
    kind, run = trained
    last = run.folder / "last.ckpt"
    recipe = (kind if whose == "its own class" else Recipe).load_from_checkpoint(last)
    assert type(recipe) is kind
    assert recipe.settings == run.settings
    assert (recipe.model, recipe.seed) == (run.model, run.seed)
    kept = torch.load(last, weights_only=True)  # nothing in the file is executed
    assert recipe.steps == kept["global_step"]
    state = recipe.state_dict()
    assert state.keys() == kept["state_dict"].keys()
    assert all(torch.equal(state[name], value) for name, value in kept["state_dict"].items())


def test_forward_gives_the_tokens_of_the_exported_backbone(trained):
    kind, run = trained
    recipe = kind.load_from_checkpoint(run.folder / "last.ckpt").eval()
    backbone = sources.load_backbone(str(run.folder / "backbone.safetensors"), Path())
    batch = images(2, 3, 32, 48)  # neither square nor of the size that it was trained at
    tokens, expected = recipe(batch), backbone(recipe.normalise(batch), [-1], True)[0]
    for ours, theirs in zip(vars(tokens).values(), vars(expected).values(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert tokens.patches.shape == (2, 4, 6, 96)


def test_forward_has_a_graph(trained):
    kind, run = trained
    recipe = kind.load_from_checkpoint(run.folder / "last.ckpt").eval()  # without stochastic depth
    recipe.backbone.requires_grad_(True)
    recipe(images(1, 3, 32, 32)).registers[..., 0].sum().backward()  # all of a normalised vector always have one sum
    assert recipe.backbone.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_images_that_are_not_uint8_are_refused():
    recipe = dinov2.recipe()
    for wrong in (torch.rand(2, 3, 32, 32), images(3, 32, 32), images(2, 4, 32, 32)):
        with pytest.raises(SettingsError, match=r"expected uint8 \(B, 3, H, W\), got torch\."):
            recipe(wrong)


def test_a_final_phase_needs_the_checkpoint_before_it_no_more(tmp_path):
    before = dinov2.checkpoint(dinov2.recipe(), tmp_path / "before.ckpt")
    after = dinov2.recipe(before)
    kept = {"state_dict": after.state_dict(), "hyper_parameters": dict(after.hparams)}
    torch.save({**kept, "pytorch-lightning_version": "2.6.0"}, tmp_path / "last.ckpt")
    (tmp_path / "before.ckpt").unlink()
    found = Recipe.load_from_checkpoint(tmp_path / "last.ckpt")
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in found.state_dict().items())
    assert after.settings.start_from  # the run itself still says where it began


@pytest.mark.parametrize(
    "content", [b"no", None, {"state_dict": {}}, {"hyper_parameters": {"settings": {"module": "no"}}}]
)
def test_other_files_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "a.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=r"a\.ckpt: not a checkpoint of a pretraining recipe") as error:
        Recipe.load_from_checkpoint(path)
    assert "\n" not in str(error.value)


def test_settings_come_back_from_their_plain_values_with_defaults_for_what_is_new():
    chosen = settings.load_settings("recipes", "dinov2", "mini")[1]
    plain = settings.resolved(chosen)
    assert settings.from_resolved(type(chosen), plain) == chosen
    del plain["compile"]
    assert settings.from_resolved(type(chosen), plain) == chosen
    with pytest.raises(SettingsError, match="not settings of DINOv2Settings"):
        settings.from_resolved(type(chosen), {**plain, "epoks": 3})
    with pytest.raises(SettingsError, match=r"drop_path=2\.0"):
        settings.from_resolved(type(chosen), {**plain, "drop_path": 2.0})
