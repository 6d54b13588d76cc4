"""Interpolation of position embeddings against torch's own with the arguments of each reference, at other sizes."""

import math

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regvit_lightning.models import positions, weights
from regvit_lightning.models.sources import load_backbone
from tests.models.test_weights import hub_dinov2, randomised, tiny

GRIDS = [(4, 4), (7, 7), (2, 2), (3, 5), (9, 2)]


def of_dinov2(embedding: Tensor, grid: tuple[int, int]) -> Tensor:
    """`interpolate_offset=0.1, interpolate_antialias=False`, as facebookresearch/dinov2's hub builds ViTs without
    registers: a scale factor that is a little too large, and the output size that follows from it."""
    side = math.isqrt(embedding.shape[1])
    square = embedding.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = (float(grid[0] + 0.1) / side, float(grid[1] + 0.1) / side)
    new = square if grid == (side, side) else F.interpolate(square, scale_factor=scale, mode="bicubic")
    assert tuple(new.shape[-2:]) == grid
    return new.permute(0, 2, 3, 1).reshape(1, -1, embedding.shape[-1])


def of_size(embedding: Tensor, grid: tuple[int, int], antialias: bool) -> Tensor:
    side = math.isqrt(embedding.shape[1])
    square = embedding.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    new = F.interpolate(square, size=grid, mode="bicubic", align_corners=False, antialias=antialias)
    return new.permute(0, 2, 3, 1).reshape(1, -1, embedding.shape[-1])


EXPECTED = {
    "offset": of_dinov2,
    "plain": lambda embedding, grid: of_size(embedding, grid, False),
    "antialiased": lambda embedding, grid: of_size(embedding, grid, True),
}


@torch.no_grad()
def features(model: nn.Module, embedding: Tensor, images: Tensor) -> Tensor:
    """timm's model of DINOv2 with all position embeddings given: (B, 1 + h * w, D)."""
    tokens = model.patch_embed(images).flatten(1, 2)
    tokens = torch.cat([model.cls_token.expand(len(images), -1, -1), tokens], dim=1) + embedding
    return model.norm(model.blocks(tokens))


@pytest.mark.parametrize("grid", GRIDS)
def test_register_free_dinov2_of_the_hub_interpolates_as_its_own_code(tmp_path, grid):
    model = tiny("vit_small_patch14_dinov2", dynamic_img_size=True)
    torch.save(hub_dinov2(model.state_dict()), tmp_path / "dinov2_vits14.pth")
    backbone = load_backbone(tmp_path / "dinov2_vits14.pth")
    assert backbone.facts()["positions"] == "offset"
    images = torch.randn(2, 3, 14 * grid[0], 14 * grid[1], generator=torch.Generator().manual_seed(1))
    embedding = torch.cat([model.pos_embed[:, :1], of_dinov2(model.pos_embed[:, 1:], grid)], dim=1)
    expected = features(model, embedding, images)
    torch.testing.assert_close(backbone(images).cls, expected[:, 0])
    torch.testing.assert_close(backbone(images).patches.flatten(1, 2), expected[:, 1:])


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("rule", EXPECTED)
def test_each_rule_in_models_with_and_without_a_position_for_cls(grid, rule):
    for name, before in (("vit_small_patch14_dinov2", 1), ("vit_small_patch14_reg4_dinov2", 0)):
        model = tiny(name, dynamic_img_size=True)
        positions.use(model, rule)
        assert positions.rule_of(model, any_size=True) == rule
        patches = torch.zeros(1, *grid, 96)
        added = model._pos_embed(patches)[:, model.num_prefix_tokens :]
        expected = EXPECTED[rule](model.pos_embed[:, before:], grid)
        torch.testing.assert_close(added, expected if grid != (4, 4) else model.pos_embed[:, before:])


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("random-timm/vit_small_patch14_dinov2", "offset"),
        ("random-timm/vit_small_patch14_reg4_dinov2", "antialiased"),
        ("random-timm/deit3_small_patch16_224", "antialiased"),
        ("random-timm/vit_small_patch16_dinov3", "rotary"),
        ("random-timm/beit_base_patch16_224", "none"),
        ("random-vitn_reg4", "antialiased"),
    ],
)
def test_every_record_says_the_rule(name, rule):
    facts = load_backbone(name).facts()
    assert facts["positions"] == rule
    assert facts["heads"] >= 1


@pytest.mark.parametrize("name", ["deit3_small_patch16_224", "deit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_files_of_other_families_keep_antialiasing_and_their_fingerprint(tmp_path, name):
    torch.save(tiny(name).state_dict(), tmp_path / "theirs.pth")
    backbone = load_backbone(tmp_path / "theirs.pth")
    assert backbone.facts()["positions"] == "antialiased"
    assert backbone.fingerprint == weights.fingerprint(backbone.model.state_dict())


def test_records_of_register_free_dinov2_from_before_are_stale(tmp_path):
    torch.save(hub_dinov2(tiny("vit_small_patch14_dinov2").state_dict()), tmp_path / "dinov2.pth")
    backbone = load_backbone(tmp_path / "dinov2.pth")
    before = load_backbone(f"{tmp_path / 'dinov2.pth'}:positions=antialiased")
    assert before.fingerprint == weights.fingerprint(backbone.model.state_dict())
    assert backbone.fingerprint != before.fingerprint


@torch.no_grad()
def test_the_antialiased_rule_is_timms(tmp_path):
    model = randomised(timm.create_model("deit3_small_patch16_224", embed_dim=96, depth=1, num_heads=3, img_size=64))
    model.dynamic_img_size = True
    expected = positions.interpolate(model.pos_embed, (3, 5), positions.RULES["antialiased"])
    given = timm.layers.resample_abs_pos_embed(model.pos_embed, (3, 5), (4, 4), num_prefix_tokens=0)
    torch.testing.assert_close(given, expected)
