"""Shifted content: features that are content or place alone, a search written out, and cosines by hand."""

import numpy as np
import pytest
import torch

from regvit_lightning.analysis.content_shift import match


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shift", [1, 3])
def test_content_alone_is_matched_by_content(shift):
    wide = random(2, 4, 5 + shift, 16)
    found = match(wide[:, :, :5], wide[:, :, shift:], shift)
    assert found.content.tolist() == [100, 100]
    assert found.position.tolist() == [0, 0]
    torch.testing.assert_close(found.same_content, torch.ones(2, dtype=torch.float64))


def test_place_alone_is_matched_by_place():
    grid = torch.eye(20).view(1, 4, 5, 20)
    found = match(grid, grid, 2)
    assert (found.content.tolist(), found.position.tolist()) == ([0], [100])
    assert (found.same_content.tolist(), found.same_position.tolist(), found.others.tolist()) == ([0], [1], [0])


def test_the_search_is_that_of_numpy():
    first, second = random(3, 4, 6, 5), random(3, 4, 6, 5, seed=1)
    found = match(first, second, 2)
    for image in range(3):
        a, b = (part[image].numpy() / np.linalg.norm(part[image], axis=-1, keepdims=True) for part in (first, second))
        content, position, cosines = [], [], {"same": [], "place": [], "others": []}
        for row in range(4):
            for column in range(4):
                values = a @ b[row, column]
                best = np.unravel_index(values.argmax(), values.shape)
                content.append(best == (row, column + 2))
                position.append(best == (row, column))
                cosines["same"].append(values[row, column + 2])
                cosines["place"].append(values[row, column])
                cosines["others"].append((values.sum() - values[row, column + 2] - values[row, column]) / 22)
        assert float(found.content[image]) == pytest.approx(100 * np.mean(content))
        assert float(found.position[image]) == pytest.approx(100 * np.mean(position))
        assert float(found.same_content[image]) == pytest.approx(np.mean(cosines["same"]), abs=1e-6)
        assert float(found.same_position[image]) == pytest.approx(np.mean(cosines["place"]), abs=1e-6)
        assert float(found.others[image]) == pytest.approx(np.mean(cosines["others"]), abs=1e-6)
