"""Locality on planted patches: shares of exactly 0 and 1, sums of parts, and cosines by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from regvit_lightning.analysis.locality import LocalitySums
from regvit_lightning.models.tokens import Tokens


def of(patches, cls=None, batch=4, stages=(1, 2)):
    """Locality of patches (N, h, w, D), the same at every stage, added in batches."""
    sums = LocalitySums()
    for start in range(0, len(patches), batch):
        part = patches[start : start + batch]
        tokens = Tokens(None if cls is None else cls[start : start + batch], part.new_zeros(len(part), 0, 3), part)
        sums.add(0, tokens)
        for stage in stages:
            sums.add(stage, tokens)
    return sums.locality()


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_shares_are_exactly_0_and_1_where_one_thing_decides():
    """Dimension 0 depends on the position alone, 1 on the image alone, 2 on neither mean, 3 is constant."""
    patches = torch.zeros(8, 4, 4, 4)
    patches[..., 0] = 1000 + draw(4, 4)
    patches[..., 1] = draw(8)[:, None, None]
    signs = torch.tensor([1.0, -1.0])
    patches[..., 2] = signs.repeat(4)[:, None, None] * signs.repeat(2)[:, None]  # averages to 0 over both
    patches[..., 3] = 7.0
    found = of(patches)
    assert found.position.shape == (2, 4)  # the patch embedding, stage 0, is left out
    for stage in range(2):
        np.testing.assert_allclose(found.position[stage], [1, 0, 0, np.nan], atol=1e-9)
        np.testing.assert_allclose(found.image[stage], [0, 1, 0, np.nan], atol=1e-9)
        assert found.variance[stage, 3] == 0


@hypothesis_settings(max_examples=15)
@given(seed=st.integers(0, 1000), batch=st.integers(1, 9))
def test_shares_are_those_of_the_whole_array(seed, batch):
    """Against numpy on all patches at once; the batches do not matter."""
    patches = draw(9, 3, 2, 5, seed=seed) + 10 * draw(3, 2, 5, seed=seed + 1) + draw(9, 1, 1, 5, seed=seed + 2)
    found, values = of(patches, batch=batch), patches.double().numpy()
    total = values.var(axis=(0, 1, 2))
    position, image = values.mean(axis=0).var(axis=(0, 1)), values.mean(axis=(1, 2)).var(axis=0)
    np.testing.assert_allclose(found.position[0], position / total, rtol=1e-9)
    np.testing.assert_allclose(found.image[0], image / total, rtol=1e-9)
    shares = {name: share[0].item() for name, share in found.shares().items()}
    assert shares["position"] == pytest.approx(position.sum() / total.sum())
    assert shares["image"] == pytest.approx(image.sum() / total.sum())
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) >= 0


def test_cosines_by_hand():
    patches = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]], [[[2.0, 0.0], [1.0, 0.0]]]])
    found = of(patches, cls=torch.tensor([[0.0, 3.0], [-1.0, 0.0]]))
    np.testing.assert_allclose(found.mean_cosine[:, 0], [0.5**0.5, 1])
    np.testing.assert_allclose(found.cls_cosine[:, 1], [0.5, -1])
    assert of(patches).cls_cosine is None


def test_noise_has_the_share_of_chance():
    """N images of pure noise: 1 / N by position, 1 / P by image."""
    shares = of(draw(50, 10, 10, 64)).shares()
    assert shares["position"][0].item() == pytest.approx(1 / 50, rel=0.1)
    assert shares["image"][0].item() == pytest.approx(1 / 100, rel=0.1)
