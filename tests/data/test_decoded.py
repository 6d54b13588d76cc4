"""Decoded images that are stored: the pixels of the file, decoded once, anew when the file changes, within a bound."""

import multiprocessing
import os
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regvit_lightning.data import decoded
from regvit_lightning.data.decoded import Decoded, Fixed
from regvit_lightning.data.imagenet import index
from regvit_lightning.data.layout import DataError

COUNT = 4
HALF = Fixed("half", (lambda image: image.resize((image.width // 2, image.height // 2)),))


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "train" / "cat"
    folder.mkdir(parents=True)
    for number in range(COUNT):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return index(tmp_path / "train")


@pytest.fixture(params=["on disk", "in memory"])
def beside(request, files):
    return Path(files.root) if request.param == "on disk" else None


def opened(files, monkeypatch):
    """Indices of the images that are decoded from now on."""
    indices, real = [], type(files).open
    monkeypatch.setattr(type(files), "open", lambda self, index: indices.append(index) or real(self, index))
    return indices


@pytest.mark.parametrize("fixed", [Fixed(), HALF])
def test_an_image_is_decoded_once_to_the_same_pixels(files, beside, fixed, monkeypatch):
    expected = [fixed(files.open(number)) for number in range(COUNT)]
    indices, kept = opened(files, monkeypatch), Decoded(files, fixed, beside)
    for _ in range(2):
        assert [kept.open(number).tobytes() for number in range(COUNT)] == [image.tobytes() for image in expected]
        assert all(np.array_equal(kept.pixels(number), expected[number]) for number in range(COUNT))
    assert indices == [0, *range(COUNT)]  # the first one twice: its size tells whether all fit


def test_the_next_run_finds_them_and_another_view_its_own(files, monkeypatch):
    Decoded(files, HALF, Path(files.root)).open(0)
    indices = opened(files, monkeypatch)
    again = Decoded(files, HALF, Path(files.root))
    assert again.open(2).size == (5, 4)
    assert indices == [0]
    assert Decoded(files, Fixed(), Path(files.root)).open(2).size == (10, 8)
    assert indices == [0, 0, *range(COUNT)]


def _worker(files, log):
    real = type(files).open

    def count(self, index):
        with open(log, "a") as file:
            file.write(f"{index}\n")
        return real(self, index)

    type(files).open = count
    Decoded(files, Fixed(), Path(files.root)).open(1)


def test_of_two_runs_that_begin_at_once_one_decodes(files, tmp_path):
    log = tmp_path / "log"
    both = [multiprocessing.get_context("fork").Process(target=_worker, args=(files, log)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert log.read_text().split().count("3") == 1


def test_a_process_that_is_not_forked_gets_no_copy_of_the_pixels(files, monkeypatch):
    kept = Decoded(files, Fixed(), Path(files.root))
    kept.open(0)
    copy = pickle.loads(pickle.dumps(kept))
    assert copy._stored is None
    indices = opened(files, monkeypatch)
    assert copy.open(2).tobytes() == kept.open(2).tobytes()
    assert indices == [0]


def test_a_file_of_the_same_size_and_time_that_is_written_over_is_decoded_anew(files, beside):
    for number, value in enumerate((10, 200)):
        Image.new("RGB", (8, 8), (value,) * 3).save(files.path(number), "BMP")  # of one size
        os.utime(files.path(number), ns=(0, 0))
    kept = Decoded(files, Fixed(), beside)
    kept.open(0)
    time.sleep(0.02)  # the clock of a file system ticks every few milliseconds
    shutil.copy2(files.path(1), files.path(0))  # into the same file, with its time
    for one in (kept, Decoded(files, Fixed(), beside)):
        assert one.open(0).tobytes() == files.open(0).tobytes()


@pytest.mark.parametrize("touched", [False, True])
def test_a_changed_file_is_decoded_anew(files, beside, touched):
    kept = Decoded(files, Fixed(), beside)
    kept.open(1)
    before = os.stat(files.path(1))
    Image.new("RGB", (8, 8), (255, 0, 0)).save(files.path(1))
    if touched:  # another size alone tells
        os.utime(files.path(1), ns=(before.st_atime_ns, before.st_mtime_ns))
    for one in (kept, kept, Decoded(files, Fixed(), beside)):
        assert one.open(1).tobytes() == files.open(1).tobytes()


def test_a_file_that_is_gone_or_damaged_is_reported_as_without_storing(files, beside):
    with open(files.path(3), "wb") as file:
        file.write(b"no image")
    kept = Decoded(files, Fixed(), beside)
    kept.open(1), kept.open(2)
    os.remove(files.path(1))
    with open(files.path(2), "wb") as file:
        file.write(b"no image")
    for number in (1, 2, 3):
        with pytest.raises(DataError, match=f"unreadable image .*{number}.jpg"):
            kept.open(number)
    assert kept.open(0).tobytes() == files.open(0).tobytes()


@pytest.mark.parametrize(("missing", "times"), [(0, 1), (1, 2)])
def test_a_set_is_stored_whole_or_not_at_all(files, missing, times, monkeypatch):
    monkeypatch.setattr(decoded, "MOST_BYTES", COUNT * 8 * 10 * 3 - missing)
    indices, kept = opened(files, monkeypatch), Decoded(files)
    kept.open(0)
    indices.clear()
    for _ in range(2):
        for number in range(COUNT):
            kept.open(number)
    assert indices == list(range(COUNT)) * (2 * (times - 1))


def test_images_that_are_larger_than_the_first_do_not_pass_the_bound(files, monkeypatch):
    Image.new("RGB", (100, 100)).save(files.path(1))
    monkeypatch.setattr(decoded, "MOST_BYTES", 2000)
    indices, kept = opened(files, monkeypatch), Decoded(files)
    kept.open(0)
    assert len(kept._stored["pixels"]) == 3 * 8 * 10 * 3
    indices.clear()
    assert [kept.open(number).size for number in range(COUNT)] == [(10, 8), (100, 100), (10, 8), (10, 8)]
    assert indices == [1]


def test_decoded_images_are_stored_where_only_they_fit(files, monkeypatch):
    large = Fixed("large", (lambda image: image.resize((40, 40)),))
    monkeypatch.setattr(decoded, "MOST_BYTES", COUNT * 8 * 10 * 3)
    expected = large(files.open(3)).tobytes()
    indices, kept = opened(files, monkeypatch), Decoded(files, large)
    kept.open(0)
    indices.clear()
    assert kept.open(3).tobytes() == kept.pixels(3).tobytes() == expected
    assert indices == []


def test_where_nothing_can_be_written_they_stay_in_memory(files, monkeypatch):
    monkeypatch.setattr(decoded.kept_index, "keep", lambda folder, arrays: False)
    indices, kept = opened(files, monkeypatch), Decoded(files, Fixed(), Path(files.root))
    for number in (2, 2, 3):
        assert kept.open(number).size == (10, 8)
    assert indices == [0, *range(COUNT)]


def test_what_another_run_stored_is_not_read_where_nothing_new_can_be_kept(files, monkeypatch):
    beside = Path(files.root)
    Decoded(files.subset([1, 2]), Fixed(), beside).open(0)
    monkeypatch.setattr(decoded.kept_index, "keep", lambda folder, arrays: False)  # the disk is full
    kept = Decoded(files, Fixed(), beside)
    assert [kept.open(number).tobytes() for number in range(COUNT)] == [
        files.open(number).tobytes() for number in range(COUNT)
    ]
