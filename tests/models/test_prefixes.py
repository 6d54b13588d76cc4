"""Prefixes that users meet, put before the names of a model whose features are known."""

import warnings

import pytest
import timm
import torch
from torch import Tensor

from regvit_lightning.errors import Notice, UserError
from regvit_lightning.models import prefixes
from regvit_lightning.models.sources import load_backbone


@pytest.fixture(scope="module")
def model():
    shape = {"embed_dim": 96, "depth": 2, "num_heads": 3, "img_size": 56, "num_classes": 0}
    return timm.create_model("vit_small_patch14_reg4_dinov2", **shape).eval()


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        "teacher.backbone.",
        "model.",
        "module.base_encoder.",
        "net.",
        "student.",
        "module.",
        "backbone.",
        "encoder.",
        "student_ema.module.",
        "module._orig_mod.backbone.",
    ],
)
@torch.no_grad()
def test_a_prefix_is_taken_off_with_one_line(tmp_path, model, prefix):
    beside = {"queue": torch.ones(3), f"{prefix}head.weight": torch.ones(2, 96)}  # the head is dropped as ever
    torch.save({**under(prefix, model.state_dict()), **beside}, tmp_path / "theirs.pth")
    with pytest.warns(Notice) as caught:
        backbone = load_backbone(tmp_path / "theirs.pth")
    line, guess = (str(warning.message) for warning in caught)
    assert "3 heads" in guess
    assert line == f"{tmp_path / 'theirs.pth'}: read without the prefix '{prefix}' of its names; tensors left out: 1"
    images = torch.randn(1, 3, 56, 56)
    torch.testing.assert_close(backbone(images).cls, model.forward_features(images)[:, 0])


@pytest.mark.parametrize(
    ("chosen", "other"),
    [
        ("teacher.backbone.", "student.backbone."),
        ("module.teacher.", "module.student."),
        ("module.base_encoder.", "module.momentum_encoder."),
        ("ema.", "model."),
        ("model_ema.", "model."),
    ],
)
def test_of_two_backbones_the_one_that_is_evaluated(chosen, other):
    anchor = "patch_embed.proj.weight"
    state = {f"{other}{anchor}": torch.zeros(1), f"{chosen}{anchor}": torch.ones(1)}
    with pytest.warns(Notice, match=rf"prefix '{chosen}' of its names; tensors left out: 1"):
        assert prefixes.without_prefix(state, "x").state == {anchor: torch.ones(1)}


def test_two_backbones_and_no_rule():
    state = {f"{prefix}.patch_embed.proj.weight": torch.ones(1) for prefix in ("left", "right", "schema")}
    with pytest.raises(UserError, match=r"x: holds several .*\(left\., right\., schema\.\); choose one: x:part="):
        prefixes.without_prefix(state, "x")


@pytest.mark.parametrize(
    "names", [["patch_embed.proj.weight", "copy.patch_embed.proj.weight"], ["conv1.weight", "module.fc.weight"], []]
)
def test_names_without_a_prefix_stay_and_nothing_is_said(names):
    state = {name: torch.ones(1) for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prefixes.without_prefix(state, "x").state == state
