"""Gates: open ones are the plain model, and the gate is where it is said to be."""

import pytest
import timm
import torch
from timm.layers import Attention

from regvit_lightning.models.arms.gates import HeadwiseGate, ValueGate
from tests.models.arms.test_registry import build, images, randomised

GATES = {"gated": "gate", "gated_headwise": "gate", "value_gate": "value_gate", "value_gate_headwise": "value_gate"}


@torch.no_grad()
@pytest.mark.parametrize("arm", GATES)
def test_an_open_gate_is_the_plain_model_and_a_shut_one_writes_nothing(arm):
    model, plain = randomised(build(arm)), build("none").eval()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if name in plain.state_dict()})
    for block in model.blocks:
        gate = getattr(block.attn, GATES[arm])
        gate.weight.zero_()
        gate.bias.fill_(40.0)  # sigmoid is 1 in float32
    torch.testing.assert_close(model.forward_features(images()), plain.forward_features(images()))
    for block in model.blocks:
        getattr(block.attn, GATES[arm]).bias.fill_(-200.0)
    block = model.blocks[0]
    torch.testing.assert_close(block.attn(torch.randn(1, 5, 96)), block.attn.proj.bias.expand(1, 5, -1))


def test_the_gate_of_each_channel_is_timms():
    ours = randomised(build("gated", 4))
    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, num_classes=0, embed_dim=96, depth=4, num_heads=3, no_embed_class=True, reg_tokens=4
    )
    for block in theirs.blocks:
        block.attn = Attention(96, 3, qkv_bias=True, gated=True)
    theirs.eval().load_state_dict(ours.state_dict(), strict=True)
    torch.testing.assert_close(ours.forward_features(images()), theirs.forward_features(images()))


def test_a_gate_of_each_head_is_one_of_each_channel_with_equal_rows():
    torch.manual_seed(0)
    headwise, elementwise = HeadwiseGate(12, 3, qkv_bias=True), Attention(12, 3, qkv_bias=True, gated=True)
    state = headwise.state_dict()
    state |= {f"gate.{name}": state[f"gate.{name}"].repeat_interleave(4, dim=0) for name in ("weight", "bias")}
    elementwise.load_state_dict(state)
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(headwise(x), elementwise(x), rtol=1e-5, atol=1e-6)


def test_gated_values_by_hand():
    torch.manual_seed(0)
    module, x = ValueGate(12, 3, qkv_bias=True).double(), torch.randn(1, 4, 12, dtype=torch.float64)
    q, k, v = module.qkv(x)[0].chunk(3, dim=1)
    v = v * (v @ module.value_gate.weight.T + module.value_gate.bias).sigmoid()
    heads = [slice(0, 4), slice(4, 8), slice(8, 12)]
    mixed = [(q[:, head] @ k[:, head].T / 2).softmax(dim=1) @ v[:, head] for head in heads]
    expected = torch.cat(mixed, dim=1) @ module.proj.weight.T + module.proj.bias
    torch.testing.assert_close(module(x)[0], expected)


def test_they_start_half_open():
    model = build("gated_headwise")
    x = torch.nn.functional.layer_norm(torch.randn(2, 19, 96), (96,))
    gates = model.blocks[0].attn.gate(x).sigmoid()
    assert gates.mean().item() == pytest.approx(0.5, abs=0.02)
    assert gates.std().item() < 0.1
