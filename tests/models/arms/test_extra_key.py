"""One more key: against the formulas in float64, and against PyTorch's own `MultiheadAttention`."""

import pytest
import torch
from torch import nn

from regvit_lightning.models.arms.extra_key import LearnedKey, ZeroKey


def made(kind, seed=0):
    torch.manual_seed(seed)
    return kind(12, 3, qkv_bias=True).double()


def tokens():
    return torch.randn(2, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def heads_by_hand(module, x, key, value):
    """(B, H, T, dh): explicit sums over keys, with exp in place of any softmax."""
    q, k, v = (part.unflatten(-1, (3, 4)).transpose(1, 2) for part in module.qkv(x).chunk(3, dim=-1))
    exp, extra = (q @ k.mT / 2).exp(), (q @ key.mT / 2).exp()
    return (exp @ v + extra * value) / (extra + exp.sum(dim=-1, keepdim=True))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", [ZeroKey, LearnedKey])
def test_the_formula(kind, fused):
    module, x = made(kind), tokens()
    module.fused_attn = fused
    key, value = module.extra(torch.zeros(2, 3, 5, 4, dtype=torch.float64))
    expected = heads_by_hand(module, x, key, value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(module(x), module.proj(expected))


@pytest.mark.parametrize(("kind", "option"), [(ZeroKey, "add_zero_attn"), (LearnedKey, "add_bias_kv")])
def test_it_is_pytorchs(kind, option):
    module, x = made(kind), tokens()
    theirs = nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64, **{option: True})
    with torch.no_grad():
        theirs.in_proj_weight.copy_(module.qkv.weight)
        theirs.in_proj_bias.copy_(module.qkv.bias)
        theirs.out_proj.load_state_dict(module.proj.state_dict())
        if kind is LearnedKey:
            theirs.bias_k.copy_(module.bias_k.reshape(1, 1, 12))
            theirs.bias_v.copy_(module.bias_v.reshape(1, 1, 12))
    torch.testing.assert_close(module(x), theirs(x, x, x, need_weights=False)[0])


def test_a_learned_pair_of_zeros_is_softmax_of_one_more():
    learned, zero = made(LearnedKey), made(ZeroKey)
    nn.init.zeros_(learned.bias_k)
    nn.init.zeros_(learned.bias_v)
    zero.load_state_dict(learned.state_dict(), strict=False)
    torch.testing.assert_close(learned(tokens()), zero(tokens()))


def test_a_key_that_nobody_wants_is_the_plain_attention():
    module = made(LearnedKey)
    with torch.no_grad():
        module.qkv.bias[:12] += 50  # all queries point one way, and the key the other
        module.bias_k.fill_(-1e3)
    q, k, v = module.project(tokens())
    torch.testing.assert_close(module.attend(q, k, v), (q @ k.mT / 2).softmax(dim=-1) @ v)


@pytest.mark.parametrize("fused", [True, False])
def test_a_query_that_wants_no_token_gets_nothing(fused):
    module = made(ZeroKey)
    module.fused_attn = fused
    _, k, v = module.project(tokens())
    nothing = module.attend(-1e4 * k[:, :, :1], k[:, :, :1], v[:, :, :1])  # the logit of the only token is very low
    torch.testing.assert_close(nothing, torch.zeros_like(nothing))


def test_rows_sum_to_less_than_one():
    module = made(ZeroKey)
    q, k, _ = module.project(tokens())
    weights = module.weights(q, torch.cat([k, k.new_zeros(2, 3, 1, 4)], dim=2))[..., :-1]
    assert (weights.sum(dim=-1) < 1).all()
    assert (weights.sum(dim=-1) > 0).all()


def test_initial_values():
    module = LearnedKey(768, 12)
    for value in (module.bias_k, module.bias_v):
        assert value.shape == (1, 12, 1, 64)
        assert value.std().item() == pytest.approx(0.02, rel=0.1)
