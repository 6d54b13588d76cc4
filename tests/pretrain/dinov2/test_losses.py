"""DINO and iBOT: by hand on tiny tensors, at their minimum, against loops over pairs."""

import math

import pytest
import torch
from torch.nn import functional as F

from regvit_lightning.pretrain.dinov2 import losses


def shares(*shape, seed=0):
    return F.softmax(3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_dino_by_hand():
    # Two prototypes, one image, one local crop. At temperature 1, logits (ln 3, 0) are shares (3/4, 1/4).
    three, even = [math.log(3.0), 0.0], [0.0, 0.0]
    local, wide = torch.tensor([[three]]), torch.tensor([[three], [even]])
    targets = torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]]])
    near, far = losses.dino(local, wide, targets, 1.0)
    first, second = -math.log(0.75), -0.5 * math.log(0.75) - 0.5 * math.log(0.25)
    assert near.item() == pytest.approx((first + second) / 4)
    # Crop 1 of the student meets the second teacher crop, crop 2 the first.
    assert far.item() == pytest.approx((second + math.log(2)) / 4)


@pytest.mark.parametrize("crops", [0, 1, 8])
def test_dino_is_the_mean_over_pairs_of_different_crops(crops):
    batch, prototypes = 5, 7
    local, wide, targets = randn(crops, batch, prototypes), randn(2, batch, prototypes), shares(2, batch, prototypes)
    pairs = [
        F.cross_entropy(student / 0.1, targets[teacher])
        for number, student in enumerate([*wide, *local])
        for teacher in (0, 1)
        if number != teacher
    ]
    assert len(pairs) == 2 * crops + 2
    found = sum(losses.dino(local, wide, targets, 0.1))
    torch.testing.assert_close(found, torch.stack(pairs).mean())


def test_losses_are_least_when_the_student_says_what_a_sure_teacher_says():
    sure = F.one_hot(torch.tensor([[0, 3, 1], [2, 2, 0]]), 4).float()
    agreeing, weights = 20 * sure, torch.ones(3)
    one = torch.stack([sure[0]] * 2)
    assert sum(losses.dino(20 * one, 20 * one, one, 0.1)).item() == pytest.approx(0, abs=1e-6)
    assert losses.ibot(agreeing[0], sure[0], weights, 4, 0.1).item() == pytest.approx(0, abs=1e-6)
    for logits in (torch.zeros(3, 4), -agreeing[0], agreeing[1]):
        assert losses.ibot(logits, sure[0], weights, 4, 0.1) > 0.1
        assert sum(losses.dino(logits.expand(2, -1, -1), logits.expand(2, -1, -1), one, 0.1)) > 0.1


def test_cross_entropy_is_torchs_with_shares_as_targets():
    logits, targets = randn(6, 9), shares(6, 9)
    expected = F.cross_entropy(logits / 0.1, targets, reduction="none")
    torch.testing.assert_close(losses.cross_entropy(logits, targets, 0.1), expected)


def test_ibot_is_a_mean_over_the_patches_of_a_crop_and_over_all_crops():
    masks = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)
    logits, targets = randn(3, 4, 5), shares(3, 4, 5)
    expected = 0.0
    for crop in range(3):
        of_crop = [F.cross_entropy(logits[crop, p] / 0.1, targets[crop, p]) for p in range(4) if masks[crop, p]]
        expected += sum(of_crop) / len(of_crop) / 3 if of_crop else 0.0
    weights = torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0])
    torch.testing.assert_close(losses.ibot(logits[masks], targets[masks], weights, 3, 0.1), expected)
