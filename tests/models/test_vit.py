"""The register ViT: the unit checks of the registers paper's facts, against timm and torch's own counters."""

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch.utils.flop_counter import FlopCounterMode

from regvit_lightning import settings
from regvit_lightning.models import vit
from regvit_lightning.settings import SettingsError

SIZE = 32  # pixels; 4 × 4 patches of the nano model


def nano(registers: int, seed: int = 0, **options):
    torch.manual_seed(seed)
    return vit.build(f"vitn_reg{registers}", image_size=SIZE, **options).eval()


def images(batch: int = 2, height: int = SIZE, width: int = SIZE):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_without_registers_it_is_timms_vit():
    ours = nano(0, layer_scale=1e-4)
    architecture, _ = vit.parse_name("vitn_reg0")
    plain = VisionTransformer(
        img_size=SIZE,
        patch_size=8,
        num_classes=0,
        embed_dim=architecture.embed_dim,
        depth=architecture.depth,
        num_heads=architecture.num_heads,
        init_values=1e-4,
        no_embed_class=True,
    ).eval()
    plain.load_state_dict(ours.state_dict(), strict=True)
    torch.testing.assert_close(ours.forward_features(images()), plain.forward_features(images()), rtol=0, atol=0)


def test_another_depth_and_width_keep_the_width_of_a_head_and_the_ratio_of_the_mlp():
    architecture, registers = vit.parse_name("vitn4_d8_w128_reg2")
    shape = architecture.depth, architecture.embed_dim, architecture.num_heads, architecture.hidden_dim
    assert shape == (8, 128, 4, 512)  # a head of vitn has 32 channels, its MLP four times the width
    assert (architecture.patch_size, registers) == (4, 2)
    assert len(vit.build("vitn_d6_reg0", image_size=SIZE).blocks) == 6
    assert vit.parse_name("vitn_d4_w96_reg0") == vit.parse_name("vitn_reg0")


@pytest.mark.parametrize("name", ["vitn_w100_reg0", "vitn_w0_reg0", "vitn_d0_reg0"])
def test_a_shape_that_a_size_cannot_have(name):
    with pytest.raises(SettingsError, match=f"model '{name}': the (depth|width) must be"):
        vit.parse_name(name)


@pytest.mark.parametrize("registers", [1, 4, 16])
def test_registers_add_their_parameters_and_nothing_else(registers):
    without, with_registers = nano(0), nano(registers)
    width = without.embed_dim
    count = [sum(p.numel() for p in model.parameters()) for model in (without, with_registers)]
    assert count[1] - count[0] == registers * width
    assert set(dict(with_registers.named_parameters())) - set(dict(without.named_parameters())) == {"reg_token"}
    assert with_registers.forward_features(images()).shape == (2, 1 + registers + 16, width)
    assert with_registers.pos_embed.shape == without.pos_embed.shape == (1, 16, width)


def test_registers_start_at_one_millionth():
    tokens = vit.build("vits_reg16").reg_token.detach()
    assert tokens.std().item() == pytest.approx(1e-6, rel=0.05)


def test_registers_stand_between_cls_and_patches_without_position():
    model = nano(4)
    with torch.no_grad():
        model.reg_token.copy_(torch.arange(4.0).view(1, 4, 1).expand_as(model.reg_token))
        sequence = model._pos_embed(model.patch_embed(images()))
    torch.testing.assert_close(sequence[:, 0], model.cls_token[:, 0].expand(2, -1))
    for number in range(4):
        assert (sequence[:, 1 + number] == number).all()
    patches = model.patch_embed(images()).flatten(1, 2) + model.pos_embed
    torch.testing.assert_close(sequence[:, 5:], patches)


def test_permuting_registers_permutes_nothing_else():
    model = nano(4)
    torch.nn.init.normal_(model.reg_token)
    before = model.forward_features(images())
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        model.reg_token.copy_(model.reg_token[:, order].clone())
    after = model.forward_features(images())
    torch.testing.assert_close(after[:, [0, *range(5, 21)]], before[:, [0, *range(5, 21)]], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after[:, 1:5], before[:, 1:5][:, order], rtol=1e-4, atol=1e-5)


