"""Sinks on attention and values made by hand, on both sides of every threshold, and on blocks of every family."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from timm.layers import Attention as TimmAttention
from timm.layers import SwiGLUPacked
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from regvit_lightning.analysis import sinks
from regvit_lightning.errors import UserError
from regvit_lightning.models import sources
from regvit_lightning.models.arms.registry import ARMS
from regvit_lightning.models.head_updates import HeadUpdates
from regvit_lightning.models.vit_backbone import ViTBackbone

TOKENS, SINK = 20, 3


def of(attention, values, output=None):
    """Sinks of one image and head from its attention (T, S), values (S, d) and output map (D, d)."""
    output = torch.eye(values.shape[1]) if output is None else output
    return sinks.of_block(HeadUpdates(0, attention[None, None], values[None, None], output[None], 0.0))


def attention(queries=TOKENS, mass=0.6):
    """`queries` of the 20 queries give token 3 that mass, the rest of each row is spread evenly over the others."""
    rows = torch.full((TOKENS, TOKENS), 1 / TOKENS)
    rows[:queries] = (1 - mass) / (TOKENS - 1)
    rows[:queries, SINK] = mass
    return rows


def values(ratio, seed=0):
    """Orthogonal values of length 1; that of the sink has length `ratio`."""
    vectors = torch.eye(TOKENS)
    vectors[SINK] *= ratio
    return vectors


def kinds(found):
    return [bool(getattr(found, name)) for name in ("events", "nop", "broadcast")]


@pytest.mark.parametrize(
    ("queries", "mass", "event"),
    [(20, 0.6, True), (18, 0.6, True), (17, 0.6, False), (20, 0.5, True), (20, 0.499, False), (18, 0.5, True)],
)
def test_an_event_needs_half_the_mass_from_nine_tenths_of_all_queries(queries, mass, event):
    found = of(attention(queries, mass), values(0.1))
    assert found.token.item() == SINK
    assert kinds(found) == [event, event, False]
    assert found.routed.item() == (queries / TOKENS if mass >= 0.5 else 0)


@pytest.mark.parametrize(
    ("ratio", "nop", "broadcast"),
    [(0, True, False), (0.199, True, False), (0.201, False, False), (0.499, False, False), (0.501, False, True)],
)
def test_the_ratio_of_values_makes_the_kind(ratio, nop, broadcast):
    found = of(attention(mass=0.97), values(ratio))  # its update has a stable rank of almost 1
    assert kinds(found) == [True, nop, broadcast]
    assert found.ratio.item() == pytest.approx(ratio)
    assert found.raw_ratio.item() == pytest.approx(ratio)


def test_a_broadcast_needs_an_update_of_low_stable_rank():
    """Two orthogonal values of length 1: the Gram matrix of U = A u is diagonal in them, and known by hand."""
    for other, broadcast in ((0.42, True), (0.43, False)):
        half = torch.zeros(TOKENS, TOKENS)
        half[:, 0] = 0.6
        half[:10, 1], half[10:, 1] = other, -other  # not a softmax: the two columns of U are orthogonal
        written = torch.zeros(TOKENS, 4)
        written[0, 0] = written[1, 1] = 1.0
        written[2:, 2] = 1.0
        found = of(half, written)
        assert found.stable_rank.item() == pytest.approx(1 + (other / 0.6) ** 2)
        assert kinds(found) == [True, False, broadcast]


def test_values_are_measured_after_the_output_projection_and_layer_scale():
    """A value along a direction that the projection removes is a NOP, however long it is itself."""
    vectors = torch.zeros(TOKENS, 2)
    vectors[:, 0], vectors[SINK] = 1.0, torch.tensor([0.1, 5.0])
    scaled = torch.tensor([[3.0, 0.0], [0.0, 0.01], [0.0, 0.0]])
    found = of(attention(), vectors, scaled)
    expected = (0.3**2 + 0.05**2) ** 0.5 / 3
    assert found.ratio.item() == pytest.approx(expected)
    assert found.raw_ratio.item() == pytest.approx((0.1**2 + 5**2) ** 0.5)
    assert kinds(found) == [True, True, False]


def test_the_other_reading_takes_raw_values_and_leaves_out_the_first_block():
    part = of(attention(), values(0.1))
    loud = of(attention(), values(2.0))
    both = sinks.join([part, part, loud], dim=1)
    counts = {name: count.tolist() for name, count in both.per_image().items()}
    assert counts["nop_sinks"] == [2.0]
    assert counts["raw_nop_sinks"] == [1.0]
    assert counts["raw_broadcast_sinks"] == [1.0]  # its stable rank does not matter
    assert counts["sinks"] == [3.0]


def test_a_key_that_is_no_token_takes_attention_but_is_no_sink():
    """A learned key beside the tokens, which stands last: its mass lowers that of the tokens."""
    rows = torch.cat([0.1 * attention(), torch.full((TOKENS, 1), 0.9)], dim=1)
    found = of(rows, torch.cat([torch.eye(TOKENS), torch.zeros(1, TOKENS)]))
    assert found.token.item() == SINK
    assert kinds(found) == [False, False, False]
    assert found.ratio.item() == pytest.approx(1)


def test_a_key_that_is_no_token_is_part_of_the_update():
    """A sink of mass 0.6, and beside it ±0.4 on a learned key whose value is orthogonal: known singular values."""
    rows = torch.zeros(TOKENS, TOKENS + 1)
    rows[:, SINK] = 0.6
    rows[:10, -1], rows[10:, -1] = 0.4, -0.4
    written = torch.zeros(TOKENS + 1, 3)
    written[:-1, 0], written[-1, 1] = 1.0, 1.0
    assert of(rows, written).stable_rank.item() == pytest.approx(1 + (0.4 / 0.6) ** 2)


def test_parts_keep_their_images_and_the_largest_error():
    small, large = (sinks.Sinks(*[torch.full((count, 1, 1), 1.0)] * 6, error=0.1 * count) for count in (1, 3))
    for parts in ([small, large], [large, small]):
        joined = sinks.join(parts)
        assert (len(joined), joined.error) == (4, pytest.approx(0.3))


def test_a_pass_measures_all_images_or_says_why_not():
    backbone, pixels = small("passed"), torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    measured = sinks.SinkPass(backbone)
    for part in pixels.split(2):
        measured.test_step((part,), 0)
    assert len(measured.sinks) == 3
    assert [len(counts) for counts in measured.per_image().values()] == [3] * 6
    backbone.model.blocks[1].register_forward_hook(lambda _, __, output: 1.01 * output)
    measured = sinks.SinkPass(backbone)
    measured.test_step((pixels,), 0)
    assert (measured.sinks, measured.per_image()) == (None, {})
    assert measured.why_not.startswith("passed: block 1 is not the sum of what its heads write")


def test_values_of_zero_are_neither():
    found = of(attention(), torch.zeros(TOKENS, 4))
    assert found.ratio.isnan().all()
    assert kinds(found) == [True, False, False]


@hypothesis_settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_ratio_and_rank_are_those_of_the_written_vectors(seed):
    """Against U = A u formed in full, whose singular values numpy computes."""
    generator = torch.Generator().manual_seed(seed)
    rows = attention() + 0.01 * torch.rand(TOKENS, TOKENS, generator=generator)
    vectors, output = torch.randn(TOKENS, 6, generator=generator), torch.randn(16, 6, generator=generator)
    found = of(rows, vectors, output)
    written = (vectors.double() @ output.double().T).numpy()
    lengths = np.linalg.norm(written, axis=1)
    others = np.delete(lengths, SINK).mean()
    assert found.ratio.item() == pytest.approx(lengths[SINK] / others)
    singular = np.linalg.svd(rows.double().numpy() @ written, compute_uv=False)
    assert found.stable_rank.item() == pytest.approx((singular**2).sum() / singular[0] ** 2)


SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 0}


def small(name, **options):
    """A timm model of two blocks with random weights of a size at which every part matters."""
    model = VisionTransformer(**SHAPE, **options)
    return shaken(ViTBackbone(model, name, 32, (0.5,) * 3, (0.5,) * 3))


def shaken(backbone, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in backbone.model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return backbone


def updates_of(backbone, size=None):
    found, side = [], size or backbone.image_size
    with torch.no_grad():
        backbone.walk_heads(torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1)), found.append)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reg_tokens": 4, "init_values": 0.5},
        {"qk_norm": True, "class_token": False, "global_pool": "avg"},
        {"scale_attn_norm": True, "init_values": 0.5},
        {"qkv_bias": False, "proj_bias": False, "pre_norm": True},
    ],
)
def test_a_rebuilt_block_is_the_block(options):
    backbone = small("small", **options)
    found = updates_of(backbone)
    assert [one.block for one in found] == [0, 1]
    tokens = 16 + backbone.num_registers + backbone.has_cls
    for one in found:
        assert one.attention.shape == (2, 3, tokens, tokens)
        torch.testing.assert_close(one.attention.sum(dim=-1), torch.ones(2, 3, tokens))
        assert 0 < one.error < 1e-5
    last = backbone.last_block(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(found[-1].attention, last.attention.full)
    width = last.v.patches.shape[-1] // 3
    values = last.v.patches.flatten(1, 2).unflatten(-1, (3, width)).transpose(1, 2)
    torch.testing.assert_close(found[-1].values[:, :, -16:], values)


def test_what_a_head_writes_has_the_scale_of_the_layer_and_of_an_inner_norm():
    """Twice the weight of the norm in the channels of head 1, or twice a LayerScale: twice what is written there."""
    backbone = small("normed", scale_attn_norm=True, init_values=0.5)
    block, before = backbone.model.blocks[1], updates_of(backbone)[1].output.clone()
    block.attn.norm.weight.data[8:16] *= 2
    torch.testing.assert_close(updates_of(backbone)[1].output, before * torch.tensor([1.0, 2.0, 1.0])[:, None, None])
    block.attn.norm.weight.data[8:16] /= 2
    block.ls1.gamma.data[5] *= 2
    expected = before.clone()
    expected[:, 5] *= 2
    torch.testing.assert_close(updates_of(backbone)[1].output, expected)


FAMILIES = {
    "rotary positions, SwiGLU": lambda: Eva(
        **SHAPE, swiglu_mlp=True, use_rot_pos_emb=True, init_values=0.5, num_reg_tokens=4, qkv_fused=False
    ),
    "SwiGLU of aligned width, a norm in the MLP": lambda: Eva(
        **SHAPE, swiglu_mlp=True, swiglu_align_to=1, scale_mlp=True, use_rot_pos_emb=True
    ),
    "position bias of the attention": lambda: Beit(**SHAPE, use_abs_pos_emb=False, use_rel_pos_bias=True),
    "packed SwiGLU": lambda: VisionTransformer(**SHAPE, mlp_layer=SwiGLUPacked, act_layer=nn.SiLU, init_values=0.5),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_of_every_family_are_rebuilt(name):
    backbone = shaken(ViTBackbone(FAMILIES[name](), name, 32, (0.5,) * 3, (0.5,) * 3))
    assert all(one.error < 1e-5 for one in updates_of(backbone))


@pytest.mark.parametrize("name", ["random-vitn_reg4", "random-timm/test_vit3"])
def test_blocks_of_named_models_are_rebuilt(name):
    backbone = shaken(sources.load_backbone(name, "runs", image_size=64))
    assert all(one.error < 1e-5 for one in updates_of(backbone))


def test_a_gate_does_not_hide_the_heads():
    backbone = small("gated")
    for block in backbone.model.blocks:
        block.attn = TimmAttention(24, 3, gated=True)
    assert all(one.error < 1e-5 for one in updates_of(shaken(backbone)))


def test_a_block_that_its_heads_do_not_explain_is_refused():
    scaled = small("scaled", init_values=0.5)
    scaled.model.blocks[1].ls1.register_forward_hook(lambda _, __, output: 1.01 * output)
    with pytest.raises(UserError, match=r"scaled: block 1 is not the sum of what its heads write: .* \(most: 0.0001\)"):
        updates_of(scaled)
    assert [block.attn.fused_attn for block in scaled.model.blocks] == [True, True]


def test_a_planted_sink_of_a_model():
    """Keys that all queries prefer to those of the others by far, and a value that is (not) zero there."""
    for value, name in ((0.0, "nop_sinks"), (1.0, "broadcast_sinks")):
        backbone = small("planted", reg_tokens=1)
        block = backbone.model.blocks[1]
        torch.nn.init.zeros_(block.attn.qkv.weight)
        torch.nn.init.zeros_(block.attn.qkv.bias)
        block.attn.qkv.bias.data[0] = 1.0  # the first component of every query of head 0
        marked = torch.randn(24, generator=torch.Generator().manual_seed(0))

        def mark(module, arguments, marked=marked):
            tokens = 0.01 * arguments[0]
            tokens[:, 1] = marked - marked.mean()  # the register
            return (tokens,)

        block.attn.register_forward_pre_hook(mark)
        unit = (marked - marked.mean()) / (marked - marked.mean()).square().sum()
        block.attn.qkv.weight.data[24] = 100 * unit  # the first component of its key
        block.attn.qkv.bias.data[48:] = 1.0
        block.attn.qkv.weight.data[48:56] = (value - 1.0) * unit
        found = sinks.measure(backbone, torch.randn(3, 3, 32, 32))
        assert found.events[:, 1, 0].all()
        assert (found.token[:, 1, 0] == 1).all()
        assert getattr(found, name.removesuffix("_sinks"))[:, 1, 0].all()


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "rats"])  # several products: refused, see its tests
def test_blocks_of_every_arm_are_rebuilt(arm):
    backbone = shaken(sources.load_backbone(f"random-vitn_{arm}_reg2", "runs", image_size=32))
    found = updates_of(backbone)
    assert all(one.error < 1e-5 for one in found)
    keys = found[0].attention.shape[3] - found[0].attention.shape[2]
    assert keys == (arm in ("softmax1", "bias_kv"))
