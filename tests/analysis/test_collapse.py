"""Rank and cosines against planted ranks, scipy's singular values and pairs written out."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.linalg import svdvals
from scipy.stats import entropy
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity

from regvit_lightning.analysis import collapse
from regvit_lightning.models.tokens import Tokens


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def everything(patches):
    return torch.ones(patches.shape[:2], dtype=torch.bool)


def planted(rank, rows, width, seed):
    """Features (1, rows, width) with `rank` equal singular values: the effective rank is `rank` exactly."""
    left, right = (torch.linalg.qr(random(side, rank, seed=seed + side)).Q for side in (rows, width))
    return (left @ right.T)[None]


@hypothesis_settings(max_examples=40, deadline=None)
@given(rank=st.integers(1, 8), rows=st.integers(8, 30), width=st.integers(8, 30), seed=st.integers(0, 99))
def test_effective_rank_of_planted_features(rank, rows, width, seed):
    features = 7 * planted(rank, rows, width, seed)
    found = collapse.effective_rank(features, everything(features))
    np.testing.assert_allclose(found, rank, rtol=1e-3)


@hypothesis_settings(max_examples=20, deadline=None)
@given(rows=st.integers(2, 20), width=st.integers(2, 20), seed=st.integers(0, 99))
def test_effective_rank_is_the_entropy_of_singular_values(rows, width, seed):
    features = random(3, rows, width, seed=seed)
    expected = [np.exp(entropy(svdvals(image.double().numpy()))) for image in features]
    np.testing.assert_allclose(collapse.effective_rank(features, everything(features)), expected, rtol=1e-6)


def test_patches_that_are_left_out_do_not_count():
    features, keep = random(2, 9, 6), torch.ones(2, 9, dtype=torch.bool)
    keep[:, [1, 5]] = False
    spoilt = features.clone()
    spoilt[:, [1, 5]] = 1000.0
    cls = random(2, 6, seed=1)
    left = features[:, keep[0]]
    for function in (collapse.effective_rank, collapse.patch_cosine, lambda p, k: collapse.cls_cosine(cls, p, k)):
        np.testing.assert_allclose(function(spoilt, keep), function(left, everything(left)), rtol=1e-9)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_has_no_rank_and_leaves_the_others_theirs(broken):
    patches = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    keep = torch.ones(3, 6, dtype=torch.bool)
    whole = collapse.effective_rank(patches, keep)
    patches[1, 2, 3] = broken
    found = collapse.effective_rank(patches, keep)
    assert found[1].isnan()
    assert torch.equal(found[[0, 2]], whole[[0, 2]])


def test_cosines_against_pairs_written_out():
    patches, cls = random(2, 5, 4), random(2, 4, seed=1)
    pairs = [[cosine_similarity(p[[i]], p[[j]])[0, 0] for i, j in itertools.combinations(range(5), 2)] for p in patches]
    np.testing.assert_allclose(collapse.patch_cosine(patches, everything(patches)), np.mean(pairs, axis=1), rtol=1e-5)
    expected = [cosine_similarity(c[None], p).mean() for c, p in zip(cls, patches, strict=True)]
    np.testing.assert_allclose(collapse.cls_cosine(cls, patches, everything(patches)), expected, rtol=1e-5)


def test_all_patches_alike_and_a_model_without_cls():
    tokens = Tokens(None, torch.zeros(2, 0, 4), random(2, 1, 1, 4).expand(2, 3, 3, 4))
    found = collapse.measure(tokens)
    assert found.cls_cosine is None
    np.testing.assert_allclose(found.effective_rank, 1, rtol=1e-6)
    np.testing.assert_allclose(found.patch_cosine, 1, rtol=1e-6)


def test_too_few_patches_are_no_number():
    tokens = Tokens(random(1, 4), torch.zeros(1, 0, 4), random(1, 2, 2, 4))
    found = collapse.measure(tokens, torch.zeros(1, 2, 2, dtype=torch.bool))
    assert all(value.isnan().all() for value in (found.effective_rank, found.patch_cosine, found.cls_cosine))


def test_first_component_is_that_of_scikit_learn():
    patches = random(2, 4, 5, 6) * torch.tensor([4.0, 1, 1, 1, 1, 1])
    found = collapse.first_component(patches)
    for image, component in zip(patches, found, strict=True):
        expected = PCA(1).fit_transform(image.flatten(0, 1))[:, 0]
        expected *= np.sign(expected[np.abs(expected).argmax()]) / expected.std()
        np.testing.assert_allclose(component.flatten(), expected, atol=1e-4)
    assert collapse.first_component(torch.ones(1, 2, 2, 3)).isnan().all()


@pytest.mark.parametrize("grid", [(1, 4), (3, 2)])
def test_shapes(grid):
    tokens = Tokens(random(2, 8), random(2, 4, 8), random(2, *grid, 8))
    found = collapse.measure(tokens, torch.ones(2, *grid, dtype=torch.bool))
    assert found.effective_rank.shape == found.patch_cosine.shape == found.cls_cosine.shape == (2,)
    assert collapse.first_component(tokens.patches).shape == (2, *grid)
