"""Differential attention against timm's."""

import pytest
import torch
from timm.layers import DiffAttention

from regvit_lightning.models.arms.differential import DifferentialAttention
from regvit_lightning.settings import SettingsError
from tests.models.arms.test_registry import build, randomised


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("depth", [0, 3])
def test_it_is_timms(depth, fused):
    torch.manual_seed(0)
    theirs = randomised(DiffAttention(24, 3, qkv_bias=True, depth=depth))
    ours = DifferentialAttention(24, 3, qkv_bias=True, depth=depth)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    ours.fused_attn = theirs.fused_attn = fused
    x = torch.randn(2, 5, 24)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_equal_maps_leave_the_rest_of_one():
    # With q1 = q2 and k1 = k2 the difference is (1 - lambda) times one softmax: rows sum to 1 - lambda.
    module = DifferentialAttention(8, 1, depth=2)
    q = torch.randn(1, 1, 5, 4).repeat(1, 1, 1, 2)
    sums = module.weights(q, q).sum(dim=-1)
    torch.testing.assert_close(sums, (1 - module.factor()).expand_as(sums))


def test_the_initial_factor_is_published():
    factors = [block.attn.lambda_init for block in build("diff").blocks]
    assert factors == pytest.approx([0.2, 0.3555, 0.4707, 0.5561], abs=1e-4)  # 0.8 - 0.6 exp(-0.3 l), l = 0, 1, 2, 3


def test_heads_of_an_odd_width_are_refused():
    with pytest.raises(SettingsError, match="arm diff: heads of width 3 cannot be halved"):
        DifferentialAttention(9, 3)
