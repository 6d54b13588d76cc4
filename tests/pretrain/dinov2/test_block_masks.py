"""Masks: their ratios over random sizes, the shapes of blocks, and that a group's ratios are spread."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import ndimage

from regvit_lightning.pretrain.dinov2 import block_masks

sides = st.integers(4, 20)


@hypothesis_settings(max_examples=60, deadline=None)
@given(height=sides, width=sides, ratio=st.floats(0, 0.9), seed=st.integers(0, 999))
def test_a_mask_never_exceeds_its_target(height, width, ratio, seed):
    target = int(height * width * ratio)
    mask = block_masks.block_mask(np.random.default_rng(seed), (height, width), target)
    assert mask.shape == (height, width)
    assert mask.sum() <= target


# Grid, ratio and the share of 1,000 masks of the released code (MaskingGenerator) that reach their target exactly.
REACHED = [((8, 8), 0.3, 0.935), ((16, 16), 0.1, 0.900), ((16, 16), 0.5, 0.911), ((16, 10), 0.3, 0.945)]


@pytest.mark.parametrize(("grid", "ratio", "reached"), REACHED)
def test_masks_reach_their_target_as_often_as_those_of_the_released_code(grid, ratio, reached):
    rng, target = np.random.default_rng(0), int(grid[0] * grid[1] * ratio)
    found = np.array([block_masks.block_mask(rng, grid, target).sum() for _ in range(400)])
    assert (found == target).mean() == pytest.approx(reached, abs=0.05)
    assert found.mean() > 0.97 * target


@hypothesis_settings(max_examples=200, deadline=None)
@given(largest=st.floats(4, 200), seed=st.integers(0, 9999))
def test_blocks_keep_their_area_and_aspect(largest, seed):
    height, width = block_masks.block_shape(np.random.default_rng(seed), largest)
    # Each side is rounded by at most a half.
    assert (height - 0.5) * (width - 0.5) <= largest
    assert (height + 0.5) * (width + 0.5) >= 4
    assert (height + 0.5) / max(width - 0.5, 0.5) >= 0.3
    assert max(height - 0.5, 0) / (width + 0.5) <= 1 / 0.3


def test_the_first_block_is_a_rectangle_of_at_most_half_of_the_patches():
    for seed in range(50):
        rng, mask = np.random.default_rng(seed), np.zeros((12, 12), dtype=bool)
        assert block_masks._add_block(rng, mask, min(130, 12 * 12 / 2))
        (found,) = ndimage.find_objects(mask.astype(int))
        assert mask[found].all()
        assert mask.sum() <= 72


@hypothesis_settings(max_examples=30, deadline=None)
@given(crops=st.integers(2, 64), probability=st.floats(0.1, 1), seed=st.integers(0, 99))
def test_a_group_has_its_share_of_masks_with_ratios_from_equal_slices(crops, probability, seed):
    rng = np.random.default_rng(seed)
    masks = block_masks.group_masks(rng, crops, (16, 16), (0.1, 0.5), probability)
    masked = int(crops * probability)
    counts = np.sort(masks.sum(axis=(1, 2)))[crops - masked :]
    assert (masks.any(axis=(1, 2))).sum() == masked
    edges = np.linspace(0.1, 0.5, masked + 1)
    assert (counts <= 256 * edges[1:] + 1e-9).all()  # each mask stays below the upper end of its slice


def test_masks_of_a_group_repeat_and_those_of_another_differ():
    draw = [block_masks.group_masks(np.random.default_rng(s), 8, (8, 8), (0.1, 0.5), 0.5) for s in (1, 1, 2)]
    assert (draw[0] == draw[1]).all()
    assert (draw[0] != draw[2]).any()


def test_a_block_that_adds_nothing_is_not_accepted():
    """Where all patches but one are masked, a block either covers that one or is refused."""
    for seed in range(60):
        mask = np.ones((8, 8), dtype=bool)
        mask[3, 3] = False
        added = block_masks._add_block(np.random.default_rng(seed), mask, 32)
        assert added == bool(mask[3, 3])
    full = np.ones((8, 8), dtype=bool)
    assert not block_masks._add_block(np.random.default_rng(0), full, 32)
