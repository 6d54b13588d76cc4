"""The switch: what holds for every arm, whatever it changes."""

import copy
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from regvit_lightning.analysis import cost
from regvit_lightning.errors import UserError
from regvit_lightning.models import arms, names, sources, vit, weights
from regvit_lightning.models.arms import registry
from regvit_lightning.models.metadata import Metadata
from regvit_lightning.settings import SettingsError

SIDE = 32  # pixels: 16 patches of the nano model


def named(arm, registers=2):
    """Name of the nano model with an arm; registers that are split over its three heads are a multiple of three."""
    return names.with_arm(f"vitn_reg{3 if arm == 'rats' else registers}", arm)


def build(arm, registers=2, seed=0, **options):
    torch.manual_seed(seed)
    return vit.build(named(arm, registers), image_size=SIDE, **options)


def images(count=2):
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def randomised(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def test_every_arm_has_a_line_and_an_entry():
    assert list(arms.DESCRIPTIONS) == list(registry.ARMS)
    assert arms.NONE not in registry.ARMS


@pytest.mark.parametrize("arm", arms.names())
def test_at_equal_seed_it_differs_from_the_plain_model_by_the_arm_alone(arm):
    registers = vit.parse_name(named(arm))[1]
    plain, after_plain = build(arms.NONE, registers, num_classes=5).state_dict(), torch.rand(3)
    model, after = build(arm, num_classes=5).state_dict(), torch.rand(3)
    assert plain.keys() <= model.keys()
    for name, value in plain.items():
        torch.testing.assert_close(model[name], value, rtol=0, atol=0, msg=name)
    torch.testing.assert_close(after, after_plain, rtol=0, atol=0)  # heads drawn afterwards start from the same, too
    added = {name: value for name, value in model.items() if name not in plain}
    other = build(arm, seed=1).state_dict()
    drawn = [name for name, value in added.items() if name.endswith("weight") and value.ndim > 1]
    assert all(not torch.equal(other[name], added[name]) for name in drawn), "other seeds draw other weights"


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("arm", arms.names())
def test_an_export_rebuilds_it(arm, registers, tmp_path):
    model, name = randomised(build(arm, registers, layer_scale=1e-4)), named(arm, registers)
    registers = model.num_reg_tokens
    metadata = Metadata(name, "deit3", SIDE, (0.5,) * 3, (0.2,) * 3, 1e-4, registers)
    file = tmp_path / f"deit3-{name}" / "seed0" / "backbone.safetensors"
    file.parent.mkdir(parents=True)
    weights.save(file, model, metadata)
    backbone = sources.load_backbone(f"deit3-{name}", tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(backbone.model.forward_features(images()), model.forward_features(images()))
    assert (backbone.name, backbone.num_registers, backbone.facts()["arm"]) == (f"deit3-{name}", registers, arm)


@pytest.mark.parametrize("arm", arms.names())
def test_it_is_another_model_than_the_plain_one_though_all_tensors_were_equal(arm):
    model = build(arm, 0)
    prints = [
        sources.ViTBackbone(one, "a", SIDE, (0.0,) * 3, (1.0,) * 3).fingerprint for one in (model, build("none", 0))
    ]
    assert prints[0] != prints[1]
    assert weights.fingerprint(model.state_dict()) != prints[0]


@pytest.mark.parametrize("arm", arms.names())
def test_weights_of_an_arm_do_not_load_as_plain_ones_nor_the_other_way_round(arm, tmp_path):
    model, plain = build(arm), build("none")
    own = model.state_dict().keys() - plain.state_dict().keys()
    if not own:
        pytest.skip("without tensors of its own it is known by its metadata alone")
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    told = (
        "patch_embed.proj.bias" if arm == "norm_embed" else f".*; tensors of the arm .*{arm}.*metadata tells"
    )  # as CLIP's
    with pytest.raises(UserError, match=f"unexpected: {told}") as error:
        weights.load_weights(tmp_path / "bare.pth")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=rf"missing: .*; tensors of the arm .*{arm}"):
        weights.load_strictly(model, plain.state_dict(), "plain.pth")


@pytest.mark.parametrize("arm", arms.names())
def test_everything_in_it_learns_and_bf16_is_close(arm):
    model = randomised(build(arm, 2, layer_scale=0.1, num_classes=5))
    model(images()).square().sum().backward()
    silent = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert not silent
    with torch.no_grad():
        exact = model.forward_features(images())
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model.forward_features(images())
    assert (rounded.float() - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("arm", arms.names())
def test_fused_and_plain_products_agree(arm):
    model = randomised(build(arm))
    results = []
    for fused in (True, False):
        vit.fuse_attention(model, fused)
        with torch.no_grad():
            results.append(model.forward_features(images()))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arm", arms.names())
def test_masks_drop_path_checkpointing_and_a_copy_work_with_it(arm):
    model = randomised(build(arm, 2, mask_token=True, drop_path=0.5)).train()
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[:, 1] = True
    model.set_grad_checkpointing(True)
    model.forward_features(images(), mask=mask).sum().backward()
    assert copy.deepcopy(model).state_dict().keys() == model.state_dict().keys()


@torch.no_grad()
@pytest.mark.parametrize(
    ("arm", "option"), [("qk_norm", "qk_norm"), ("scale_norm", "scale_attn_norm"), ("norm_embed", "pre_norm")]
)
def test_norms_are_timms(arm, option):
    ours = randomised(build(arm, 2, layer_scale=1e-2))
    shape = {"img_size": SIDE, "patch_size": 8, "num_classes": 0, "embed_dim": 96, "depth": 4, "num_heads": 3}
    theirs = VisionTransformer(**shape, no_embed_class=True, reg_tokens=2, init_values=1e-2, **{option: True}).eval()
    state = ours.state_dict()
    if arm == "norm_embed":  # timm leaves the bias of the patch embedding out, which a position embedding replaces
        state["pos_embed"] = state["pos_embed"] + state.pop("patch_embed.proj.bias")
    theirs.load_state_dict(state, strict=True)
    torch.testing.assert_close(ours.forward_features(images()), theirs.forward_features(images()), rtol=1e-4, atol=1e-5)


def test_two_norms_before_the_first_block_are_refused():
    with pytest.raises(SettingsError, match="arm norm_embed: this recipe's model has a norm before the first block"):
        build("norm_embed", pre_norm=True)


# Closed forms, of T tokens of width D in heads of width D / H: more parameters and multiply-adds of one block.
ADDED = {
    "gated": lambda d, h, t: (d * d + d, t * d * d),
    "gated_headwise": lambda d, h, t: (d * h + h, t * d * h),
    "value_gate": lambda d, h, t: (d * d + d, t * d * d),
    "value_gate_headwise": lambda d, h, t: (d * h + h, t * d * h),
    "softmax1": lambda d, h, t: (0, 2 * t * d),
    "bias_kv": lambda d, h, t: (2 * d, 2 * t * d),
    "clipped": lambda d, h, t: (0, 0),
    "qk_norm": lambda d, h, t: (4 * d // h, 0),
    "scale_norm": lambda d, h, t: (2 * d, 0),
    "diff": lambda d, h, t: (3 * d // h, t * t * d),
    "global": lambda d, h, t: (2 * d + 1 + 128 * d, 3 * t * d + 128 * d),
    "rats": lambda d, h, t: (0, 2 * d * (16 + 1 + 17) - 2 * t * t * d),  # one register a head, 16 patches
    "last1": lambda d, h, t: (0, 0),
}


@pytest.mark.parametrize("arm", ADDED)
def test_cost_is_the_closed_form_and_what_torch_counts(arm):
    backbone = cost.load_shape(names.with_arm("vitn_reg3", arm), Path(), SIDE)
    found = cost.of_arm(backbone, SIDE)
    parameters, macs = ADDED[arm](96, 3, 20)
    assert (found.parameters, found.macs) == (4 * parameters, 4 * macs)
    with FlopCounterMode(display=False) as counter:
        model = build(arm, 3).train()
        vit.fuse_attention(model, arm == "diff")  # its fused form computes both maps of values
        model.blocks(torch.randn(1, 20, 96))
    assert counter.get_total_flops() == 2 * cost.macs(backbone, 3, SIDE)


def test_the_plain_model_has_no_cost_of_an_arm():
    assert cost.of_arm(cost.load_shape("vitn_reg3", Path(), SIDE)) is None


def test_names_and_the_switch():
    assert names.with_arm("vitb_reg4", "gated") == names.with_arm("vitb_gated_reg4", "gated") == "vitb_gated_reg4"
    assert names.with_arm("vitb14_gated_reg0", "") == "vitb14_gated_reg0"
    assert names.without_arm("vitl14_gated_reg16") == names.without_arm("vitl14_reg16") == "vitl14_reg16"
    assert names.parse_name("vitb14_gated_reg4") == ("vitb", 14, 4)
    assert vit.parse_name("vitb14_gated_reg4")[0].arm == "gated"
    assert vit.parse_name("vitb_reg4")[0].arm == "none"
    assert names.parse_id("deit3+a-vitb_gated_reg4").name == "vitb_gated_reg4"
    assert names.without_tag("deit3+a-vitb_gated_reg4-ema") == "deit3-vitb_gated_reg4-ema"


@pytest.mark.parametrize(
    ("name", "arm", "told"),
    [
        ("vitb_reg4", "gatd", "arm: there is no arm 'gatd'; nearest: gated"),
        ("vitb_gatd_reg4", "", "unknown model 'vitb_gatd_reg4': there is no arm 'gatd'; nearest: gated"),
        ("vitb_none_reg4", "", "there is no arm"),
        (
            "vitb_gated_reg4",
            "none",
            "MODEL=vitb_gated_reg4 and arm=none are two arms; give arm=none to MODEL=vitb_reg4",
        ),
        ("vitb_gated_reg4", "gated_", "there is no arm 'gated_'"),
    ],
)
def test_unknown_arms_are_refused_in_a_line(name, arm, told):
    with pytest.raises(SettingsError, match=told) as error:
        vit.parse_name(names.with_arm(name, arm))
    assert "\n" not in str(error.value)


def test_a_name_has_a_shape_and_an_arm():
    architecture, registers = vit.parse_name("vitn16_d2_w64_gated_reg3")
    assert (architecture.depth, architecture.embed_dim, architecture.patch_size) == (2, 64, 16)
    assert (architecture.arm, registers) == ("gated", 3)
    assert names.without_arm("vitn16_d2_w64_gated_reg3") == "vitn16_d2_w64_reg3"
    assert names.reshaped("vitn_gated_reg3", depth=2) == names.with_arm("vitn_d2_reg3", "gated") == "vitn_d2_gated_reg3"
