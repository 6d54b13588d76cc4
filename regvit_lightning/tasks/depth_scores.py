"""Losses and metrics of depth maps in metres.

Sources: SigLoss, Eigen et al. 2014 (arXiv 1406.2283) as in AdaBins (Bhat et al. 2021); the gradient loss as intended in
DINOv2's released code; metrics, Eigen et al. 2014, section 4.2.
"""

import torch
from torch import Tensor

EPSILON = 1e-3  # metres, added inside the logarithms of the losses
MEAN_WEIGHT = 0.15  # weight of the squared mean in SigLoss
STRIDES = (1, 2, 4, 6)  # strides of the gradient loss
SCORES = ("rmse", "abs_rel", "sq_rel", "a1", "a2", "a3", "log10", "rmse_log", "silog")


def sig_loss(prediction: Tensor, truth: Tensor, images: int, warmup: bool = False) -> Tensor:
    """SigLoss (Eigen et al. 2014, as in AdaBins): sqrt(Var(g) + 0.15 mean(g)²), g = log prediction - log truth.

    Args:
        prediction, truth: (B, H, W), metres; pixels with truth 0 are ignored.
        images: number of images whose pixels form one value; the mean over the B / images values is returned. A
            group without a valid pixel counts as 0.
        warmup: omit the variance.
    """
    error, valid = _log_error(prediction, truth, images)
    count = valid.sum(dim=(1, 2, 3))
    mean = error.sum(dim=(1, 2, 3)) / count.clamp(min=1)
    squared = MEAN_WEIGHT * mean.square()
    if not warmup:
        apart = torch.where(valid, error - mean.view(-1, 1, 1, 1), 0.0)
        squared = squared + apart.square().sum(dim=(1, 2, 3)) / (count - 1).clamp(min=1)
    positive = squared > 0  # the gradient of the square root is infinite at 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0).mean()


def gradient_loss(prediction: Tensor, truth: Tensor, images: int) -> Tensor:
    """Gradient loss: differences of the log error between pixels two apart, along rows and columns, at several strides.

    The released code (dinov2/eval/depth/models/losses/gradientloss.py) slices batch and channel in place of rows and
    columns and is 0 for two images; this is the intended loss. Arguments are as for `sig_loss`.
    """
    error, valid = _log_error(prediction, truth, images)
    total = torch.zeros(len(error), device=error.device)
    for stride in STRIDES:
        e, v = error[..., ::stride, ::stride], valid[..., ::stride, ::stride]
        vertical = (e[..., 2:, :] - e[..., :-2, :]).abs() * (v[..., 2:, :] & v[..., :-2, :])
        horizontal = (e[..., 2:] - e[..., :-2]).abs() * (v[..., 2:] & v[..., :-2])
        sums = vertical.sum(dim=(1, 2, 3)) + horizontal.sum(dim=(1, 2, 3))
        total = total + sums / v.sum(dim=(1, 2, 3)).clamp(min=1)
    return total.mean()


def _log_error(prediction: Tensor, truth: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """Log error, 0 where nothing was measured, and mask of the measured pixels; both (groups, images, H, W)."""
    valid = truth > 0
    error = torch.where(valid, (prediction + EPSILON).log() - (truth + EPSILON).log(), 0.0)
    return error.unflatten(0, (-1, images)), valid.unflatten(0, (-1, images))


def scores(prediction: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Per-image metrics `SCORES`, in float64 (Eigen et al. 2014, section 4.2).

    Args:
        prediction, truth: (B, H, W), metres, positive inside the mask.
        mask: (B, H, W) bool, scored pixels, at least one in each image.

    Returns:
        (B, 9): rmse in metres, abs_rel, sq_rel in metres, shares a1, a2, a3 in 0..1, log10, rmse_log, silog.
    """
    predicted, true = (torch.where(mask, depth.double(), 1.0) for depth in (prediction, truth))

    counts = mask.sum(dim=(1, 2))

    def mean(values: Tensor) -> Tensor:
        return (values * mask).sum(dim=(1, 2)) / counts

    error, log_error = predicted - true, predicted.log() - true.log()
    ratio = torch.maximum(predicted / true, true / predicted)
    silog = 100 * (mean(log_error.square()) - mean(log_error).square()).clamp(min=0).sqrt()
    columns = [
        mean(error.square()).sqrt(),
        mean(error.abs() / true),
        mean(error.square() / true),
        *(mean(ratio < 1.25**power) for power in (1, 2, 3)),
        mean(predicted.log10().sub(true.log10()).abs()),
        mean(log_error.square()).sqrt(),
        silog,
    ]
    return torch.stack(columns, dim=1)
