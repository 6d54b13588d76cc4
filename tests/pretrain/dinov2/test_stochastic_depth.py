"""Stochastic depth over a subset of the batch: it skips, has the right expectation, and belongs to the images."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from regvit_lightning.models import vit
from regvit_lightning.pretrain.dinov2.stochastic_depth import SkippingBlock, add_branch, draw

CPU = torch.device("cpu")


def names(step, groups):
    return [(0, step, group) for group in groups]


def model():
    torch.manual_seed(0)
    built = vit.build("vitn_reg2", image_size=32, block=SkippingBlock)
    return built.eval()


def images(count):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_only_kept_samples_go_through_a_branch_and_are_scaled():
    x, seen = torch.arange(10.0).view(5, 1, 2), []

    def branch(some):
        seen.append(len(some))
        return torch.ones_like(some)

    out = add_branch(x, torch.tensor([3, 1]), branch)
    assert seen == [2]
    added = (out - x)[:, 0, 0].tolist()
    assert added == [0, 2.5, 0, 2.5, 0]


def test_the_mean_over_draws_is_the_whole_batch():
    # A branch that does not depend on what was added before: its expectation is exact.
    block = model().blocks[0]
    x = torch.randn(6, 7, 96, generator=torch.Generator().manual_seed(2))
    whole = block.attn(block.norm1(x)).detach()
    total, draws = torch.zeros_like(x), 3000
    kept = draw(names(0, range(draws)), 1, 6, 1, 0.4, CPU)
    rows = kept[0][0].view(draws, -1) % 6
    for some in rows:
        scaled = torch.zeros_like(x)
        scaled[some] = whole[some] * 6 / len(some)
        total += scaled
    with torch.no_grad():
        one = add_branch(x, rows[0], lambda some: block.attn(block.norm1(some))) - x
    expected = torch.zeros_like(x)
    expected[rows[0]] = whole[rows[0]] * 2  # int(6 * 0.6) = 3 of 6
    torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-5)
    counts = torch.bincount(rows.flatten(), minlength=6) / draws
    torch.testing.assert_close(counts, torch.full((6,), 0.5), rtol=0, atol=0.04)
    torch.testing.assert_close(total / draws, whole, rtol=0, atol=0.1 * float(whole.abs().max()))


def test_all_kept_is_the_plain_forward_pass():
    net, x = model(), images(4)
    kept = [(torch.randperm(4), torch.randperm(4)) for _ in net.blocks]
    torch.testing.assert_close(net.forward_features(x, kept=kept), net.forward_features(x), rtol=1e-4, atol=1e-5)


def test_a_sample_dropped_everywhere_passes_the_blocks_unchanged():
    net, x = model(), images(4)
    others = torch.tensor([0, 1, 3])
    out = net.forward_features(x, kept=[(others, others)] * len(net.blocks))
    embedded = net.norm(net.norm_pre(net._pos_embed(net.patch_embed(x))))
    torch.testing.assert_close(out[2], embedded[2])


@pytest.mark.parametrize("rate", [0.25, 0.5])
def test_dropped_samples_are_not_computed(rate):
    net, x = model(), images(8)

    def macs(kept):
        with FlopCounterMode(display=False) as counter:
            net.forward_features(x, kept=kept)
        return counter.get_total_flops()

    embedding = FlopCounterMode(display=False)
    with embedding:
        net.patch_embed(x)
    fixed = embedding.get_total_flops()
    found = macs(draw(names(0, [0]), 1, 8, len(net.blocks), rate, CPU))
    assert (found - fixed) / (macs(None) - fixed) == pytest.approx(1 - rate)


def test_gradient_checkpointing_changes_nothing():
    net, x = model().train(), images(4)
    kept, grads = draw(names(0, [0]), 1, 4, len(net.blocks), 0.5, CPU), []
    for again in (False, True):
        net.set_grad_checkpointing(again)
        net.zero_grad()
        net.forward_features(x, kept=kept).square().sum().backward()
        grads.append(net.blocks[0].attn.qkv.weight.grad.clone())
    torch.testing.assert_close(*grads, rtol=0, atol=0)


def test_draws_belong_to_the_images_of_a_group():
    # Groups 0-3 on one device, or two on each of two devices: image i of group g keeps the same branches.
    crops, size, depth = 3, 4, 2
    whole = draw(names(5, range(4)), crops, size, depth, 0.3, CPU)
    for first in (0, 2):
        part = draw(names(5, (first, first + 1)), crops, size, depth, 0.3, CPU)
        for block in range(depth):
            for branch in (0, 1):
                rows = part[block][branch]
                crop, image = rows // (2 * size), rows % (2 * size)
                same = set((crop * 4 * size + first * size + image).tolist())
                of_device = whole[block][branch]
                group = of_device % (4 * size) // size
                mine = of_device[(group == first) | (group == first + 1)]
                assert same == set(mine.tolist())
    assert len(whole[0][0]) == 4 * int(crops * size * 0.7)
    assert any((a != b).any() for a, b in zip(whole[0], whole[1], strict=True))


def test_no_rate_draws_nothing():
    assert draw(names(0, [0]), 2, 4, 3, 0.0, CPU) is None
