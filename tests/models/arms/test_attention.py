"""The parts that arms override, and what analysis sees of each arm."""

import pytest
import torch
from timm.layers import Attention

from regvit_lightning.analysis import attention as analysis
from regvit_lightning.analysis.last_block import LastBlockPass
from regvit_lightning.errors import UserError
from regvit_lightning.models import arms
from regvit_lightning.models.arms.attention import ArmAttention
from regvit_lightning.models.arms.rows import PARTIAL, SHARES, SIGNED
from regvit_lightning.models.vit_backbone import ViTBackbone
from regvit_lightning.settings import SettingsError
from tests.models.arms.test_registry import SIDE, build, images, randomised

ROWS = {"softmax1": PARTIAL, "bias_kv": PARTIAL, "clipped": PARTIAL, "diff": SIGNED}


@pytest.mark.parametrize("fused", [True, False])
def test_with_nothing_overridden_it_is_timms(fused):
    torch.manual_seed(0)
    plain, ours = Attention(12, 3, qkv_bias=True), ArmAttention(12, 3, qkv_bias=True)
    ours.load_state_dict(plain.state_dict())
    plain.fused_attn = ours.fused_attn = fused
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-5, atol=1e-6)


def test_a_mask_is_refused():
    with pytest.raises(SettingsError, match="the attention of an arm takes no mask"):
        ArmAttention(12, 3)(torch.randn(1, 5, 12), is_causal=True)


def backbone(arm):
    return ViTBackbone(randomised(build(arm)), f"vitn_{arm}_reg2", SIDE, (0.0,) * 3, (1.0,) * 3)


def weighted(model, full, v):
    """Output of a block's attention rebuilt by hand from its weights on tokens and its values, for the listed arms."""
    attention = model.blocks[-1].attn
    if model.arm.startswith("value_gate"):
        gates = attention.value_gate(v).sigmoid()
        v = (v.unflatten(-1, (3, -1)) * gates.unflatten(-1, (3, -1))).flatten(-2)
    heads = full @ v.unflatten(-1, (3, -1)).transpose(1, 2)
    if model.arm == "bias_kv":
        heads = heads + (1 - full.sum(dim=-1, keepdim=True)) * attention.bias_v
    if model.arm == "diff":
        heads = heads / (heads.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * attention.sub_norm.weight
        heads = heads * (1 - attention.lambda_init)
    return heads.transpose(1, 2)


@torch.no_grad()
@pytest.mark.parametrize(
    "arm",
    sorted(
        set(arms.names())
        & {*ROWS, "gated", "gated_headwise", "value_gate", "value_gate_headwise", "qk_norm", "scale_norm", "norm_embed"}
    ),
)
def test_the_last_block_is_rebuilt_from_its_weights_and_values(arm):
    inner = backbone(arm)
    model, seen = inner.model, {}
    attention = model.blocks[-1].attn
    attention.register_forward_hook(lambda _, given, output: seen.update(x=given[0], out=output))
    last = inner.last_block(images())
    assert last.attention.full.shape == (2, 3, 19, 19)
    v = torch.cat([last.v.cls[:, None], last.v.registers, last.v.patches.flatten(1, 2)], dim=1)
    heads = weighted(model, last.attention.full, v)
    if getattr(attention, "gate", None) is not None:
        heads = heads * attention.gate(seen["x"]).sigmoid().unflatten(-1, (3, -1))
    rebuilt = attention.proj(attention.norm(heads.flatten(2)))
    torch.testing.assert_close(rebuilt, seen["out"], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("arm", arms.names())
def test_rows_of_cls_and_registers_beside_the_kernel_are_those_of_the_whole_matrix(arm):
    inner = backbone(arm)
    last, (inside,) = inner.last_block(images()), inner.inside(images())
    torch.testing.assert_close(inside.attention.cls, last.attention.cls, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(inside.attention.registers, last.attention.registers, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(inside.tokens.patches, last.tokens.patches, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("arm", sorted({*ROWS, "gated", "qk_norm"}))
def test_what_is_no_share_is_refused_in_a_line(arm):
    found = backbone(arm).last_block(images()).attention
    assert found.rows == ROWS.get(arm, SHARES)
    sums, outliers = found.full.sum(dim=-1), torch.zeros(2, 4, 4, dtype=torch.bool)
    assert {SHARES: ((sums - 1).abs() < 1e-5).all(), PARTIAL: (sums < 1).any(), SIGNED: (found.full < 0).any()}[
        found.rows
    ]
    assert bool(analysis.left_out(found.rows)) is (found.rows != SHARES)
    if found.rows != SHARES:
        with pytest.raises(UserError, match="do not sum to 1 have no entropy"):
            analysis.cls_entropy(found)
    if found.rows == SIGNED:
        with pytest.raises(UserError, match="are no shares of anything"):
            analysis.mass(found, outliers)
    else:
        assert (analysis.mass(found, outliers)["cls"].normal >= 0).all()


@pytest.mark.parametrize(("arm", "left"), [("gated", 0), ("softmax1", 1), ("clipped", 1), ("diff", 2)])
def test_the_report_leaves_out_what_its_arm_cannot_have_and_says_so(arm, left):
    module = LastBlockPass(backbone(arm), "32-true", torch.zeros(2, 4, 4, dtype=torch.bool), [0])
    module.test_step([torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)], 0)
    assert ("attention_entropy_cls" in module.scores) is (left == 0)
    assert ("attention_cls_to_registers" in module.scores) is (left < 2)
    assert {"effective_rank", "patch_cosine"} <= module.scores.keys()
    assert all(bool(values.isfinite().all()) for name, values in module.scores.items() if "preference" not in name)
    told = {0: "", 1: "no entropy of attention", 2: "no entropy, shares or preference of attention"}[left]
    assert module.left_out.startswith(told)
    assert bool(module.left_out) is bool(left)
