"""Exact nearest-neighbour search, and the voting of DINOv2's kNN classifier (arXiv 2304.07193, section 7.1)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SPARE = 8  # candidates beyond k that the fast search looks at again
QUERIES = 2048  # queries of the fast search at a time, which bounds its memory
AGAIN = 32  # queries whose candidates are looked at again at a time: their rows stay in a cache
UNIT = 2.0**-24  # largest relative error of one rounding to float32


@dataclass(frozen=True)
class Bank:
    """Rows that are searched, and how similar each of them is to a query.

    Attributes:
        rows: (N, D), finite.
        chunk: rows compared at a time.
        excluded: boolean (N,), rows that are no one's neighbours; None excludes none.
        scale, offset: (N,) for each row: the similarity is scale × product + offset; None for 1 and 0.
    """

    rows: Tensor
    chunk: int
    excluded: Tensor | None = None
    scale: Tensor | None = None
    offset: Tensor | None = None

    def chunks(self) -> Iterator[tuple[int, slice]]:
        """Index of the first row and the rows of each chunk."""
        for start in range(0, len(self.rows), self.chunk):
            yield start, slice(start, start + self.chunk)

    def similarities(self, products: Tensor, rows: slice | Tensor) -> Tensor:
        """Similarities (Q, n), float32, of the products with `rows`, computed in their own type; -inf for excluded."""
        if self.scale is not None:
            products.mul_(self.scale[rows].to(products.dtype))
        if self.offset is not None:
            products.add_(self.offset[rows].to(products.dtype))
        found = products.float()
        return found if self.excluded is None else found.masked_fill_(self.excluded[rows], -torch.inf)

    def largest_norm(self, rows: slice) -> float:
        """Largest scaled norm of some rows."""
        norms = self.rows[rows].norm(dim=1)
        return float((norms if self.scale is None else norms * self.scale[rows].abs()).max().item())


def search(
    queries: Tensor,
    bank: Tensor,
    k: int,
    chunk: int,
    excluded: Tensor | None = None,
    scale: Tensor | None = None,
    offset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The k most similar rows of `bank` for each query, exactly, in bounded memory.

    Similarities are computed in float64 and rounded to float32: rows whose similarities are equal then are tied, and
    the one with the lowest index comes first. So the result does not depend on `chunk`, nor on the batch of queries.

    Args:
        queries: (Q, D), finite.
        bank: (N, D), finite.
        k: number of neighbours.
        chunk: rows of the bank compared at a time; beside the bank, memory is 8 chunk (D + 3 Q) bytes at most.
        excluded: boolean (N,), rows that are no one's neighbours, at most N - k of them; None excludes none.
        scale, offset: (N,) for each row: the similarity is scale × product + offset instead of the product q · b. So
            an offset of -|b|² / 2 orders by Euclidean distance, and a scale of 1 / |b| by cosine.

    Returns:
        Similarities (Q, k), float32, descending, and indices into the bank (Q, k); min(k, N) columns.
    """
    return _exact(queries, Bank(bank, chunk, excluded, scale, offset), k)


def search_fast(
    queries: Tensor,
    bank: Tensor,
    k: int,
    chunk: int,
    excluded: Tensor | None = None,
    scale: Tensor | None = None,
    offset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What `search` returns, from products in float32, which take a fraction of the time.

    The k + 8 rows with the largest similarities in float32 are compared again in float64. Where rounding in float32
    could have left out one of the k, which its error bound tells, the query is searched in float64 throughout.

    Args:
        queries, bank, k, chunk, excluded, scale, offset: as for `search`, float32. Beside the bank, memory is
            8 chunk (D + 4 × 2048) bytes and 12 × 32 (k + 8) D at most.
    """
    whole = Bank(bank, chunk, excluded, scale, offset)
    parts = [_search_part(part, whole, k) for part in queries.split(QUERIES)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _exact(queries: Tensor, bank: Bank, k: int) -> tuple[Tensor, Tensor]:
    exact = queries.double()
    similarity = torch.empty(len(queries), 0, device=queries.device)
    index = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for start, rows in bank.chunks():
        similarities = bank.similarities(exact @ bank.rows[rows].double().T, rows)
        top = _largest(similarities, k)
        similarity = torch.cat([similarity, similarities.gather(1, top)], 1)
        index = torch.cat([index, top + start], 1)
        best = _largest(similarity, k)  # columns of earlier chunks come first, so ties stay in the order of the bank
        similarity, index = similarity.gather(1, best), index.gather(1, best)
    return similarity, index


def _search_part(queries: Tensor, bank: Bank, k: int) -> tuple[Tensor, Tensor]:
    rough, candidates, largest = _candidates(queries, bank, k + SPARE)
    pairs = zip(queries.split(AGAIN), candidates.split(AGAIN), strict=True)
    parts = [_again(some, bank, k, among) for some, among in pairs]
    similarity, index = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    if candidates.shape[1] < k + SPARE:
        return similarity, index  # every row of the bank is a candidate
    farthest = 0.0 if bank.offset is None else bank.offset.abs().max().item()
    bound = UNIT * ((bank.rows.shape[1] + 3) * queries.norm(dim=1) * largest + 2 * farthest)
    unsure = (rough + 2 * bound >= similarity[:, -1]).nonzero().flatten()
    if len(unsure):
        similarity[unsure], index[unsure] = _exact(queries[unsure], bank, k)
    return similarity, index


def _candidates(queries: Tensor, bank: Bank, wanted: int) -> tuple[Tensor, Tensor, float]:
    """The `wanted` most similar rows in float32.

    Returns:
        The smallest similarity among them (Q,), their indices (Q, min(wanted, N)), and the largest scaled norm of the
        bank.
    """
    similarity = torch.empty(len(queries), 0, device=queries.device)
    index = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    largest = 0.0
    for start, rows in bank.chunks():
        similarities = bank.similarities(F.linear(queries, bank.rows[rows]), rows)
        largest = max(largest, bank.largest_norm(rows))
        top = similarities.topk(min(wanted, similarities.shape[1]), dim=1, sorted=False)
        similarity, index = torch.cat([similarity, top.values], 1), torch.cat([index, top.indices + start], 1)
        best = similarity.topk(min(wanted, similarity.shape[1]), dim=1, sorted=False).indices
        similarity, index = similarity.gather(1, best), index.gather(1, best)
    return similarity.min(dim=1).values, index, largest


def _again(queries: Tensor, bank: Bank, k: int, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """The k best of the candidates (Q, C) in float64, as `search` returns them."""
    candidates = candidates.sort(dim=1).values  # in the order of the bank, so that the first of equals stays first
    products = (queries.double()[:, None] @ bank.rows[candidates].double().transpose(1, 2))[:, 0]
    similarity = bank.similarities(products, candidates)
    order = similarity.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return similarity.gather(1, order), candidates.gather(1, order)


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
