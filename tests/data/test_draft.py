"""Crops of large JPEGs at a part of their size: never below twice the view, near decoding in full, else its bits."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from regvit_lightning.data import draft
from regvit_lightning.data.augmentation import ResizedCrop
from regvit_lightning.data.decoded import Decoded
from regvit_lightning.data.imagenet import Drawn, index
from regvit_lightning.data.transforms import three_augment, with_crop
from regvit_lightning.runtime import seeds

BOX = (131, 77, 1131, 1033)  # of 1000 × 956 pixels, its corners at no multiple of a block


def photograph(width=1301, height=1103, seed=0):
    """Waves of every length down to 8 pixels in three channels: smooth, as photographs are, and with detail."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    pixels = np.full((height, width, 3), 128.0)
    for length in (8, 16, 50, 150, 500):
        angle, phase = generator.uniform(0, np.pi), generator.uniform(0, 2 * np.pi, 3)
        waves = (x * np.cos(angle) + y * np.sin(angle))[..., None] * 2 * np.pi / length + phase
        pixels += 3 * np.sqrt(length) * np.sin(waves) / 2
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def saved(image, form="JPEG", **options):
    content = io.BytesIO()
    image.save(content, form, **options)
    return content


def in_full(content, box, size):
    with Image.open(content) as image:
        return image.convert("RGB").crop(box).resize((size, size), Image.Resampling.BICUBIC)


def by_draft(content, box, size):
    with Image.open(content) as image:
        return draft.cropped(image, box, size)


def levels(a, b):
    """Mean and mean absolute difference of two images, in levels of 0..255."""
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return difference.mean(), np.abs(difference).mean()


@pytest.mark.parametrize(("size", "by"), [(240, 1), (239, 2), (119, 4), (59, 8), (20, 8)])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
def test_a_crop_is_that_of_decoding_in_full_within_two_levels(size, by, options):
    """Less than 2 levels of 255 in the mean of all pixels, less than 0.2 in their mean: no shift of the box shows."""
    content = saved(photograph(), quality=90, **options)
    with Image.open(content) as image:
        assert draft.divisor(image, BOX, size) == by
    shift, error = levels(by_draft(content, BOX, size), in_full(content, BOX, size))
    assert abs(shift) < 0.2
    assert error < 2
    assert (error == 0) == (by == 1), "in full to the bit, and only then"


def test_the_bound_sees_a_box_that_is_two_pixels_off():
    """One pixel of the smaller image in each direction; what the bound of the test above is worth."""
    content = saved(photograph(), quality=90)
    off = tuple(edge + 4 for edge in BOX)
    assert levels(by_draft(content, off, 119), in_full(content, BOX, 119))[1] > 2


def test_every_edge_of_the_crop_lies_where_it_does_in_full():
    """On ramps of half a level a pixel, an edge that is one decoded pixel off would be 2 levels off."""
    ramp = np.arange(512) / 2
    pixels = np.stack(np.broadcast_arrays(ramp, ramp[:, None], 0), axis=2).astype(np.uint8)
    content, box = saved(Image.fromarray(pixels), quality=100, subsampling=0), (13, 7, 497, 499)
    with Image.open(content) as image:
        assert draft.divisor(image, box, 60) == 4
    part, full = (np.asarray(crop(content, box, 60), np.float64) for crop in (by_draft, in_full))
    for channel, axis in ((0, 0), (1, 1)):
        assert np.abs((part - full)[..., channel].mean(axis=axis)).max() < 1.2


def test_grey_and_cmyk_are_converted_as_in_full():
    for mode in ("L", "CMYK"):
        content = saved(photograph().convert(mode), quality=90)
        assert by_draft(content, BOX, 119).mode == "RGB"
        assert levels(by_draft(content, BOX, 119), in_full(content, BOX, 119))[1] < 2


def test_pixels_stay_as_they_are_stored_whatever_the_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned, plain = (saved(photograph(), quality=90, **more) for more in ({"exif": exif}, {}))
    assert by_draft(turned, BOX, 119).tobytes() == by_draft(plain, BOX, 119).tobytes()


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_other_formats_are_decoded_in_full(form):
    content = saved(photograph(), form)
    assert by_draft(content, BOX, 20).tobytes() == in_full(content, BOX, 20).tobytes()


@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    size=st.integers(1, 40),
    corner=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_no_crop_is_decoded_below_twice_its_view(width, height, size, corner):
    """The size that Pillow decodes at is the one asked for, and the crop in it is large enough."""
    left, right = sorted(round(share * width) for share in corner[:2])
    top, bottom = sorted(round(share * height) for share in corner[2:])
    box = left, top, max(right, left + 1), max(bottom, top + 1)
    content = saved(Image.new("RGB", (max(width, box[2]), max(height, box[3]))))
    with Image.open(content) as image:
        whole, by = image.size, draft.divisor(image, box, size)
        assert draft.cropped(image, box, size).size == (size, size)
        assert image.size == tuple(-(-side // by) for side in whole)
    assert by == 1 or min(box[2] - box[0], box[3] - box[1]) / by >= 2 * size


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    for number in range(3):
        photograph(640, 480, number).save(folder / f"{number}.jpg", quality=90)
    return index(tmp_path / "train")


def drawn(files, transform, monkeypatch, stored):
    monkeypatch.setattr("regvit_lightning.data.decoded.MOST_BYTES", 2**30 if stored else 0)
    images = Drawn(files, transform, seed=0, replace=True)
    return torch.stack([images[position, position % len(files)]["image"] for position in range(24)])


def test_a_recipe_draws_the_same_crops_and_changes(photographs, monkeypatch):
    """Boxes, flips and colours of decoding in full: views differ by less than 2 levels, and not in their mean."""
    full, part = (
        drawn(photographs, three_augment(32, "resized", 0.3, by), monkeypatch, stored=False) for by in (False, True)
    )
    difference = part.double() - full.double()
    assert 0 < difference.abs().mean() < 2
    assert abs(difference.mean()) < 0.2


def test_a_small_set_that_is_kept_decoded_gives_the_same_bits(photographs, monkeypatch):
    full, part = (three_augment(32, "resized", 0.3, by) for by in (False, True))
    assert torch.equal(drawn(photographs, full, monkeypatch, stored=True), drawn(photographs, part, monkeypatch, True))


def test_a_damaged_file_is_replaced_and_its_successor_has_the_draws_of_the_position(photographs, monkeypatch):
    damaged = photographs.path(0)
    with open(damaged, "rb+") as file:
        file.truncate(2_000)
    monkeypatch.setattr("regvit_lightning.data.decoded.MOST_BYTES", 0)
    images = Drawn(photographs, with_crop(ResizedCrop(32, (0.2, 1.0)), (), draft=True), seed=0, replace=True)
    sample = images[7, 0]
    assert sample["unreadable"] == [0]
    with seeds.torch_drawn_from(0, "augment", 7):
        own = Decoded(photographs).crop(1, ResizedCrop(32, (0.2, 1.0)))
    assert np.array_equal(sample["image"].permute(1, 2, 0), own)
