"""Boxes of attention maps: planted maps, DINO's threshold, and what any-of-R is worth by counting."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regvit_lightning.tasks.discovery import attention_boxes


def planted(*blobs, shape=(6, 8), rest=0.0):
    """A map with rectangles x1, y1, x2, y2 of a value each."""
    values = torch.full(shape, rest)
    for (x1, y1, x2, y2), value in blobs:
        values[y1:y2, x1:x2] = value
    return values[None]


def test_the_box_is_around_the_component_of_the_maximum():
    large, small = ((1, 1, 4, 3), 1.0), ((6, 4, 8, 6), 0.9)
    found = attention_boxes.boxes(planted(large, small), 1.0)
    assert found.boxes.tolist() == [[1, 1, 4, 3]]
    assert found.peaks.tolist() == [1 * 8 + 1]  # the first of equal patches
    assert found.uniform.tolist() == [False]
    swapped = attention_boxes.boxes(planted((large[0], 0.5), small), 1.0)
    assert swapped.boxes.tolist() == [[6, 4, 8, 6]]


def test_the_foreground_is_the_smallest_that_holds_the_mass():
    # 0.5 + 0.3 hold 60 %, 0.5 alone does not; at 80 % exactly the same two.
    values = torch.tensor([[[0.5, 0.3, 0.0, 0.2]]], dtype=torch.float64)
    assert attention_boxes.foreground(values, 0.5).tolist() == [[[True, False, False, False]]]
    for mass in (0.6, 0.8):
        assert attention_boxes.foreground(values, mass).tolist() == [[[True, True, False, False]]]
    assert attention_boxes.foreground(values, 0.81).tolist() == [[[True, True, False, True]]]
    assert attention_boxes.foreground(7 * values, 0.6).tolist() == [[[True, True, False, False]]]  # scale


def dinos(values, kept=0.6):
    """Foreground as `visualize_attention.py` of DINO describes it: ascending sums above 1 - kept, without ties."""
    flat = values.flatten().double().numpy() / values.double().sum().item()
    order = np.argsort(flat)
    mask = np.zeros(len(flat), bool)
    mask[order] = np.cumsum(flat[order]) > 1 - kept
    return mask.reshape(values.shape)


@given(seed=st.integers(0, 500), rows=st.integers(1, 7), columns=st.integers(1, 7))
def test_without_ties_the_foreground_is_that_of_dino(seed, rows, columns):
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).exp()
    np.testing.assert_array_equal(attention_boxes.foreground(values[None], 0.6)[0], dinos(values))


def test_a_uniform_map_is_the_whole_image_and_is_flagged():
    found = attention_boxes.boxes(torch.stack([torch.full((3, 5), 0.1), torch.zeros(3, 5)]), 0.6)
    assert found.boxes.tolist() == [[0, 0, 5, 3]] * 2
    assert found.uniform.tolist() == [True, True]


@given(hits=st.lists(st.booleans(), min_size=1, max_size=7), count=st.integers(1, 9))
def test_any_of_is_the_share_of_all_subsets_with_a_hit(hits, count):
    subsets = list(itertools.combinations(hits, min(count, len(hits))))
    expected = sum(any(subset) for subset in subsets) / len(subsets)
    assert attention_boxes.any_of(torch.tensor(hits), count).item() == pytest.approx(expected)


def test_random_boxes_have_the_mean_size_of_two_uniform_points():
    found = attention_boxes.random_boxes(20_000, torch.Generator().manual_seed(0))
    sides = found[:, 2:] - found[:, :2]
    assert (sides >= 0).all()
    assert found.min() >= 0
    assert found.max() <= 1
    torch.testing.assert_close(sides.mean(dim=0), torch.full((2,), 1 / 3, dtype=torch.float64), rtol=0, atol=0.01)
    torch.testing.assert_close(found.mean(dim=0)[:2], torch.full((2,), 1 / 3, dtype=torch.float64), rtol=0, atol=0.01)
