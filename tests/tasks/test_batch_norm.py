"""Batch normalisation over devices is torch's on one; `tests/pretrain/test_devices.py` has two."""

import torch
from torch import nn

from regvit_lightning.tasks.batch_norm import BatchNorm


def test_the_norm_is_torchs_batch_norm_with_its_gradient_and_follows_it():
    ours, theirs = BatchNorm(4), nn.BatchNorm2d(4)
    for norm in (ours, theirs):
        norm.weight.data, norm.bias.data = torch.tensor([0.5, 1, 2, -1]), torch.tensor([0.0, 1, -2, 3])
    for _ in range(3):
        features, upstream = (5 + 2 * torch.randn(2, 4, 3, 6)).requires_grad_(), torch.randn(2, 4, 3, 6)
        outputs = [norm(features) for norm in (ours, theirs)]
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
        gradients = [
            torch.autograd.grad(output, (features, norm.weight, norm.bias), upstream)
            for output, norm in zip(outputs, (ours, theirs), strict=True)
        ]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(features), theirs(features))
