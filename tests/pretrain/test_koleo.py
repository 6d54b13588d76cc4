"""KoLeo against a loop over all pairs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from torch.nn import functional as F

from regvit_lightning.pretrain.koleo import koleo


@hypothesis_settings(max_examples=20, deadline=None)
@given(groups=st.integers(1, 3), group=st.integers(2, 7), width=st.integers(2, 9), seed=st.integers(0, 99))
def test_koleo_against_all_pairs(groups, group, width, seed):
    features = torch.randn(groups * group, width, generator=torch.Generator().manual_seed(seed)).double()
    terms = []
    for rows in F.normalize(features, dim=1).split(group):
        distances = cdist(rows, rows)
        distances[range(group), range(group)] = math.inf
        terms += [-math.log(distance) for distance in distances.min(axis=1)]
    found = koleo(features, group)
    assert found.item() == pytest.approx(sum(terms) / len(terms), rel=1e-6, abs=1e-6)


def test_koleo_pushes_the_nearest_apart_and_stays_finite_for_equal_features():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]], requires_grad=True)
    before = koleo(features, 3)
    before.backward()
    assert koleo(features - 0.01 * features.grad, 3) < before
    equal = torch.ones(4, 3, requires_grad=True)
    koleo(equal, 4).backward()
    assert equal.grad.isfinite().all()
