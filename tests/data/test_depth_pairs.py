"""Pairs of image and depth: crops at their pixels, image and depth together, colours by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from regvit_lightning.data import depth_pairs
from regvit_lightning.data.depth_pairs import FRAME, Augmentation, DepthPair


def ramp(size=FRAME):
    """Every pixel of the depth tells its row and column: row + column / 1000 + 1."""
    rows, columns = np.indices(size)
    return DepthPair(np.zeros((*size, 3), np.uint8), (1 + rows + columns / 1000).astype(np.float32), "ramp.png")


# ------------------------------------------------------------------------------------------------- crops and masks


def test_the_border_crop_keeps_rows_45_to_471_and_columns_43_to_607():
    whole = Augmentation((427, 565), short_side=0, border_crop=True, rotation=0.0)
    depth = whole(ramp(), np.random.default_rng(0)).depth
    assert depth.shape == (427, 565)
    assert depth.min() == np.float32(1 + 45 + 0.043)
    assert depth.max() == np.float32(1 + 471 + 0.607)


def test_the_eigen_crop_keeps_rows_45_to_470_and_columns_41_to_600():
    pair = DepthPair(np.zeros((480, 640, 3), np.uint8), np.ones((480, 640), np.float32), "ones.png")
    mask = depth_pairs.evaluation_mask(pair, 1e-3, 10.0, eigen_crop=True)
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (45, 470, 41, 600)
    assert mask.sum() == (471 - 45) * (601 - 41)
    assert depth_pairs.evaluation_mask(pair, 1e-3, 10.0, eigen_crop=False).all()


def test_the_ends_of_the_range_are_not_scored():
    depth = np.array([[0, 1e-3, 1.1e-3, 9.99, 10, 12]], np.float32)
    mask = depth_pairs.evaluation_mask(DepthPair(np.zeros((1, 6, 3), np.uint8), depth, "row.png"), 1e-3, 10.0, False)
    assert mask.tolist() == [[False, False, True, True, False, False]]


def test_a_quarter_of_the_size_in_training_is_a_quarter_of_the_frame():
    found = Augmentation((107, 141), short_side=120, border_crop=True, rotation=0.0)(ramp(), np.random.default_rng(0))
    assert found.depth.shape == (107, 141)  # 427 and 565 over 4
    assert 1 + 45 <= found.depth.min() <= 1 + 48
    assert 1 + 468 <= found.depth.max() <= 1 + 472


# -------------------------------------------------------------------------------------------------- augmentation


def planted(row, column, size=(120, 160)):
    """A bright disc of depth 5 on a dark ground of depth 2."""
    rows, columns = np.indices(size)
    disc = (rows - row) ** 2 + (columns - column) ** 2 <= 25
    image = np.where(disc[..., None], 250, 20).repeat(3, axis=2).astype(np.uint8)
    return DepthPair(image, np.where(disc, 5, 2).astype(np.float32), "planted.png")


def centres(pair):
    """Where the disc is in the image and in the depth, (row, column) each."""
    bright = np.clip(pair.image[..., 0].astype(float) - 20, 0, None)
    deep = (pair.depth == 5).astype(float)
    axes = np.indices(deep.shape)
    return [tuple((weights * axis).sum() / weights.sum() for axis in axes) for weights in (bright, deep)]


@pytest.mark.parametrize("degrees", [-2.5, 1.0, 2.5])
def test_rotation_turns_image_and_depth_about_the_centre(degrees):
    found = depth_pairs.rotated(planted(20, 130), degrees)
    across, up, angle = 130 - 79.5, 59.5 - 20, math.radians(degrees)
    column = 79.5 + across * math.cos(angle) - up * math.sin(angle)
    row = 59.5 - (across * math.sin(angle) + up * math.cos(angle))
    bright, deep = centres(found)
    assert bright == pytest.approx((row, column), abs=0.1)
    assert deep == pytest.approx((row, column), abs=0.5)
    assert set(np.unique(found.depth)) == {0, 2, 5}  # nearest: no depth between the two
    assert found.depth[0, 0] == 0 or found.depth[0, -1] == 0
    assert (found.image[found.depth == 0] < 21).all()


def test_mirror_crop_and_resize_keep_image_and_depth_together():
    pair = planted(20, 130)
    assert centres(depth_pairs.mirrored(pair)) == [pytest.approx((20, 159 - 130))] * 2
    assert centres(depth_pairs.cropped(pair, (slice(10, 110), slice(100, 150)))) == [pytest.approx((10, 30))] * 2
    half = depth_pairs.resized(pair, 0.5)
    assert half.depth.shape == (60, 80)
    assert set(np.unique(half.depth)) == {2, 5}
    for centre in centres(half):
        assert centre == pytest.approx((9.75, 64.75), abs=0.5)


@effort(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), row=st.integers(60, 410), column=st.integers(70, 560))
def test_augmentation_keeps_image_and_depth_together(seed, row, column):
    view = Augmentation((416, 544), short_side=0, border_crop=True, rotation=2.5)
    found = view(planted(row, column, FRAME), np.random.default_rng(seed))
    assert found.image.shape == (416, 544, 3)
    assert found.depth.shape == (416, 544)
    if (found.depth == 5).sum() > 70:  # not cut off by the crop
        grey = found.image[..., 0].astype(float)
        bright = np.where(grey > (grey.max() + np.median(grey)) / 2)  # whatever the colours
        deep = np.where(found.depth == 5)
        assert np.mean(bright, axis=1) == pytest.approx(np.mean(deep, axis=1), abs=0.9)  # of nearest pixels


def test_colours_by_hand():
    class Fixed:
        def __init__(self, *draws):
            self.draws = list(draws)

        def uniform(self, low, high, size=None):
            assert (low, high) in {(0.9, 1.1), (0.75, 1.25)}
            return self.draws.pop(0)

    pair = DepthPair(np.array([[[255] * 3, [128] * 3, [0] * 3]], np.uint8), np.ones((1, 3), np.float32), "row.png")
    plain = depth_pairs.coloured(pair, Fixed(1.0, 1.0, np.ones(3)))
    np.testing.assert_array_equal(plain.image, pair.image)
    np.testing.assert_array_equal(plain.depth, pair.depth)
    # Gamma of values in 0..255, as in the Monocular-Depth-Estimation-Toolbox: 128^0.9 = 78.79, 255^0.9 = 146.52.
    assert depth_pairs.coloured(pair, Fixed(0.9, 1.0, np.ones(3))).image[0].tolist() == [[147] * 3, [79] * 3, [0] * 3]
    # 128^1.1 = 207.94; 255^1.1 = 443.81 is clipped.
    assert depth_pairs.coloured(pair, Fixed(1.1, 1.0, np.ones(3))).image[0].tolist() == [[255] * 3, [208] * 3, [0] * 3]
    # 78.79 × 1.25 × (0.9, 1, 1.1) = 88.6, 98.5, 108.3; 146.52 × 1.25 × (0.9, 1, 1.1) = 164.8, 183.1, 201.5.
    mixed = depth_pairs.coloured(pair, Fixed(0.9, 1.25, np.array([0.9, 1.0, 1.1])))
    assert mixed.image[0].tolist() == [[165, 183, 201], [89, 98, 108], [0, 0, 0]]
    # 207.94 × 0.75 × (0.9, 1, 1.1) = 140.4, 156.0, 171.5; clipped after all three factors: 443.81 × 0.75 = 332.9.
    dark = depth_pairs.coloured(pair, Fixed(1.1, 0.75, np.array([0.9, 1.0, 1.1])))
    assert dark.image[0].tolist() == [[255] * 3, [140, 156, 172], [0, 0, 0]]


def test_colours_are_drawn_from_the_published_ranges():
    """Of 100 at gamma 1 only brightness and colour are seen, and so on: each range is reached and kept to."""
    pair, factors = DepthPair(np.full((1, 1, 3), 100, np.uint8), np.ones((1, 1), np.float32), "one.png"), []
    for seed in range(300):
        factors.append(depth_pairs.coloured(pair, np.random.default_rng(seed)).image[0, 0] / 100)
    factors = np.array(factors)
    low, high = 100**-0.1 * 0.75 * 0.9, 100**0.1 * 1.25 * 1.1  # 0.426, 2.179
    assert low - 0.01 < factors.min() < low + 0.15
    assert high - 0.5 < factors.max() < high + 0.01
    ratios = factors / factors[:, :1]  # of two channels: gamma and brightness cancel out
    assert 0.9 / 1.1 - 0.02 < ratios.min() < 0.9 / 1.1 + 0.04
    assert 1.1 / 0.9 - 0.04 < ratios.max() < 1.1 / 0.9 + 0.02


def view_of(pair, draws, **changes):
    """Of `draws` views of a grey ramp: turned by how many degrees, mirrored, coloured, upper left depth."""
    view = Augmentation(**{"crop": pair.depth.shape, "short_side": 0, "border_crop": False, "rotation": 0.0, **changes})
    found = []
    for position in range(draws):
        shown = view(pair, np.random.default_rng([7, position]))
        rows, columns = np.floor(shown.depth - 1), (shown.depth - 1) % 1 * 1000
        middle = shown.depth.shape[0] // 2
        across = columns[middle, -20] - columns[middle, 20], rows[middle, -20] - rows[middle, 20]
        mirror = across[0] < 0
        # Going right in an anticlockwise turned image means going down in the original; mirrored, left.
        degrees = math.degrees(math.atan2(across[1], abs(across[0])))
        middle_grey = shown.image[middle, shown.depth.shape[1] // 2]
        found.append((-degrees if mirror else degrees, mirror, (middle_grey != 100).any(), shown.depth[0, 0]))
    return [np.array(column) for column in zip(*found, strict=True)]


def grey_ramp(size=(120, 160)):
    pair = ramp(size)
    return DepthPair(np.full((*size, 3), 100, np.uint8), pair.depth, pair.name)


def test_half_of_the_views_are_turned_half_mirrored_half_coloured():
    """The larger the turn, the better it is seen: up to 20 degrees here."""
    degrees, mirror, coloured, _ = view_of(grey_ramp(), 300, rotation=20.0)
    turned = np.abs(degrees) > 0.6
    for share in (turned.mean() * 20 / 19.4, mirror.mean(), coloured.mean()):
        assert share == pytest.approx(0.5, abs=0.1)  # 3.5 standard deviations
    # Each by itself: all eight combinations, an eighth of the views each.
    kinds = np.bincount(4 * turned + 2 * mirror + coloured, minlength=8) / 300
    assert kinds.min() > 0.06
    assert kinds.max() < 0.2
    # Uniform to both sides.
    assert np.abs(degrees).max() == pytest.approx(20, abs=0.7)
    assert degrees.min() < -19
    assert degrees.max() > 19
    assert np.abs(degrees[turned]).mean() == pytest.approx(10.3, abs=1.5)
    assert (degrees[turned] > 0).mean() == pytest.approx(0.5, abs=0.15)


def test_no_rotation_gives_none_and_leaves_all_measured():
    degrees, mirror, coloured, corner = view_of(grey_ramp(), 40)
    assert not degrees.any()
    assert 10 < mirror.sum() < 30
    assert 10 < coloured.sum() < 30
    assert (corner > 0).all()


def test_crops_come_from_everywhere():
    _, mirror, _, corner = view_of(grey_ramp(), 150, crop=(110, 150))
    rows, columns = np.floor(corner - 1).round(), ((corner - 1) % 1 * 1000).round()
    columns = np.where(mirror, 159 - columns, columns)
    assert set(rows) == set(columns) == set(range(11))
    assert len(set(zip(rows, columns, strict=True))) > 60
