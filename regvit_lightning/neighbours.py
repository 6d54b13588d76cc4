"""Exact nearest-neighbour search and voting: DINOv2's kNN classifier (arXiv 2304.07193, section 7.1)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def search(queries: Tensor, bank: Tensor, k: int, chunk: int, excluded: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k most similar rows of `bank` for each query, exactly, in bounded memory.

    Similarities are computed in float64 and rounded to float32: rows whose similarities are equal then are tied, and
    the one with the lowest index comes first. So the result does not depend on `chunk`, nor on the batch of queries.

    Args:
        queries: (Q, D), finite.
        bank: (N, D), finite.
        k: number of neighbours.
        chunk: rows of the bank compared at a time; beside the bank, memory is 8 chunk (D + 3 Q) bytes at most.
        excluded: boolean (N,), rows that are no one's neighbours, at most N - k of them; None excludes none.

    Returns:
        Similarities (Q, k), float32, descending, and indices into the bank (Q, k); min(k, N) columns.
    """
    exact = queries.double()
    similarity = torch.empty(len(queries), 0, device=queries.device)
    index = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for start in range(0, len(bank), chunk):
        rows = slice(start, start + chunk)
        similarities = (exact @ bank[rows].double().T).float()
        if excluded is not None:
            similarities.masked_fill_(excluded[rows], -torch.inf)
        top = _largest(similarities, k)
        similarity = torch.cat([similarity, similarities.gather(1, top)], 1)
        index = torch.cat([index, top + start], 1)
        best = _largest(similarity, k)  # columns of earlier chunks come first, so ties stay in the order of the bank
        similarity, index = similarity.gather(1, best), index.gather(1, best)
    return similarity, index


def _largest(values: Tensor, k: int) -> Tensor:
    """Columns (Q, k) of the k largest values (Q, N) in descending order; of equal values the first columns."""
    k = min(k, values.shape[1])
    top = values.topk(min(k + 1, values.shape[1]), dim=1)
    columns = top.indices[:, :k]
    undecided = top.values[:, k - 1] == top.values[:, k] if k < values.shape[1] else torch.zeros(0, dtype=torch.bool)
    if undecided.any():
        columns = columns.clone()
        columns[undecided] = _first_of_equals(values[undecided], top.values[undecided, k - 1 : k], k)
    columns = columns.sort(dim=1).values
    order = values.gather(1, columns).sort(dim=1, descending=True, stable=True).indices
    return columns.gather(1, order)


def _first_of_equals(values: Tensor, kth: Tensor, k: int) -> Tensor:
    """Columns (Q, k) of the values (Q, N) above the k-th largest (Q, 1), and of the first ones that equal it."""
    above, equal = values > kth, values == kth
    room = k - above.sum(dim=1, keepdim=True)
    taken = above | (equal & (equal.cumsum(dim=1, dtype=torch.int32) <= room))
    return taken.nonzero()[:, 1].view(-1, k)


def votes(similarity: Tensor, labels: Tensor, k: int, classes: int, temperature: float) -> Tensor:
    """Class scores (Q, classes) from the first k neighbours.

    Args:
        similarity: (Q, K) descending, K >= k; the softmax runs over all K.
        labels: (Q, K) class indices of the neighbours.
    """
    weight = F.softmax(similarity / temperature, dim=1)
    scores = similarity.new_zeros(len(similarity), classes)
    return scores.scatter_add_(1, labels[:, :k], weight[:, :k])
