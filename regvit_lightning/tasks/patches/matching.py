"""Which class a cluster stands for, from the pixels that clusters and classes share."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

UNMATCHED = -1


def many_to_one(shared: Tensor) -> Tensor:
    """Class (K,) with the largest share of each cluster's pixels (its precision); of equal ones the lowest.

    Args:
        shared: (K, classes) number of pixels in each cluster with each class.
    """
    return shared.argmax(dim=1)


def hungarian(shared: Tensor) -> Tensor:
    """Class (K,) of each cluster, at most one cluster for each class, with the largest sum of IoUs; -1 for none.

    Source: Kuhn 1955 (Naval Research Logistics Quarterly 2:83), by scipy.

    Args:
        shared: (K, classes) number of pixels in each cluster with each class.
    """
    counts = shared.double().numpy()
    union = counts.sum(axis=1, keepdims=True) + counts.sum(axis=0) - counts
    clusters, classes = linear_sum_assignment(counts / np.maximum(union, 1), maximize=True)
    matched = torch.full((len(counts),), UNMATCHED)
    matched[clusters] = torch.from_numpy(classes)
    return matched


MATCHINGS: dict[str, Callable[[Tensor], Tensor]] = {"many_to_one": many_to_one, "hungarian": hungarian}
