"""Properties of images: closed forms, and independent measures of the same by scipy."""

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from regvit_lightning.data import properties

EIGHT = np.ones((3, 3))  # neighbours of a pixel that are connected to it


def grey(seed, shape=(60, 80)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_texture_is_the_median_standard_deviation_that_scipy_finds():
    image = scipy.ndimage.gaussian_filter(grey(0).astype(float), 1.5).astype(np.uint8)
    found = scipy.ndimage.generic_filter(image.astype(float), np.std, size=7, mode="mirror")
    assert properties.texture(image) == pytest.approx(np.median(found), rel=1e-9)


def test_texture_of_a_checkerboard_in_closed_form():
    """A window of 49 pixels holds 24 or 25 bright ones: the standard deviation is 200 √(24 · 25) / 49."""
    image = (200 * (np.indices((40, 60)).sum(axis=0) % 2)).astype(np.uint8)
    assert properties.texture(image) == pytest.approx(200 * np.sqrt(24 * 25) / 49)


def test_the_outline_of_an_object_is_clutter_and_no_texture():
    """A step between two flat halves: an edge of one pixel in each row, and no texture in most windows."""
    image = np.zeros((50, 100), np.uint8)
    image[:, 50:] = 220
    assert properties.texture(image) == pytest.approx(0, abs=1e-3)
    assert properties.clutter(image) == pytest.approx(1.0, abs=0.05)
    assert properties.clutter(np.full((50, 100), 99, np.uint8)) == 0


def test_twice_the_edges_are_twice_the_clutter():
    def stripes(width):
        return (200 * (np.indices((64, 128))[1] // width % 2)).astype(np.uint8)

    few, many = (properties.clutter(stripes(width)) for width in (32, 16))
    assert many / few == pytest.approx(7 / 3, rel=0.02)  # 3 and 7 inner borders


def test_neither_resolution_nor_orientation_matters():
    """224 × 336 pixels, each of them as 2 × 2, and both turned."""
    image = np.stack([scipy.ndimage.gaussian_filter(grey(seed, (224, 336)).astype(float), 2) for seed in range(3)], -1)
    image = np.clip(4 * (image - 127) + 127, 0, 255).astype(np.uint8)
    usual = properties.pixels(Image.fromarray(image))
    assert usual[0] > 5
    assert usual[1] > 1
    assert properties.pixels(Image.fromarray(image.repeat(2, 0).repeat(2, 1))) == usual
    turned = properties.pixels(Image.fromarray(np.ascontiguousarray(image.transpose(1, 0, 2))))
    assert turned[0] == pytest.approx(usual[0], abs=1e-9)
    assert turned[1] == pytest.approx(usual[1], rel=0.02)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (1, 3000), (3000, 1)])
def test_a_small_or_narrow_image_is_measured_too(size, monkeypatch):
    """At no more than 2,048 pixels of its long side: a line of pixels enlarged to 224 would fill the memory."""
    seen = []
    monkeypatch.setattr(properties, "texture", lambda grey: seen.append(grey.shape) or 0.0)
    assert properties.pixels(Image.new("RGB", size, (9, 9, 9))) == (0, 0)
    assert max(seen[0]) <= 2048


def test_the_largest_box_counts():
    boxes = np.array([[0, 0, 10, 10], [5, 5, 25, 15], [0, 0, 1, 1]])
    assert properties.objects(boxes, 50, 40) == (pytest.approx(100 * 200 / 2000), 3)
    assert properties.objects(np.zeros((0, 4)), 50, 40) == (None, 0)


def test_segments_by_hand():
    """One class in two places that touch at a corner is one segment; apart it is two; the ignored class is none."""
    mask = np.full((10, 10), 255, np.uint8)
    assert properties.segments(mask, 255) == (0, None)
    mask[0:2, 0:2], mask[2:4, 2:4] = 7, 7
    assert properties.segments(mask, 255) == (1, pytest.approx(8.0))
    mask[8:10, 8:10] = 7
    assert properties.segments(mask, 255) == (2, pytest.approx(6.0))
    mask[2:4, 2:4] = 3
    assert properties.segments(mask, 255) == (3, pytest.approx(4.0))
    assert properties.segments(np.zeros((10, 10), np.uint8), 255) == (1, pytest.approx(100.0))


def test_specks_are_no_segments():
    """Of 4,000 pixels one in a thousand is 4."""
    mask = np.zeros((50, 80), np.uint8)
    mask[10, 10:14] = 1
    assert properties.segments(mask, 255)[0] == 2
    mask[10, 13] = 0
    assert properties.segments(mask, 255) == (1, pytest.approx(100 * (4000 - 3) / 4000))


@given(st.integers(0, 1000), st.integers(2, 4))
def test_segments_are_those_that_scipy_labels(seed, classes):
    mask = np.random.default_rng(seed).integers(0, classes, (20, 30)).astype(np.uint8)
    mask[mask == classes - 1] = 255
    sizes = []
    for label in range(classes - 1):
        regions, _ = scipy.ndimage.label(mask == label, EIGHT)
        sizes += list(np.bincount(regions.ravel())[1:])
    count, share = properties.segments(mask, 255)
    assert count == len(sizes)
    assert share == pytest.approx(100 * np.mean(sizes) / 600)
