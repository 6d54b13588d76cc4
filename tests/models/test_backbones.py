"""The Tokens contract against timm's own forward pass, against attention written out, and against bad input."""

from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from regvit_lightning.errors import UserError
from regvit_lightning.models import vit, weights
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.metadata import Metadata
from regvit_lightning.models.sources import load_backbone
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.models.vit_backbone import ViTBackbone

RUNS = Path("no-runs-here")
METADATA = Metadata("vitn_reg4", "deit3", 32, (0.5, 0.4, 0.3), (0.3, 0.2, 0.1), None, 4)

# name, what differs from the shape below, has CLS, registers: every family that the adapter serves
MODELS = {
    "cls": ("vit_small_patch14_dinov2", {"img_size": 56}, True, 0),
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 56}, True, 4),
    "deit3": ("deit3_small_patch16_224", {}, True, 0),
    "pooled": ("vit_wee_patch16_reg1_gap_256", {}, False, 1),
    "no prefix": ("vit_base_patch16_siglip_gap_224", {}, False, 0),
    "dinov3": ("vit_small_patch16_dinov3", {}, True, 4),
    "dinov3 with biases": ("vit_tiny_patch16_dinov3_qkvb", {}, True, 4),
    "rope pooled": ("vit_medium_patch16_rope_reg1_gap_256", {}, False, 1),
    "eva02": ("eva02_tiny_patch14_224", {"img_size": 56}, True, 0),
    "eva separate qkv": ("eva02_base_patch14_224", {"img_size": 56}, True, 0),
    "q/k norm": ("vit_small_patch14_reg4_dinov2", {"img_size": 56, "qk_norm": True}, True, 4),
    "post norm": ("eva02_enormous_patch14_clip_224", {"img_size": 56}, True, 0),
    "beit": ("beit_base_patch16_224", {}, True, 0),
    "clip": ("vit_base_patch16_clip_224", {}, True, 0),
    "clip with registers": ("vit_base_patch16_clip_224", {"reg_tokens": 4, "no_embed_class": True}, True, 4),
}


