"""Linearised blocks against least squares on draws, on a block that is linear, and what is refused."""

import pytest
import torch
from timm.layers import GluMlp, Mlp, QuickGELU, RmsNorm, SwiGLU, SwiGLUPacked
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from regvit_lightning.errors import UserError
from regvit_lightning.models.linearised import hidden_map, linearised

SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3, "num_classes": 0}
MLPS = {
    "GELU": lambda: Mlp(12, 20),
    "quick GELU": lambda: Mlp(12, 20, act_layer=QuickGELU),
    "SwiGLU, packed": lambda: SwiGLUPacked(12, 40),
    "SwiGLU, in two layers": lambda: SwiGLU(12, 20),
    "GLU with the gate last": lambda: GluMlp(12, 40, gate_last=True),
}


def shaken(module, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = size * torch.randn(parameter.shape, generator=generator)
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize("name", MLPS)
def test_the_map_of_an_mlp_is_that_of_least_squares_on_many_draws(name):
    mlp, hidden = shaken(MLPS[name](), 0.4), []
    mlp.fc2.register_forward_pre_hook(lambda _, arguments: hidden.append(arguments[0]))
    draws = torch.randn(200_000, 12, generator=torch.Generator().manual_seed(1))
    mlp(draws)
    fitted = torch.linalg.lstsq(draws, hidden[0]).solution.T
    found = hidden_map(mlp, "m")
    assert (found - fitted).norm() / fitted.norm() < 0.02


def test_the_map_of_a_linear_mlp_is_its_weight():
    mlp = shaken(Mlp(6, 9, act_layer=nn.Identity), 1.0)
    torch.testing.assert_close(hidden_map(mlp, "m"), mlp.fc1.weight)


@pytest.mark.parametrize("fused", [True, False])
def test_a_linear_block_is_its_own_linearisation(fused):
    """Without nonlinearity and norms, a block is (1 + γ2 W2 W1) (1 + γ1 W_O W_V) on a single token."""
    model = Eva(**SHAPE, qkv_fused=fused, init_values=0.5, use_abs_pos_emb=False)
    block = shaken(model, 0.2).blocks[0]
    block.mlp.act = nn.Identity()
    for layer in (block.mlp.fc1, block.mlp.fc2, block.attn.proj):
        nn.init.zeros_(layer.bias)
    if fused:
        nn.init.zeros_(block.attn.v_bias)
    else:
        nn.init.zeros_(block.attn.v_proj.bias)
    scales = block.norm1.weight, block.norm2.weight
    block.norm1, block.norm2 = Centred(scales[0]), Centred(scales[1])
    tokens = torch.randn(5, 1, 24, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(tokens @ linearised(block, "m").T, block(tokens), rtol=1e-4, atol=1e-4)


class Centred(nn.Module):
    """A layer norm without its division by the standard deviation."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, tokens):
        return self.weight * (tokens - tokens.mean(dim=-1, keepdim=True))


@pytest.mark.parametrize("options", [{"scale_attn_norm": True}, {"scale_mlp_norm": True}])
def test_a_norm_inside_a_branch_is_refused(options):
    model = VisionTransformer(**SHAPE, **options)
    with pytest.raises(UserError, match="m: block 0 has a norm or a gate inside a branch"):
        linearised(model.blocks[0], "m: block 0")


def test_a_gate_is_refused_and_an_rms_norm_is_not_centred():
    block = VisionTransformer(**SHAPE).blocks[0]
    block.attn.gate = nn.Linear(24, 24)
    with pytest.raises(UserError, match="m: block 0 has a norm or a gate inside a branch"):
        linearised(block, "m: block 0")
    for norm, kept in ((RmsNorm, True), (nn.LayerNorm, False)):
        block = shaken(VisionTransformer(**SHAPE, norm_layer=norm), 0.2).blocks[0]
        nn.init.zeros_(block.mlp.fc2.weight)
        block.norm1.weight.data.fill_(1.0)
        constant = torch.ones(24)  # which a layer norm removes
        moved = linearised(block, "m") @ constant - constant
        expected = block.attn.proj.weight @ block.attn.qkv.weight[48:] @ constant
        torch.testing.assert_close(moved, kept * expected, rtol=1e-4, atol=1e-5)


def test_another_mlp_is_refused():
    block = VisionTransformer(**SHAPE).blocks[0]
    block.mlp = nn.Linear(24, 24)
    block.mlp.fc2 = nn.Linear(24, 24)
    with pytest.raises(UserError, match="m: block 0 has a Linear, which is not linearised"):
        linearised(block, "m: block 0")
