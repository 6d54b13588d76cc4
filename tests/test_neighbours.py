"""The fast search gives what the search in float64 gives, also where rows are equal, and what scikit-learn finds."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional as F

from regvit_lightning import neighbours
from regvit_lightning.neighbours import search, search_fast


def drawn(rows, width, seed):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@hypothesis_settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(5, 80),
    k=st.integers(1, 5),
    chunk=st.integers(1, 90),
    copies=st.integers(1, 4),
    terms=st.booleans(),
    seed=st.integers(0, 9),
)
def test_the_fast_search_is_the_exact_one(rows, k, chunk, copies, terms, seed):
    # Copies of rows are tied, so that the candidates in float32 do not decide: the first of the bank must be taken.
    bank = drawn(rows, 6, seed).repeat(copies, 1)
    queries = torch.cat([drawn(4, 6, seed + 100), bank[:2]])
    excluded = torch.zeros(len(bank), dtype=torch.bool)
    excluded[: rows - k] = True
    scale, offset = (drawn(len(bank), 1, seed + n)[:, 0] for n in (1, 2)) if terms else (None, None)
    for left_out in (None, excluded):
        expected = search(queries, bank, k, chunk, left_out, scale, offset)
        fast = search_fast(queries, bank, k, chunk, left_out, scale, offset)
        assert torch.equal(fast[1], expected[1])
        assert torch.equal(fast[0], expected[0])


def test_many_equal_rows_are_searched_in_float64(monkeypatch):
    searched, exact = [], neighbours._exact
    monkeypatch.setattr(
        neighbours, "_exact", lambda queries, *rest: searched.append(len(queries)) or exact(queries, *rest)
    )
    bank = F.normalize(torch.cat([drawn(50, 6, 0), drawn(1, 6, 1).expand(50, 6)]), dim=1)
    queries = torch.cat([bank[-1:], -bank[-1:]])  # the first has 50 nearest rows
    _, index = search_fast(queries, bank, 3, 16)
    assert index[0].tolist() == [50, 51, 52]
    assert searched == [1]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_scale_and_offset_are_the_metrics_of_scikit_learn(metric):
    queries, bank = drawn(20, 8, 3), drawn(300, 8, 4)
    squared = bank.square().sum(dim=1)
    terms = {"offset": -squared / 2} if metric == "euclidean" else {"scale": squared.rsqrt()}
    _, index = search_fast(queries, bank, 7, 64, **terms)
    expected = NearestNeighbors(n_neighbors=7, metric=metric).fit(bank).kneighbors(queries, return_distance=False)
    assert np.array_equal(index.numpy(), expected)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_neighbours_on_any_device_are_those_of_scikit_learn(device):
    queries, bank = F.normalize(drawn(40, 32, 7), dim=1), F.normalize(drawn(3000, 32, 8), dim=1)
    expected = NearestNeighbors(n_neighbors=20, algorithm="brute").fit(bank.numpy()).kneighbors(queries.numpy())[1]
    for find in (search, search_fast):
        similarity, index = find(queries.to(device), bank.to(device), 20, 700)
        assert index.cpu().numpy().tolist() == expected.tolist()
        torch.testing.assert_close(similarity.cpu(), (queries @ bank.T).gather(1, torch.from_numpy(expected)))
