"""Batch normalisation with the statistics of the whole batch, over all devices."""

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation with the statistics of the whole batch, over all devices.

    Unlike torch's SyncBatchNorm, it also works on CPUs.
    """

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return super().forward(features)
        count = features.numel() // features.shape[1] * _devices()
        mean = over_devices(features.sum((0, 2, 3))) / count
        var = over_devices((features - mean.view(-1, 1, 1)).square().sum((0, 2, 3))) / count
        for running, measured in ((self.running_mean, mean), (self.running_var, var * count / max(count - 1, 1))):
            assert running is not None and self.momentum is not None  # noqa: PT018  # as created by BatchNorm2d
            running.lerp_(measured.detach(), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return torch.addcmul((self.bias - mean * scale).view(-1, 1, 1), features, scale.view(-1, 1, 1))


def _devices() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def over_devices(sums: Tensor) -> Tensor:
    """Sum a tensor over all devices."""
    return all_reduce(sums) if _devices() > 1 else sums


def synchronise(module: nn.Module) -> None:
    """Replace every `BatchNorm2d` and `SyncBatchNorm` inside `module` by `BatchNorm`."""
    for name, child in module.named_children():
        if isinstance(child, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            norm = BatchNorm(child.num_features, child.eps, child.momentum)
            norm.load_state_dict(child.state_dict())
            setattr(module, name, norm)
        else:
            synchronise(child)