def test_patches_change_when_registers_are_taken_away():
    model, without = nano(4), nano(0)
    torch.nn.init.normal_(model.reg_token)
    without.load_state_dict({key: value for key, value in model.state_dict().items() if key != "reg_token"})
    difference = model.forward_features(images())[:, 5:] - without.forward_features(images())[:, 1:]
    assert difference.abs().max() > 1e-3


def test_registers_learn_through_attention_only():
    model = nano(4)
    model.forward_features(images())[:, 5:].square().sum().backward()
    assert model.reg_token.grad.abs().sum() > 0
    model.zero_grad()
    model.blocks = torch.nn.Sequential()
    model.norm(model._pos_embed(model.patch_embed(images())))[:, 5:].square().sum().backward()
    assert model.reg_token.grad is None or model.reg_token.grad.abs().sum() == 0


# Facts on Fig. 12 of the paper: added multiply-adds of the blocks in percent, by number of registers.
FIG12 = {
    ("vitl14", 224): {1: 0.40, 2: 0.81, 4: 1.62, 8: 3.24, 16: 6.49},
    ("vitb", 224): {1: 0.53, 2: 1.06, 4: 2.12, 8: 4.23, 16: 8.48},
    ("vitl14", 518): {1: 0.09, 2: 0.17, 4: 0.35, 8: 0.69, 16: 1.38},
}


@pytest.mark.parametrize(("model", "size"), FIG12)
def test_added_macs_are_those_of_fig_12(model, size):
    architecture, _ = vit.parse_name(f"{model}_reg0")
    base = vit.block_macs(architecture, 0, size)
    for registers, percent in FIG12[model, size].items():
        added = 100 * (vit.block_macs(architecture, registers, size) / base - 1)
        assert added == pytest.approx(percent, abs=0.006)


@pytest.mark.parametrize("name", ["vitn_reg4", "vitt_reg0", "vitg_reg1"])
def test_macs_agree_with_torchs_counter(name):
    architecture, registers = vit.parse_name(name)
    architecture.depth = 2
    with torch.device("meta"):
        model = vit.RegisterViT(architecture, registers, image_size=4 * architecture.patch_size)
        for block in model.blocks:
            block.attn.fused_attn = False  # the fused kernel has no meta counterpart on every version
        with FlopCounterMode(display=False) as counter:
            model.blocks(torch.empty(1, 1 + registers + 16, architecture.embed_dim))
    counted = counter.get_total_flops()
    assert counted == 2 * vit.block_macs(architecture, registers, 4 * architecture.patch_size)


def test_position_gradient_is_smooth_with_antialiasing_and_striped_without():
    # Figs. 10 and 11: 16 × 16 -> 7 × 7 without anti-aliasing leaves columns without gradient.
    def gradient(antialias):
        table = torch.zeros(1, 256, 1, requires_grad=True)
        resample_abs_pos_embed(table, [7, 7], [16, 16], num_prefix_tokens=0, antialias=antialias).sum().backward()
        return table.grad.view(16, 16)

    ours = vit.build("vitn_reg1", image_size=128)
    ours._pos_embed(torch.zeros(1, 7, 7, ours.embed_dim)).sum().backward()
    ours_gradient = ours.pos_embed.grad[0, :, 0].view(16, 16)
    torch.testing.assert_close(ours_gradient, gradient(True))
    inner = (slice(3, 13), slice(3, 13))
    assert gradient(True)[inner].std() < 0.1 * gradient(True)[inner].mean()
    assert gradient(False)[inner].std() > 0.5 * gradient(False)[inner].mean()


