"""Registers split over heads: the three steps written out for each head, and what may not depend on what."""

import pytest
import torch
from torch import nn

from regvit_lightning.models.arms.split_registers import SplitRegisterAttention
from regvit_lightning.settings import SettingsError

HEADS, DIM, PATCHES = 3, 12, 5


def attention(registers: int, fused: bool = True, seed: int = 0) -> SplitRegisterAttention:
    module = SplitRegisterAttention(DIM, registers, num_heads=HEADS, qkv_bias=True).double().eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    module.fused_attn = fused
    return module


def tokens(registers: int, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 1 + registers + PATCHES, DIM, generator=generator, dtype=torch.float64)


def weights(module: SplitRegisterAttention, x: torch.Tensor) -> torch.Tensor:
    seen = []
    module.fused_attn = False
    handle = module.attn_drop.register_forward_hook(lambda _, __, output: seen.append(output))
    module(x)
    handle.remove()
    return seen[0]


def written_out(module: SplitRegisterAttention, x: torch.Tensor, registers: int) -> torch.Tensor:
    """The formulas of the module's docstring for one image (T, D), a number at a time."""
    dim, own = DIM // HEADS, registers // HEADS
    qkv = x @ module.qkv.weight.T + module.qkv.bias
    outputs = torch.zeros(len(x), DIM, dtype=x.dtype)
    patches = range(1 + registers, len(x))

    def softmax(query, keys):
        logits = torch.stack([query @ key / dim**0.5 for key in keys]).exp()
        return logits / logits.sum()

    for head in range(HEADS):
        q, k, v = (qkv[:, part * DIM + head * dim : part * DIM + (head + 1) * dim] for part in range(3))
        group = range(1 + head * own, 1 + (head + 1) * own)
        c = {r: v[r] + sum(a * v[p] for a, p in zip(softmax(q[r], k[patches]), patches, strict=True)) for r in group}
        u = {r: sum(a * c[s] for a, s in zip(softmax(q[r], k[group]), group, strict=True)) for r in group}
        for i in (0, *patches):
            outputs[i, head * dim : (head + 1) * dim] = sum(
                a * u[r] for a, r in zip(softmax(q[i], k[group]), group, strict=True)
            )
        for r in group:
            outputs[r, head * dim : (head + 1) * dim] = u[r]
    return outputs @ module.proj.weight.T + module.proj.bias


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("registers", [3, 6])
def test_update_is_that_of_the_three_steps(registers, fused):
    module, x = attention(registers, fused), tokens(registers)
    expected = torch.stack([written_out(module, image, registers) for image in x])
    torch.testing.assert_close(module(x), expected)


def test_permuting_the_registers_of_a_head_changes_nothing_elsewhere():
    module, x = attention(9), tokens(9)
    order = list(range(x.shape[1]))
    order[4:7] = [6, 4, 5]  # the group of the second head
    torch.testing.assert_close(module(x[:, order]), module(x)[:, order])


def test_registers_of_different_heads_are_not_alike():
    module, x = attention(9), tokens(9)
    order = list(range(x.shape[1]))
    order[3], order[4] = order[4], order[3]  # of the first head and of the second
    assert not torch.allclose(module(x[:, order]), module(x)[:, order])


def test_patches_attend_only_the_registers_of_a_head():
    maps = weights(attention(6), tokens(6))
    of_patches = maps[:, :, 7:]
    assert (of_patches[..., 7:] == 0).all(), "patch to patch"
    assert (of_patches[..., 0] == 0).all(), "patch to CLS"
    for head in range(HEADS):
        own = slice(1 + 2 * head, 3 + 2 * head)
        torch.testing.assert_close(of_patches[:, head, :, own].sum(dim=-1), torch.ones(2, PATCHES).double())


def test_registers_attend_the_patches_in_their_own_head_only():
    of_registers = weights(attention(6), tokens(6))[:, :, 1:7]
    for register in range(6):
        for head in range(HEADS):
            expected = 1.0 if register // 2 == head else 0.0
            sums = of_registers[:, head, register].sum(dim=-1)
            torch.testing.assert_close(sums, torch.full((2,), expected).double())
            torch.testing.assert_close(of_registers[:, head, register, 7:].sum(dim=-1), sums)


def test_with_one_register_a_head_all_patches_receive_the_same():
    update = attention(3)(tokens(3))
    torch.testing.assert_close(update[:, 4:], update[:, 4:5].expand(-1, PATCHES, -1))


def test_nothing_reads_cls():
    module, x = attention(6), tokens(6)
    other = x.clone()
    other[:, 0] = 7.0
    torch.testing.assert_close(module(other)[:, 1:], module(x)[:, 1:], rtol=0, atol=0)
    assert not torch.allclose(module(other)[:, 0], module(x)[:, 0])


@pytest.mark.parametrize(("registers", "told"), [(4, "take 3 or 6"), (0, "take 3$"), (2, "take 3$")])
def test_registers_that_cannot_be_split_are_refused(registers, told):
    with pytest.raises(SettingsError, match=f"splits the registers over 3 heads, so {registers} is not .*{told}"):
        SplitRegisterAttention(DIM, registers, num_heads=HEADS)
