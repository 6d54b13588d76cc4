"""The rows about pretraining run, and what they compare computes the same."""

import pytest
import torch

from benchmarks.speed.plain_dinov2 import PlainDinov2
from tests.pretrain.dinov2.test_recipe import crops, recipe, total


@pytest.mark.parametrize("device_batch", [4, 8])
def test_the_straightforward_step_finds_the_losses_of_the_recipe(device_batch):
    module, groups = recipe(f"device_batch={device_batch}"), [(0, 0), (0, 1)]
    generator = torch.Generator().manual_seed(7)
    for parameter in module.student.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    plain = PlainDinov2(module)
    found = total(plain.losses(crops(), module.masks_of(groups), module.teacher_temperature(100)))
    expected = total(module.losses(crops(), groups, 100))
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    found.backward()
    ours = plain.student.blocks[0].attn.qkv.weight.grad
    expected.backward()
    theirs = module.student["backbone"].blocks[0].attn.qkv.weight.grad
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
