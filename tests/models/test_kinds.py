"""The kind of a model follows from its recipe, timm's name or its tensors, whatever its file is called."""

import pytest
import timm
import torch

from regvit_lightning.models import kinds, sources, vit, weights
from regvit_lightning.models.metadata import Metadata


@pytest.mark.parametrize(
    ("recipe", "kind"),
    [
        ("deit3", "deit3"),
        ("deit3_in1k", "deit3"),
        ("deit3+lr1", "deit3"),
        ("openclip", "clip"),
        ("dinov2_in1k", "other"),
        ("dinov2+like-deit3-and-clip", "other"),
        ("eclipse", "other"),
    ],
)
def test_a_recipe_is_known_by_its_module_without_the_tag(recipe, kind):
    assert kinds.of_recipe(recipe) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("vit_base_patch16_clip_224.laion2b", "clip"),
        ("eva02_base_patch16_clip_224", "clip"),
        ("deit3_small_patch16_224.fb_in1k", "deit3"),
        ("vit_large_patch14_reg4_dinov2.lvd142m", "other"),
        ("vit_small_patch16_224.dino", "other"),
        ("vit_base_patch16_siglip_224", "other"),
    ],
)
def test_timms_architectures(name, kind):
    assert kinds.of_architecture(name) == kind


# An architecture of each kind: what its released file holds, and the kind that it is.
TIMM = {
    "deit3_small_patch16_224": "deit3",
    "vit_base_patch16_clip_224": "clip",
    "vit_small_patch14_dinov2": "other",
    "vit_small_patch14_reg4_dinov2": "other",
    "vit_small_patch16_224": "other",
    "deit_small_patch16_224": "other",
}


@pytest.mark.parametrize(("name", "kind"), TIMM.items())
def test_a_file_in_timms_naming_is_known_by_its_tensors(name, kind):
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    assert kinds.of_tensors(state) == kind


def test_a_file_in_deit3s_own_naming_is_known_by_its_tensors():
    with torch.device("meta"):
        state = timm.create_model("deit3_small_patch16_224").state_dict()
    own = {name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): value for name, value in state.items()}
    assert kinds.of_tensors(own) == "deit3"


@pytest.mark.parametrize("stem", ["eclipse", "my-deit3-clip", "model_clip"])
def test_the_name_of_a_file_decides_nothing(tmp_path, stem):
    """A ViT without LayerScale in timm's naming, under names that contain `clip`."""
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1)
    torch.save(model.state_dict(), tmp_path / f"{stem}.pth")
    assert sources.load_backbone(tmp_path / f"{stem}.pth").kind == "other"


def test_a_clip_tower_called_plain_is_clip(tmp_path):
    model = timm.create_model("vit_base_patch16_clip_224", num_classes=0, depth=1)
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    backbone = sources.load_backbone(tmp_path / "plain.pth")
    assert backbone.kind == backbone.facts()["kind"] == "clip"


@pytest.mark.parametrize(("recipe", "kind"), [("deit3+a", "deit3"), ("openclip", "clip"), ("dinov2", "other")])
def test_a_model_trained_here_has_the_kind_of_its_recipe(tmp_path, recipe, kind):
    model, facts = vit.build("vitn_reg1", image_size=64), ((0.5,) * 3, (0.5,) * 3, None, 1)
    weights.save(tmp_path / "eclipse.safetensors", model, Metadata("vitn_reg1", recipe, 64, *facts))
    assert sources.load_backbone(tmp_path / "eclipse.safetensors").kind == kind
