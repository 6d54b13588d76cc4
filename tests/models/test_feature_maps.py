"""Feature maps of convolutional and hierarchical models: stages and norms against timm's own, padding, windows."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from regvit_lightning.errors import UserError
from regvit_lightning.models.feature_maps import FeatureMaps, check_maps, replicate_padding
from regvit_lightning.models.sources import load_backbone


def backbone(name):
    return load_backbone(f"random-timm/{name}")


def swin(side=64, window=4):
    torch.manual_seed(0)
    options = {"img_size": side, "window_size": window, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2)}
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, strict_img_size=False, **options)
    return FeatureMaps(model, "swin", side, (0.5,) * 3, (0.5,) * 3)


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_convnext", "test_mambaout", "test_maxvit", "test_resnet"])
def test_stages_are_timms_and_the_stem_is_none_of_them(name):
    model = backbone(name)
    images = torch.randn(2, 3, 160, 160)
    maps = model.stage_maps(images)
    expected = model.model.forward_intermediates(images, intermediates_only=True)[-4:]
    assert model.reductions == [4, 8, 16, 32]
    for found, part in zip(maps.stages, expected, strict=True):
        torch.testing.assert_close(found, part.permute(0, 2, 3, 1))
    assert maps.stem.shape[1] >= maps.stages[0].shape[1]
    tokens = model(images)
    assert tokens.cls is None
    assert tokens.registers.shape == (2, 0, model.embed_dim)
    assert tokens.patches.shape == (2, 5, 5, model.embed_dim)
    torch.testing.assert_close(model(images, [0], norm=False)[0].patches, maps.stages[-1])


@torch.no_grad()
def test_the_norm_of_a_stage_is_that_before_the_next_and_the_last_that_of_the_head():
    model = backbone("test_convnext")
    for norm in model.norms:
        norm.weight.data.uniform_(0.5, 2)
    maps = model.stage_maps(torch.randn(2, 3, 160, 160))
    for index, (before, after) in enumerate(zip(maps.stages, maps.normed, strict=True)):
        stages, head = model.model.stages, model.model.head
        norm = head.norm if index == 3 else stages[index + 1].downsample[0]
        expected = F.layer_norm(before, before.shape[-1:], norm.weight, norm.bias, norm.eps)
        torch.testing.assert_close(after, expected)
    assert [norm is None for norm in swin().norms] == [True, False]  # patch merging normalises four cells at once


def test_windows_and_their_shift():
    assert swin(side=64).windows() == [(4, 2), (4, 2)]
    assert backbone("test_convnext").windows() == [None] * 4


@torch.no_grad()
def test_replicate_padding_continues_a_constant_map():
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.Conv2d(1, 1, 1))
    nn.init.ones_(model[0].weight)
    image = torch.ones(1, 1, 4, 4)
    assert model[0](image)[0, 0, 0, 0] == 4
    with replicate_padding(model) as changed:
        assert changed == 1
        assert (model[0](image) == 9).all()
    assert model[0](image)[0, 0, 0, 0] == 4


def test_models_without_maps_and_sizes_that_are_not_taken():
    with pytest.raises(UserError, match="mine: a Linear is neither a plain ViT .* nor a model that gives feature maps"):
        check_maps(nn.Linear(1, 1), "mine")
    model = backbone("test_maxvit")
    assert not model.any_size
    with pytest.raises(UserError, match="takes images of 160 px only"):
        model.stage_maps(torch.zeros(1, 3, 192, 192))
    with pytest.raises(UserError, match="which only a plain ViT has"):
        model.last_block(torch.zeros(1, 3, 160, 160))
