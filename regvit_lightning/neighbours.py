"""Exact nearest-neighbour search and voting: DINOv2's kNN classifier (arXiv 2304.07193, section 7.1)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def search(queries: Tensor, bank: Tensor, k: int, chunk: int) -> tuple[Tensor, Tensor]:
    """The k most similar rows of `bank` for each query, exactly, in bounded memory.

    Args:
        queries: (Q, D).
        bank: (N, D), N >= k.
        k: number of neighbours.
        chunk: rows of the bank compared at a time; memory is Q * (chunk + 2 k).

    Returns:
        Similarities (Q, k), descending, and indices into the bank (Q, k).
    """
    similarity = queries.new_empty(len(queries), 0)
    index = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for start in range(0, len(bank), chunk):
        similarities = queries @ bank[start : start + chunk].T
        top = similarities.topk(min(k, similarities.shape[1]), dim=1)
        similarity, index = torch.cat([similarity, top.values], 1), torch.cat([index, top.indices + start], 1)
        best = similarity.topk(min(k, similarity.shape[1]), dim=1)
        similarity, index = best.values, index.gather(1, best.indices)
    return similarity, index


def votes(similarity: Tensor, labels: Tensor, k: int, classes: int, temperature: float) -> Tensor:
    """Class scores (Q, classes) from the first k neighbours.

    Args:
        similarity: (Q, K) descending, K >= k; the softmax runs over all K.
        labels: (Q, K) class indices of the neighbours.
    """
    weight = F.softmax(similarity / temperature, dim=1)
    scores = similarity.new_zeros(len(similarity), classes)
    return scores.scatter_add_(1, labels[:, :k], weight[:, :k])
