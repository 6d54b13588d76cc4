"""Decoded images that are held: the pixels of the file, decoded once, anew when the file changes, within a bound."""

import os

import numpy as np
import pytest
from PIL import Image

from regvit_lightning.data import decoded
from regvit_lightning.data.decoded import Decoded
from regvit_lightning.data.imagenet import index
from regvit_lightning.data.layout import DataError

COUNT = 4


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "train" / "cat"
    folder.mkdir(parents=True)
    for number in range(COUNT):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return index(tmp_path / "train")


def opened(files, monkeypatch):
    """Indices of the images that are decoded from now on."""
    indices, real = [], type(files).open
    monkeypatch.setattr(type(files), "open", lambda self, index: indices.append(index) or real(self, index))
    return indices


def test_an_image_is_decoded_once_to_the_same_pixels(files, monkeypatch):
    expected = [files.open(number).tobytes() for number in range(COUNT)]
    indices, held = opened(files, monkeypatch), Decoded(files)
    for _ in range(2):
        assert [held.open(number).tobytes() for number in range(COUNT)] == expected
    assert indices == list(range(COUNT))


@pytest.mark.parametrize("touched", [False, True])
def test_a_changed_file_is_decoded_anew(files, touched):
    held = Decoded(files)
    held.open(1)
    before = os.stat(files.path(1))
    Image.new("RGB", (8, 8), (255, 0, 0)).save(files.path(1))
    if touched:  # another size alone tells
        os.utime(files.path(1), ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(2):
        assert held.open(1).tobytes() == files.open(1).tobytes()


def test_a_file_that_is_gone_or_damaged_is_reported_as_without_holding(files):
    held = Decoded(files)
    held.open(1), held.open(2)
    os.remove(files.path(1))
    with open(files.path(2), "wb") as file:
        file.write(b"no image")
    for number in (1, 2):
        with pytest.raises(DataError, match=f"unreadable image .*{number}.jpg"):
            held.open(number)


@pytest.mark.parametrize(("missing", "times"), [(0, 1), (1, 2)])
def test_a_set_is_held_whole_or_not_at_all(files, missing, times, monkeypatch):
    monkeypatch.setattr(decoded, "MOST_BYTES", COUNT * 8 * 10 * 4 - missing)
    indices, held = opened(files, monkeypatch), Decoded(files)
    for _ in range(2):
        for number in range(COUNT):
            held.open(number)
    assert indices == list(range(COUNT)) * times


def test_images_that_are_larger_than_the_first_do_not_pass_the_bound(files, monkeypatch):
    Image.new("RGB", (100, 100)).save(files.path(3))
    monkeypatch.setattr(decoded, "MOST_BYTES", 2000)
    held = Decoded(files)
    for number in range(COUNT):
        held.open(number)
    assert sorted(held.held) == [0, 1, 2]
