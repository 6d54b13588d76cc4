"""Feature maps of convolutional and hierarchical models: stages and norms against timm's own, padding, windows."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from regvit_lightning import evaluation
from regvit_lightning.analysis import cost
from regvit_lightning.errors import UserError
from regvit_lightning.models.feature_maps import FeatureMaps, check_maps, replicate_padding
from regvit_lightning.models.sources import load_backbone

QUICK = {"workers": 0, "precision": "32-true"}
TRAINED = {**QUICK, "steps": 2, "batch_size": 4}


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
def test_the_blocks_of_a_sequence_of_cells_are_stages_behind_its_embedding():
    model = timm.create_model("cait_xxs24_224", num_classes=0, img_size=64, depth=3)
    found = FeatureMaps(model, "cait", 64, (0.5,) * 3, (0.5,) * 3)
    images = torch.randn(2, 3, 64, 64)
    maps = found.stage_maps(images)
    assert len(maps.stages) == 3
    torch.testing.assert_close(maps.stem.flatten(1, 2), model.patch_embed(images))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "stem", "stages"),
    [
        ("pvt_v2_b0", lambda model, images: model.patch_embed(images), 4),  # channels last
        ("coat_lite_tiny", lambda model, images: model.patch_embed1(images), 4),  # a sequence
        ("xcit_nano_12_p16_224", lambda model, images: model.patch_embed(images)[0], 12),  # with its size
        ("twins_pcpvt_small", lambda model, images: model.patch_embeds[0](images)[0], 4),  # the first of several
    ],
)
def test_no_stage_is_taken_for_the_stem(name, stem, stages):
    options = {} if name.startswith("pvt") else {"img_size": 64}
    model = timm.create_model(name, num_classes=0, **options).eval()
    images = torch.randn(1, 3, 64, 64)
    maps = FeatureMaps(model, name, 64, (0.5,) * 3, (0.5,) * 3).stage_maps(images)
    assert len(maps.stages) == stages
    torch.testing.assert_close(maps.stem.flatten(1, 2), stem(model, images).reshape(maps.stem.flatten(1, 2).shape))


@torch.no_grad()
@pytest.mark.parametrize("height", [160, 192])
def test_images_that_are_not_square(height):
    model = backbone("test_convnext")
    maps = model.stage_maps(torch.randn(1, 3, height, 128))
    assert [tuple(part.shape[1:3]) for part in maps.stages] == [
        (height // side, 128 // side) for side in (4, 8, 16, 32)
    ]
    assert maps.stem.shape[1:3] == (height // 4, 32)


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
    with pytest.raises(
        UserError, match=r"mine: a Linear is neither a plain ViT .* nor a model that gives feature maps"
    ):
        check_maps(nn.Linear(1, 1), "mine")
    with pytest.raises(UserError, match="a NaFlexVit is a ViT that is not read here; take the model of timm's"):
        backbone("naflexvit_base_patch16_gap")
    with pytest.raises(UserError, match="are no square grids that divide 299 px"):
        backbone("inception_v3")
    model = backbone("test_maxvit")
    assert not model.any_size
    with pytest.raises(UserError, match="takes images of 160 px only"):
        model.stage_maps(torch.zeros(1, 3, 192, 192))
    with pytest.raises(UserError, match="which only a plain ViT has"):
        model.last_block(torch.zeros(1, 3, 160, 160))


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("imagenet_linear", TRAINED, r"blocks=\[1, 4\]: .* has 1; give fewer, such as blocks=\[1\]"),
        ("ade20k_linear", {**TRAINED, "blocks": 4}, "blocks=4: .* has 1; give fewer"),
        ("nyud_linear4", TRAINED, "blocks=4: the model has 1; give fewer"),
        ("imagenet_zeroshot", QUICK, "has no text tower"),
        ("lost_voc07", QUICK, "gives tokens only, but this needs q, k, v and attention"),
        ("lost_sweep_voc07", QUICK, "block=-2: .* has 1, numbered 0 to 0"),
        ("tokencut_voc07", QUICK, "gives tokens only, but this needs q, k, v"),
        ("text_report", QUICK, "has no text tower"),
    ],
)
def test_what_needs_more_than_maps_is_one_line(tiny, task, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        evaluation.evaluate(backbone("test_convnext"), task, tiny, settings=settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224", "convnext_atto", "cait_xxs24_224"])
def test_no_cost_of_blocks_without_weights_is_one_line(name, tmp_path):
    with pytest.raises(
        UserError, match="gives tokens only, but this needs blocks whose multiply-adds could be counted"
    ):
        cost.macs(cost.load_shape(f"timm/{name}", tmp_path), 0, 224)
