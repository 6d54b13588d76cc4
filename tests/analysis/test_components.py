"""Components against scikit-learn's PCA, Otsu's threshold against all thresholds, cosines against ones by hand."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from regvit_lightning.analysis import components


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


@pytest.mark.parametrize(("patches", "width"), [(50, 8), (12, 40)])
def test_scores_are_those_of_scikit_learn_up_to_sign(patches, width):
    rows = draw(patches, width) * torch.linspace(1, 5, width)
    expected = PCA(3, svd_solver="full").fit_transform(rows.numpy())
    found = components.scores(rows, 3).numpy()
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-8)
    assert (found[np.abs(found).argmax(axis=0), range(3)] > 0).all()


def planted(grid, inside, width=16):
    """Patches of an object (rows, columns) on a ground: far apart along one direction, with variation of their own."""
    mask = torch.zeros(grid, dtype=torch.bool)
    mask[inside] = True
    return draw(*grid, width) + 30 * torch.where(mask[..., None], 1.0, -1.0) * torch.eye(width)[0].double(), mask


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("grid", [(9, 12), (12, 9)])
def test_the_object_is_the_foreground_and_its_colours_are_its_components(grid, sign):
    patches, mask = planted(grid, (slice(3, 7), slice(2, 7)))
    colours, foreground = components.colours(sign * patches)
    assert torch.equal(foreground, mask)
    assert torch.equal(colours.isnan().all(dim=-1), ~mask)
    expected = PCA(3, svd_solver="full").fit_transform((sign * patches)[mask].numpy())
    for column in range(3):
        own = colours[mask][:, column].numpy()
        inner = (own > 0) & (own < 1)  # not clipped
        assert inner.sum() >= mask.sum() - 2
        assert abs(np.corrcoef(own[inner], expected[inner, column])[0, 1]) == pytest.approx(1, abs=1e-6)
        assert (own.min(), own.max()) == (0, 1)


def test_equal_patches_have_no_foreground():
    colours, foreground = components.colours(torch.ones(4, 5, 8))
    assert not foreground.any()
    assert colours.isnan().all()


def test_two_hidden_dimensions_have_no_third_component():
    patches, mask = planted((6, 6), (slice(2, 5), slice(1, 5)), width=2)
    colours, foreground = components.colours(patches)
    assert torch.equal(foreground, mask)
    assert (colours[mask][:, 2] == 0.5).all()


def test_otsu_is_the_best_of_all_thresholds():
    values = torch.cat([draw(40), 4 + 2 * draw(25, seed=1)])

    def between(threshold):
        low, high = values[values <= threshold], values[values > threshold]
        return float(len(low) * len(high) * (low.mean() - high.mean()) ** 2)

    best = max(values.sort().values[:-1].tolist(), key=between)
    above = values[values > best]
    assert best < components.otsu(values) < float(above.min())


def test_cosines_by_hand():
    patches = torch.tensor([[[1.0, 0.0], [3.0, 4.0]], [[-2.0, 0.0], [0.0, 7.0]]])
    found = components.similarity(patches, 0, 1)
    torch.testing.assert_close(found, torch.tensor([[0.6, 1.0], [-0.6, 0.8]]))
    every = components.all_similarities(patches)
    torch.testing.assert_close(every[0, 1], found)
    torch.testing.assert_close(every, every.permute(2, 3, 0, 1))


def test_the_border_is_ground_even_where_it_is_the_smaller_part():
    patches, mask = planted((10, 10), (slice(1, 9), slice(1, 9)))
    assert torch.equal(components.colours(patches)[1], mask)