def randomised(model: nn.Module) -> nn.Module:
    """Weights that make every tensor matter: initial LayerScale and biases would hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def tiny(family: str) -> Backbone:
    name, changes, _, _ = MODELS[family]
    if not timm.is_model(name):
        pytest.skip(f"this timm does not know {name} yet")
    shape = {"embed_dim": 96, "depth": 3, "num_heads": 3, "img_size": 64, "num_classes": 0, **changes}
    any_size = {} if family == "beit" else {"dynamic_img_size": True}
    model = randomised(timm.create_model(name, **shape, **any_size))
    return ViTBackbone(model, family, shape["img_size"], (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def nano(registers: int = 4, image_size: int = 32, **options) -> Backbone:
    model = randomised(vit.build(f"vitn_reg{registers}", image_size=image_size, **options))
    return ViTBackbone(model, "nano", image_size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def images(*size: int, batch: int = 2) -> Tensor:
    height, width = size if len(size) == 2 else size * 2
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def joined(tokens: Tokens) -> Tensor:
    cls = [] if tokens.cls is None else [tokens.cls[:, None]]
    return torch.cat([*cls, tokens.registers, tokens.patches.flatten(1, 2)], dim=1)


@pytest.mark.parametrize("family", MODELS)
@torch.inference_mode()
def test_tokens_are_those_of_timm(family):
    _, _, has_cls, registers = MODELS[family]
    backbone = tiny(family)
    x = images(backbone.image_size)
    tokens = backbone(x)
    assert (backbone.has_cls, backbone.num_registers) == (has_cls, registers)
    assert (tokens.cls is not None) == has_cls
    assert tokens.registers.shape == (2, registers, 96)
    assert tokens.patches.shape == (2, 4, 4, 96)
    features = backbone.model.forward_features(x)
    if isinstance(backbone.model.norm, nn.Identity):  # timm applies it after pooling instead
        features = backbone.model.fc_norm(features)
    torch.testing.assert_close(joined(tokens), features)


@pytest.mark.parametrize("family", ["registers", "deit3", "pooled", "dinov3", "clip with registers"])
@torch.inference_mode()
def test_blocks_with_and_without_the_final_norm(family):
    backbone = tiny(family)
    x = images(backbone.image_size)
    _, expected = backbone.model.forward_intermediates(
        x, indices=[0, 1, 2], output_fmt="NLC", return_prefix_tokens=True, norm=False
    )
    expected = [torch.cat([prefix, patches], dim=1) for patches, prefix in expected]
    raw = backbone(x, blocks=(2, 0, -2, -1), norm=False)
    for tokens, index in zip(raw, (2, 0, 1, 2), strict=True):
        torch.testing.assert_close(joined(tokens), expected[index])
    norm = backbone.model.fc_norm if family == "pooled" else backbone.model.norm
    assert isinstance(norm, nn.LayerNorm)
    for tokens, index in zip(backbone(x, blocks=(0, -1)), (0, 2), strict=True):
        torch.testing.assert_close(joined(tokens), norm(expected[index]))


@pytest.mark.parametrize("registers", [0, 1, 4])
def test_patches_are_row_major_and_nothing_else_sees_a_pixel_when_attention_is_off(registers):
    backbone = nano(registers)
    for block in backbone.model.blocks:
        nn.init.zeros_(block.attn.proj.weight)
    x = images(24, 40, batch=1)  # 3 x 5 patches of 8 px
    changed = x.clone()
    changed[..., 8:16, 24:32] += 1  # the patch of row 1, column 3
    before, after = backbone(x), backbone(changed)
    different = (before.patches != after.patches).any(dim=-1)[0]
    assert different.shape == (3, 5)
    assert different.nonzero().tolist() == [[1, 3]]
    assert torch.equal(before.cls, after.cls)
    assert torch.equal(before.registers, after.registers)


def test_cls_and_registers_are_the_parameters_of_that_name_when_blocks_do_nothing():
    backbone = nano(4)
    for block in backbone.model.blocks:
        for last in (block.attn.proj, block.mlp.fc2):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
    tokens = backbone(images(32), norm=False)
    assert torch.equal(tokens.cls, backbone.model.cls_token[0].expand(2, -1))
    assert torch.equal(tokens.registers, backbone.model.reg_token.expand(2, -1, -1))


@pytest.mark.parametrize("family", ["registers", "clip with registers"])
@torch.inference_mode()
def test_a_walk_shows_the_patch_embedding_every_block_and_the_final_norm(family):
    backbone, seen = tiny(family), {}
    x = images(backbone.image_size)
    backbone.walk(x, lambda stage, tokens: seen.update({stage: tokens}))
    assert list(seen) == [0, 1, 2, 3, 4]
    embedding = backbone.model.patch_embed.proj(x).permute(0, 2, 3, 1)
    torch.testing.assert_close(seen[0].patches, embedding)
    for stage, tokens in enumerate(backbone(x, blocks=(0, 1, 2), norm=False), 1):
        torch.testing.assert_close(joined(seen[stage]), joined(tokens))
    torch.testing.assert_close(joined(seen[4]), backbone.model.forward_features(x))


@pytest.mark.parametrize("family", MODELS)
@torch.inference_mode()
def test_last_block_rebuilds_the_output_of_the_fused_attention(family):
    backbone = tiny(family)
    attention, x = backbone.model.blocks[-1].attn, images(backbone.image_size)
    seen = {}
    handle = attention.register_forward_hook(lambda _, inputs, output: seen.update(x=inputs[0], y=output))
    raw = backbone(x, norm=False)
    handle.remove()
    inside = backbone.last_block(x)
    torch.testing.assert_close(joined(inside.tokens), joined(raw), atol=1e-4, rtol=1e-4)

    full = inside.attention.full
    assert full.shape == (2, 3, *[backbone.has_cls + backbone.num_registers + 16] * 2)
    torch.testing.assert_close(full.sum(-1), torch.ones(full.shape[:3]))
    values = joined(inside.v).unflatten(-1, (3, 32)).transpose(1, 2)
    mixed = (full @ values).transpose(1, 2).flatten(2)
    rebuilt = attention.proj(getattr(attention, "norm", nn.Identity())(mixed))
    torch.testing.assert_close(rebuilt, seen["y"], atol=1e-4, rtol=1e-4)
    assert attention.fused_attn


@pytest.mark.parametrize("family", MODELS)
@torch.inference_mode()
def test_projections_of_any_block(family):
    """Those of the last block are `last_block`'s; those of an earlier one are the last's of a model that ends there."""
    backbone = tiny(family)
    x = images(backbone.image_size)
    found = backbone.projections(x, blocks=(-1, 0, 2))
    for own, other in zip(found, (found[2], None, backbone.last_block(x)), strict=True):
        for part in ("q", "k", "v"):
            assert getattr(own, part).patches.shape == (2, 4, 4, 96)
            if other is not None:
                torch.testing.assert_close(joined(getattr(own, part)), joined(getattr(other, part)))
    del backbone.model.blocks[1:]
    ends = backbone.last_block(x)
    for part in ("q", "k", "v"):
        torch.testing.assert_close(joined(getattr(found[1], part)), joined(getattr(ends, part)))


@pytest.mark.parametrize("family", MODELS)
@torch.inference_mode()
def test_inside_has_the_rows_of_the_whole_matrix_of_attention(family):
    """CLS and registers attend as in `last_block`, which runs the unfused code; tokens and q, k, v are the same."""
    backbone = tiny(family)
    x = images(backbone.image_size)
    last, whole = backbone.inside(x)[0], backbone.last_block(x)
    close = {"atol": 1e-5, "rtol": 1e-4}
    torch.testing.assert_close(last.attention.registers, whole.attention.registers, **close)
    assert (last.attention.cls is None) == (whole.attention.cls is None)
    if last.attention.cls is not None:
        torch.testing.assert_close(last.attention.cls, whole.attention.cls, **close)
    torch.testing.assert_close(joined(last.tokens), joined(whole.tokens), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(joined(last.normed), joined(backbone(x)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(joined(last.projections.k), joined(whole.k), atol=1e-4, rtol=1e-4)
    first, again = backbone.inside(x, blocks=(0, -1))
    torch.testing.assert_close(again.attention.registers, last.attention.registers)
    del backbone.model.blocks[1:]
    torch.testing.assert_close(first.attention.registers, backbone.last_block(x).attention.registers, **close)


def test_inside_forms_no_matrix_of_attention_and_restores_the_kernel():
    backbone, seen = nano(), []
    for block in backbone.model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda *_: seen.append(1))
    backbone.inside(images(32), blocks=(-1, -2))
    assert len(seen) == 2  # of the two blocks that were not asked for
    assert not any(block.attn.fused_attn for block in backbone.model.blocks)
    with pytest.raises(UserError, match="no block 9"):
        backbone.inside(images(32), blocks=(9,))


def test_projections_end_their_pass_at_the_deepest_block():
    backbone, ran = nano(), []
    for number, block in enumerate(backbone.model.blocks):
        block.mlp.register_forward_hook(lambda *_, number=number: ran.append(number))
    backbone.projections(images(32), blocks=(0, 1))
    assert ran == [0]
    backbone.projections(images(32))
    assert ran == [0, *range(backbone.depth - 1)]
    ran.clear()
    backbone(images(32))  # later passes are whole
    assert ran == list(range(backbone.depth))


def test_projections_need_no_matrix_of_attention():
    backbone, seen = nano(), []
    for block in backbone.model.blocks:
        block.attn.attn_drop.register_forward_hook(lambda *_: seen.append(1))
    backbone.projections(images(32), blocks=(-1, -2))
    assert not seen
    with pytest.raises(UserError, match="no block 9"):
        backbone.projections(images(32), blocks=(9,))


@torch.inference_mode()
def test_queries_keys_values_and_attention_written_out():
    backbone = nano(2)
    x = images(16, 24)  # 2 x 3 patches
    inside, attention = backbone.last_block(x), backbone.model.blocks[-1].attn
    (before,) = backbone(x, blocks=(-2,), norm=False)
    tokens = backbone.model.blocks[-1].norm1(joined(before))
    weight, bias = attention.qkv.weight, attention.qkv.bias
    parts = [tokens @ weight[i * 96 : (i + 1) * 96].T + bias[i * 96 : (i + 1) * 96] for i in range(3)]
    for own, expected in zip((inside.q, inside.k, inside.v), parts, strict=True):
        torch.testing.assert_close(joined(own), expected)

    for head in range(3):
        q, k = (part[0, :, head * 32 : (head + 1) * 32] for part in parts[:2])
        expected = (q @ k.T / 32**0.5).softmax(dim=-1)  # tokens: CLS, 2 registers, 6 patches
        torch.testing.assert_close(inside.attention.full[0, head], expected)
        torch.testing.assert_close(inside.attention.cls[0, head], expected[0, 3:].reshape(2, 3))
        torch.testing.assert_close(inside.attention.registers[0, head, 1], expected[2, 3:].reshape(2, 3))
        torch.testing.assert_close(inside.attention.patches[0, head, 1, 2], expected[8, 3:].reshape(2, 3))


@torch.inference_mode()
def test_queries_of_eva_carry_their_separate_biases():
    backbone = tiny("dinov3 with biases")
    attention, x = backbone.model.blocks[-1].attn, images(64)
    (before,) = backbone(x, blocks=(-2,), norm=False)
    tokens = backbone.model.blocks[-1].norm1(joined(before))
    q, k, v = (tokens @ part.T for part in attention.qkv.weight.chunk(3))
    inside = backbone.last_block(x)
    assert attention.q_bias.abs().min() > 0
    torch.testing.assert_close(joined(inside.q), q + attention.q_bias)
    torch.testing.assert_close(joined(inside.k), k)  # EVA's keys have none
    torch.testing.assert_close(joined(inside.v), v + attention.v_bias)


def test_hooks_and_switches_are_put_back_after_an_error():
    backbone = nano()
    backbone.model.blocks[2].register_forward_hook(lambda *_: 1 / 0)
    for call in (backbone, backbone.last_block, backbone.projections):
        with pytest.raises(ZeroDivisionError):
            call(images(32))
    last = backbone.model.blocks[-1]
    assert last.attn.fused_attn
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in (last, last.attn, last.attn.attn_drop))


def test_a_backbone_is_frozen_and_stays_in_evaluation_mode():
    probe = nn.Sequential(nano(drop_path=0.5), nn.Linear(96, 2)).train()
    assert probe.training
    assert not any(module.training for module in probe[0].modules())
    assert not any(parameter.requires_grad for parameter in probe[0].parameters())
    x = images(32)
    assert torch.equal(probe[0](x).cls, probe[0](x).cls)


def test_gradients_reach_the_images():
    x = images(32).requires_grad_()
    nano()(x).patches.sum().backward()
    assert x.grad.abs().sum() > 0


@torch.inference_mode()
def test_autocast_of_the_caller_is_kept():
    backbone = nano()
    with torch.autocast("cpu", torch.bfloat16):
        inside = backbone.last_block(images(32))
    assert inside.k.patches.dtype == torch.bfloat16
    exact = backbone.last_block(images(32))
    torch.testing.assert_close(inside.k.patches.float(), exact.k.patches, atol=0.1, rtol=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("family", MODELS)
@torch.inference_mode()
def test_a_gpu_gives_what_the_cpu_gives(family):
    backbone = tiny(family)
    x = images(backbone.image_size)
    on_cpu, inside = backbone(x), backbone.last_block(x)
    on_gpu, gpu_inside = backbone.cuda()(x.cuda()), backbone.last_block(x.cuda())
    torch.testing.assert_close(joined(on_gpu).cpu(), joined(on_cpu), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(gpu_inside.attention.full.cpu(), inside.attention.full, atol=1e-3, rtol=1e-3)
    with torch.autocast("cuda", torch.bfloat16):
        assert joined(backbone(x.cuda())).isfinite().all()


def test_random_models_are_reproducible_and_leave_the_random_state_alone():
    state = torch.get_rng_state()
    first, again, other = (load_backbone("random-vitn_reg4", RUNS, seed=seed, image_size=64) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert (first.name, first.image_size, first.patch_size, first.embed_dim) == ("random-vitn_reg4", 64, 8, 96)
    assert (first.depth, first.num_registers, first.has_cls) == (4, 4, True)
    assert (first.mean, first.std) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    assert load_backbone("random-vitt_reg0", RUNS).image_size == 224


def test_a_trained_model_of_ours(tmp_path):
    model = nano().model
    weights.save(tmp_path / "deit3-vitn_reg4" / "seed2" / "backbone.safetensors", model, METADATA)
    backbone = load_backbone("deit3-vitn_reg4", tmp_path, seed=2)
    assert (backbone.name, backbone.image_size) == ("deit3-vitn_reg4", 32)
    assert (backbone.mean, backbone.std) == (METADATA.mean, METADATA.std)
    assert backbone.fingerprint == weights.fingerprint(model.state_dict())
    by_path = load_backbone(str(tmp_path / "deit3-vitn_reg4" / "seed2" / "backbone.safetensors"), RUNS)
    assert by_path.name == "deit3-vitn_reg4"
    with pytest.raises(UserError, match=r"seed0.*missing\): make pretrain MODEL=vitn_reg4 RECIPE=deit3 SEED=0"):
        load_backbone("deit3-vitn_reg4", tmp_path, seed=0)


def test_an_export_in_the_folder_of_another_model(tmp_path):
    other = replace(METADATA, recipe="dinov2")
    weights.save(tmp_path / "deit3-vitn_reg4" / "seed0" / "backbone.safetensors", nano().model, other)
    with pytest.raises(UserError, match="holds dinov2-vitn_reg4, not deit3-vitn_reg4"):
        load_backbone("deit3-vitn_reg4", tmp_path)


def test_a_foreign_file_is_named_by_its_stem(tmp_path, monkeypatch):
    torch.save(nano().model.state_dict(), tmp_path / "theirs.pth")
    backbone = load_backbone(str(tmp_path / "theirs.pth"), RUNS)
    assert (backbone.name, backbone.image_size, backbone.mean) == ("theirs", 32, IMAGENET_DEFAULT_MEAN)
    monkeypatch.chdir(tmp_path)
    assert load_backbone("theirs.pth", RUNS).fingerprint == backbone.fingerprint


def test_files_whose_names_say_nothing_have_ids_of_their_own(tmp_path):
    """Two runs of a common code base: the same file name, so the folder and the weights tell them apart."""
    ids = set()
    for run in ("first", "second"):
        file = tmp_path / run / "teacher_checkpoint.pth"
        file.parent.mkdir()
        torch.save(nano().model.state_dict(), file)
        backbone = load_backbone(str(file), RUNS)
        assert backbone.name == f"{run}-teacher_checkpoint-{backbone.fingerprint[:8]}"
        assert backbone.origin == str(file)
        ids.add(backbone.name)
    copied = tmp_path / "elsewhere" / "second" / "teacher_checkpoint.pth"
    copied.parent.mkdir(parents=True)
    file.rename(copied)
    assert load_backbone(str(copied), RUNS).name in ids  # the same weights in a folder of the same name
    assert load_backbone("random-vitn_reg0", RUNS).origin == ""


def test_timm_models_bring_their_own_preprocessing():
    backbone = load_backbone("random-timm/test_vit", RUNS)
    config = timm.get_pretrained_cfg("test_vit")
    assert (backbone.image_size, backbone.mean, backbone.std) == (config.input_size[-1], config.mean, config.std)
    assert backbone.name == "random-timm-test_vit"
    assert load_backbone("timm/test_vit", RUNS, pretrained=False).fingerprint == backbone.fingerprint
    assert backbone(images(32, 48)).patches.shape == (2, 2, 3, 64)


@pytest.fixture
def offline(tmp_path, monkeypatch) -> Path:
    """An empty Hugging Face cache without network."""
    for constant, value in {"HF_HUB_OFFLINE": True, "HF_HUB_CACHE": str(tmp_path)}.items():
        monkeypatch.setattr(huggingface_hub.constants, constant, value)
    return tmp_path


def test_released_weights_come_from_the_cache_of_the_hub(offline):
    released = randomised(timm.create_model("test_vit"))  # with its 1000 classes, as on the hub
    snapshot = offline / "models--timm--test_vit.r160_in1k" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    save_file(released.state_dict(), snapshot / "model.safetensors")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123")
    for name in ("test_vit.r160_in1k", "test_vit"):
        backbone = load_backbone(f"timm/{name}", RUNS)
        assert backbone.name == f"timm-{name}"
        assert backbone.fingerprint == weights.fingerprint(released.state_dict())


def test_unreachable_hub(offline):
    with pytest.raises(
        UserError, match=r"timm/test_vit\.r160_in1k: .*could not be fetched.*HF_HOME.*local file"
    ) as caught:
        load_backbone("timm/test_vit.r160_in1k", RUNS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/vit_larg_patch14_reg4_dinov2", "nearest: timm/vit_large_patch14_reg4_dinov2"),
        ("vit_large_patch14_reg4_dinov2.lvd142m", r"nearest: timm/vit_large_patch14_reg4_dinov2\.lvd142m"),
        ("timm/vit_large_patch14_reg4_dinov2.nothing", "unknown model.*nearest: timm/vit_large_patch14_reg4_dinov2"),
        ("random-vitq_reg4", "unknown model 'vitq_reg4'.*nearest: vit._reg4"),
        ("deit3-vitq_reg4", "unknown model 'vitq_reg4'"),
        ("vitb_reg16", "unknown model 'vitb_reg16'; nearest: .*random-vitb_reg16"),
        ("qqqqqqqqqqqq", "expected <recipe>-<model>, random-<model>, timm/<name> or the path of a checkpoint"),
        ("timm/vit_base_patch16_reg4_gap_256", "no released weights"),
        ("timm/deit_tiny_distilled_patch16_224", "two class tokens"),
        ("folder/absent.safetensors", r"folder/absent\.safetensors: no such file"),
        ("absent.pth", r"absent\.pth: no such file"),
    ],
)
def test_names_of_no_model(offline, name, message):
    with pytest.raises(UserError, match=message) as caught:
        load_backbone(name, RUNS)
    assert "\n" not in str(caught.value)


def test_sizes_and_blocks_that_a_model_does_not_have():
    with pytest.raises(UserError, match=r"image size 60 \(crop, image_size\) is not a multiple of the patch size 8"):
        load_backbone("random-vitn_reg4", RUNS, image_size=60)
    backbone = nano()
    for call in (backbone, backbone.last_block):
        with pytest.raises(UserError, match="nano: images of 32 x 36 px are not a multiple of the patch size 8"):
            call(images(32, 36))
    with pytest.raises(
        UserError, match=r"takes a batch .*, not one of \(3, 32, 32\): add a batch dimension, images\[None\]"
    ):
        backbone(images(32)[0])
    for wrong in (torch.zeros(2, 1, 32, 32), torch.zeros(32, 32)):
        with pytest.raises(UserError, match=r"nano: takes a batch of images \(B, 3, H, W\), not \("):
            backbone.projections(wrong)
    with pytest.raises(UserError, match=r"nano: takes normalised floats, .*, not torch\.uint8"):
        backbone(images(32).byte())
    for block in (4, -5):
        with pytest.raises(UserError, match=f"no block {block}: it has 4, numbered 0 to 3"):
            backbone(images(32), blocks=(0, block))
    with pytest.raises(UserError, match="images of 64 px only, not 64 x 80"):
        tiny("beit")(images(64, 80))


def test_blocks_without_plain_attention_have_no_queries():
    model = timm.create_model("test_vit", block_fn=timm.models.vision_transformer.ParallelScalingBlock)
    backbone = ViTBackbone(model, "parallel", 160, (0.5,) * 3, (0.5,) * 3)
    assert backbone(images(32)).patches.shape == (2, 2, 2, 64)
    with pytest.raises(UserError, match="parallel: no q, k, v: its blocks are ParallelScalingBlock"):
        backbone.last_block(images(32))


@torch.inference_mode()
def test_images_alone_give_the_tokens_of_the_last_block_and_blocks_a_list():
    backbone, x = nano(), images(32)
    alone, (last, first) = backbone(x), backbone(x, blocks=[-1, 0])
    assert isinstance(alone, Tokens)
    assert torch.equal(joined(alone), joined(last))
    assert not torch.equal(joined(first), joined(last))
    assert torch.equal(joined(backbone(x, norm=False)), joined(backbone(x, [3], norm=False)[0]))
