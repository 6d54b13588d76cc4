"""Clipped softmax by hand."""

import pytest
import torch

from regvit_lightning.models.arms.clipped import ALPHA, ClippedAttention
from tests.models.arms.test_registry import build, images


def made(alpha=ALPHA):
    torch.manual_seed(0)
    module = ClippedAttention(12, 3, qkv_bias=True)
    module.alpha = alpha
    return module.double()


def test_alpha_of_zero_is_the_plain_softmax():
    module = made(0.0)
    q, k, v = module.project(torch.randn(2, 5, 12, dtype=torch.float64))
    torch.testing.assert_close(module.attend(q, k, v), (q @ k.mT / 2).softmax(dim=-1) @ v)


def test_by_hand_with_exact_zeros():
    # Softmax 0.7, 0.2, 0.06, 0.04 over 4 keys; gamma = -0.5 / 4: 1.125 p - 0.125, below 0 for the last two.
    module = made()
    module.scale = 1.0
    q = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    k = torch.tensor([0.7, 0.2, 0.06, 0.04], dtype=torch.float64).log().view(1, 1, 4, 1)
    expected = torch.tensor([0.6625, 0.1, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(module.weights(q, k)[0, 0, 0], expected)
    assert module.weights(q, k)[0, 0, 0, 2:].tolist() == [0.0, 0.0]


def test_the_largest_weight_is_one():
    q, k = torch.full((1, 1, 1, 1), 100.0), torch.tensor([1.0, -1.0]).view(1, 1, 2, 1)
    assert made().weights(q, k)[0, 0, 0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(("alpha", "sees"), [(ALPHA, True), (3.2, False)])
def test_cls_sees_patches_at_the_start_which_the_published_alpha_would_not_allow(alpha, sees):
    # 3.2 is that of the published BERT; all weights of the nano model start within a few percent of 1 / T.
    model = build("clipped").eval()
    for block in model.blocks:
        block.attn.alpha = alpha
    change = model.forward_features(images())[:, 0] - model.forward_features(images().flip(3))[:, 0]
    assert bool(change.abs().max() > 0) is sees