@hypothesis_settings(deadline=None, max_examples=15)
@given(height=st.integers(1, 7), width=st.integers(1, 7), registers=st.integers(0, 3))
def test_any_size_in_multiples_of_the_patch(height, width, registers):
    model = nano(registers)
    tokens = model.forward_features(images(1, 8 * height, 8 * width))
    assert tokens.shape == (1, 1 + registers + height * width, model.embed_dim)


def test_mask_tokens_replace_patches_before_positions():
    model = nano(2, mask_token=True)
    torch.nn.init.normal_(model.mask_token)
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    same = model.forward_features(images(), mask=mask)
    torch.testing.assert_close(same, model.forward_features(images()))
    mask[:, 1, 2] = True
    changed = images()
    changed[:, :, 8:16, 16:24] = 7.0  # under the mask: must not be seen
    torch.testing.assert_close(model.forward_features(changed, mask=mask), model.forward_features(images(), mask=mask))
    assert (model.forward_features(images(), mask=mask) - same).abs().max() > 1e-3
    assert nano(2).mask_token is None


def test_layer_scale_and_drop_path():
    model = nano(0, layer_scale=1e-4, drop_path=0.3)
    assert all((block.ls1.gamma == 1e-4).all() for block in model.blocks)
    assert {block.drop_path2.drop_prob for block in model.blocks} == {0.3}


@pytest.mark.parametrize(
    ("name", "patch", "registers"), [("vitb_reg16", 16, 16), ("vitl14_reg4", 14, 4), ("vith_reg0", 14, 0)]
)
def test_name_grammar(name, patch, registers):
    architecture, found = vit.parse_name(name)
    assert (architecture.patch_size, found) == (patch, registers)


@pytest.mark.parametrize("name", ["vitx_reg4", "vitb", "vitb_reg", "vit_base_patch16_224", "VITB_reg4", "vitb0_reg1"])
def test_names_outside_the_grammar(name):
    with pytest.raises(SettingsError, match=r"vitb0_reg1|unknown model"):
        vit.parse_name(name)


# Parameters in millions, of the published models without classifier (DeiT, Dosovitskiy et al., DINOv2's README).
@pytest.mark.parametrize(
    ("name", "millions"), [("vits", 22), ("vitb", 86), ("vitl", 303), ("vith", 631), ("vitg", 1136)]
)
def test_sizes_are_the_published_ones(name, millions):
    architecture, _ = vit.parse_name(f"{name}_reg0")
    with torch.device("meta"):
        model = vit.RegisterViT(architecture, image_size=224)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize(("name", "hidden"), [("vits", 1024), ("vitb", 2048), ("vitl", 2736), ("vitg", 4096)])
def test_swiglu_has_dinov2s_widths(name, hidden):
    # int(4 D × 2/3), rounded up to a multiple of 8: the widths of DINOv2's models with this layer.
    architecture = vit.with_swiglu(vit.parse_name(f"{name}_reg0")[0])
    assert (architecture.ffn, architecture.hidden_dim) == ("swiglu", hidden)


def test_swiglu_of_vit_g_is_timms_dinov2():
    with torch.device("meta"):
        ours = vit.build("vitg14_reg4", swiglu=True, image_size=518, layer_scale=1e-5)
        theirs = timm.create_model("vit_giant_patch14_reg4_dinov2")
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_swiglu_by_hand():
    model = nano(2, swiglu=True)
    x, mlp = torch.randn(2, 5, 96), model.blocks[0].mlp
    weight, bias = mlp.fc1.weight.view(2, 256, 96), mlp.fc1.bias.view(2, 256)
    gate, value = x @ weight[0].T + bias[0], x @ weight[1].T + bias[1]
    expected = (gate * gate.sigmoid() * value) @ mlp.fc2.weight.T + mlp.fc2.bias
    torch.testing.assert_close(mlp(x), expected)
    assert model.forward_features(images()).shape == (2, 1 + 2 + 16, 96)


def test_every_model_file_builds():
    for name in settings.names("models"):
        assert vit.parse_name(f"{name}_reg4")[0].depth > 0
