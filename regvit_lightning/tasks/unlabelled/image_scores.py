"""Scores without labels of one vector per image: RankMe, alpha-ReQ and LiDAR.

All three describe how a set of features spreads over directions. They were proposed to predict the accuracy of a linear
classifier; over the course of a training they fall as dense quality rises (Dai et al. 2025, arXiv 2510.17299).

Sources: Garrido et al. 2023 (RankMe, arXiv 2210.02885); Agrawal et al. 2022 (alpha-ReQ, NeurIPS 2022); Thilak et al.
2023 (LiDAR, arXiv 2312.04000).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from regvit_lightning.rank import effective_rank
from regvit_lightning.runtime import seeds
from regvit_lightning.settings import check

RIDGE = 1e-4  # added to the within-class covariance of LiDAR, as published
ROUNDING = 1e-12  # of the largest eigenvalue: smaller ones are none
LEAST_EIGENVALUES = 3  # through which a slope is fitted
GROUPS = 10  # of images, left out in turn for an interval
QUANTILE = 2.262  # 97.5 % of Student's t with 9 degrees of freedom


def rankme(features: Tensor) -> float:
    """Exponential of the entropy of the singular values of features (N, D) over their sum: 1 to min(N, D)."""
    return float(effective_rank(features[None], torch.ones(1, len(features), dtype=torch.bool))[0])


def spectrum(features: Tensor) -> Tensor:
    """Eigenvalues of the covariance of features (N, D), descending, float64; those that are rounding are left out."""
    centred = features.double() - features.double().mean(dim=0)
    tall = len(centred) > centred.shape[1]
    values = torch.linalg.eigvalsh((centred.T @ centred if tall else centred @ centred.T) / len(centred)).flip(0)
    return values[values > ROUNDING * values[0].clamp(min=0)]


@dataclass(frozen=True)
class PowerLaw:
    """Fit of eigenvalue = c · rank ^ -alpha.

    Attributes:
        alpha: slope, positive where eigenvalues fall.
        first, last: ranks from 1 of the eigenvalues that were fitted, both included.
    """

    alpha: float
    first: int
    last: int


def alpha_req(features: Tensor, window: tuple[int, int]) -> PowerLaw:
    """Least-squares slope of the log eigenvalues of the covariance against their log ranks.

    Args:
        features: (N, D).
        window: ranks from 1 that are fitted; the last one is at most the number of eigenvalues.

    Raises:
        SettingsError: fewer than three eigenvalues are in the window.
    """
    values = spectrum(features)
    first, last = window[0], min(window[1], len(values))
    enough = f"there are {len(values)} eigenvalues, of which three are needed"
    check(last - first + 1 >= LEAST_EIGENVALUES, f"window={list(window)}: {enough}")
    ranks = torch.arange(first, last + 1, dtype=torch.float64).log()
    logs = values[first - 1 : last].log()
    ranks, logs = ranks - ranks.mean(), logs - logs.mean()
    return PowerLaw(-float((ranks @ logs) / (ranks @ ranks)), first, last)


def lidar(views: Tensor) -> float:
    """Effective number of directions in which images differ more than their own views do: 1 to D.

    Exponential of the entropy of the shares of the eigenvalues of W^-1/2 B W^-1/2, where B is the covariance of the
    images' means and W that of views about them, plus 1e-4 on the diagonal.

    Args:
        views: (n, q, D), q augmented views of each of n images.
    """
    means = views.double().mean(dim=1)
    within = (views.double() - means[:, None]).flatten(0, 1)
    between = means - means.mean(dim=0)
    identity = torch.eye(views.shape[2]).to(within)
    values, vectors = torch.linalg.eigh(within.T @ within / len(within) + RIDGE * identity)
    white = between @ (vectors / values.sqrt())
    found = torch.linalg.eigvalsh(white.T @ white / len(white)).clamp(min=0)
    share = found / found.sum()
    return float(torch.special.entr(share).sum().exp())


def interval(statistic: Callable[[Tensor], float], images: Tensor, seed: int) -> tuple[float, float]:
    """95 % interval of a statistic of images (N, …), N at least 10, by a jackknife that leaves out a tenth in turn.

    Resampling with repeats would lower ranks, as repeated images add no direction.
    """
    order = torch.randperm(len(images), generator=seeds.generator(seed, "jackknife")).to(images.device)
    groups = order.tensor_split(GROUPS)  # unlike chunks, always so many
    kept = [torch.cat([part for index, part in enumerate(groups) if index != out]) for out in range(GROUPS)]
    values = torch.tensor([statistic(images[own]) for own in kept], dtype=torch.float64)
    error = float(((GROUPS - 1) / GROUPS * (values - values.mean()).square().sum()).sqrt())
    whole = statistic(images)
    return whole - QUANTILE * error, whole + QUANTILE * error
