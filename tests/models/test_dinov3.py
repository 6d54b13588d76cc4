"""DINOv3 under the names of its own release, written by hand from timm's model of the same computation."""

import pytest
import timm
import torch
from torch import Tensor

from regvit_lightning.errors import UserError
from regvit_lightning.models import weights
from regvit_lightning.models.sources import load_backbone
from tests.models.test_hugging_face import assert_same, named, randomised, write

MODELS = ["vit_small_patch16_dinov3_qkvb", "vit_small_plus_patch16_dinov3_qkvb"]


def reference(name: str) -> torch.nn.Module:
    shape = {"embed_dim": 128, "depth": 2, "num_heads": 2, "img_size": 64, "num_classes": 0}
    return randomised(timm.create_model(name, **shape))


def released(model: torch.nn.Module) -> dict[str, Tensor]:
    """The state dict of facebookresearch/dinov3: a bias for q, k and v, of which a mask leaves out k's."""
    changes = {
        "reg_token": "storage_tokens",
        "fc1_g": "w1",
        "fc1_x": "w2",
        "gamma_1": "ls1.gamma",
        "gamma_2": "ls2.gamma",
    }
    changes |= {"mlp.fc2": "mlp.w3"} if "blocks.0.mlp.fc1_g.weight" in model.state_dict() else {}
    named = {"mask_token": torch.zeros(1, 128), "rope_embed.periods": torch.ones(16)}
    state = model.state_dict()
    for name, tensor in state.items():
        if name.endswith("q_bias"):
            block = name.removesuffix("q_bias")
            named[f"{block}qkv.bias"] = torch.cat([tensor, torch.ones(128), state[f"{block}v_bias"]])
            named[f"{block}qkv.bias_mask"] = torch.cat([torch.ones(128), torch.zeros(128), torch.ones(128)])
        elif not name.endswith("v_bias"):
            for own, theirs in changes.items():
                name = name.replace(own, theirs)
            named[name] = tensor
    return named


@pytest.mark.parametrize("name", MODELS)
def test_features_are_those_of_timm(tmp_path, name):
    model, path = reference(name), tmp_path / "dinov3_vits16_pretrain.pth"
    torch.save(released(model), path)
    assert_same(path, model, 64)
    backbone = load_backbone(path)
    assert (backbone.name, backbone.num_registers, backbone.image_size) == ("dinov3_vits16_pretrain", 4, 224)
    assert backbone.fingerprint == weights.fingerprint(model.state_dict())
    assert backbone(torch.zeros(1, 3, 32, 48)).patches.shape == (1, 2, 3, 128)


def test_the_naming_of_transformers_is_the_same_model(tmp_path):
    """Three namings, one fingerprint; without a configuration heads are 64 wide, and a gate has SiLU."""
    for name, kind in zip(MODELS, ("dinov3", "gated dinov3"), strict=True):
        model = reference(name)
        path = write(tmp_path / kind, kind, named(kind, model))
        path.with_name("config.json").unlink()
        assert_same(path, model, 64)
        assert load_backbone(path).fingerprint == weights.fingerprint(model.state_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_embed.proj.weight": torch.ones(128, 3, 16, 8)}, "not a DINOv3 ViT: no square patches"),
        ({"blocks.0.mlp.fc2.weight": None}, "not a DINOv3 ViT: .* or no MLP"),
        ({"norm.bias": None, "other": torch.ones(2)}, "missing: norm.bias; unexpected: other"),
    ],
)
def test_loading_is_strict(tmp_path, changes, message):
    state = {**released(reference(MODELS[0])), **changes}
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=message) as caught:
        load_backbone(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)
