"""Kept indices: complete or not there, mapped, made by one process of several; when that of class folders answers."""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regvit_lightning.data import imagenet, kept_index
from regvit_lightning.data.imagenet import index
from regvit_lightning.data.layout import DataError
from tests.forked import Forked

ROOT = Path(__file__).parents[2]
OLD = time.time() - 3600


@pytest.fixture
def train(tmp_path):
    """Class folders, one of them with a folder inside, all untouched for an hour."""
    folder = tmp_path / "images" / "train"
    for name in ("cat/0.png", "cat/1.JPG", "cat/far/2.png", "dog/3.png", "dog/notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    age(folder)
    return folder


def age(folder):
    for inside, _, _ in os.walk(folder):
        os.utime(inside, (OLD, OLD))


def names(files):
    return [os.path.relpath(files.path(number), files.root) for number in range(len(files))]


def count_listings(monkeypatch):
    listings = []
    real = imagenet._list
    monkeypatch.setattr(imagenet, "_list", lambda *a: listings.append(1) or real(*a))
    return listings


def test_the_second_look_reads_what_the_first_has_listed(train, monkeypatch):
    listings = count_listings(monkeypatch)
    first, second = index(train), index(train)
    assert len(listings) == 1
    assert names(first) == names(second) == ["cat/0.png", "cat/1.JPG", "cat/far/2.png", "dog/3.png"]
    assert first.labels.tolist() == second.labels.tolist() == [0, 0, 0, 1]
    assert second.classes == ("cat", "dog")
    assert isinstance(second.paths, np.memmap)  # which all processes share
    assert sorted(path.name for path in train.parent.iterdir()) == [".index", "train"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda f: (f / "dog" / "4.png").write_bytes(b""), ["dog/3.png", "dog/4.png"]),
        (lambda f: (f / "cat" / "far" / "5.png").write_bytes(b""), ["cat/far/2.png", "cat/far/5.png", "dog/3.png"]),
        (lambda f: (f / "dog" / "3.png").rename(f / "dog" / "9.png"), ["dog/9.png"]),
        (lambda f: (f / "emu").mkdir() or (f / "emu" / "0.png").write_bytes(b""), ["dog/3.png", "emu/0.png"]),
        (lambda f: (f / "cat" / "far" / "2.png").unlink(), ["cat/1.JPG", "dog/3.png"]),
    ],
)
def test_a_file_that_comes_or_goes_is_noticed(train, change, expected):
    index(train)
    change(train)
    assert names(index(train))[-len(expected) :] == expected


def test_folders_changed_a_moment_ago_are_listed_each_time(train, monkeypatch):
    """Within a tick of its clock a file system does not tell two changes of a folder apart."""
    (train / "dog" / "4.png").write_bytes(b"")
    listings = count_listings(monkeypatch)
    index(train)
    index(train)
    assert len(listings) == 2
    assert [path.name for path in train.parent.iterdir()] == ["train"]


def test_a_data_set_that_was_moved_keeps_its_index(train, tmp_path, monkeypatch):
    index(train)
    (tmp_path / "images").rename(tmp_path / "moved")
    listings = count_listings(monkeypatch)
    found = index(tmp_path / "moved" / "train")
    assert found.path(0) == str(tmp_path / "moved" / "train" / "cat" / "0.png")
    assert not listings


def test_parts_of_an_index_know_where_they_lie(train):
    Image.new("RGB", (4, 4), (9, 9, 9)).save(train / "dog" / "3.png")
    found = index(train).subset([3])
    assert found.open(0).getpixel((0, 0)) == (9, 9, 9)


@pytest.fixture
def read_only(train, tmp_path, monkeypatch):
    """As on a shared disk: nothing can be written beside the images; cache and temporary folder are of this test."""
    (train.parent / ".index").write_text("")  # a file in the place of the folder: root may write everywhere else
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return train


def test_read_only_data_is_indexed_in_the_users_cache(read_only, tmp_path, monkeypatch):
    listings = count_listings(monkeypatch)
    assert names(index(read_only)) == names(index(read_only))
    assert len(listings) == 1
    assert list((tmp_path / "home" / "cache" / "regvit-lightning" / "index").glob("*/paths.npy"))
    (read_only / "dog" / "4.png").write_bytes(b"")
    assert "dog/4.png" in names(index(read_only))


def test_without_a_cache_the_temporary_folder_takes_the_index(read_only, tmp_path, monkeypatch):
    (tmp_path / "home").write_text("")
    listings = count_listings(monkeypatch)
    assert names(index(read_only)) == names(index(read_only))
    assert len(listings) == 1
    assert list((tmp_path / "temporary").glob("regvit-lightning-*/index/*/paths.npy"))


def test_a_folder_that_another_user_has_put_into_the_temporary_one_is_not_taken(read_only, tmp_path, monkeypatch):
    assert kept_index._writable(tmp_path / "temporary" / "regvit-lightning-12345")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert not kept_index._writable(tmp_path / "temporary" / "regvit-lightning-12345")


def test_where_nothing_can_be_written_everyone_lists(read_only, tmp_path, monkeypatch):
    (tmp_path / "home").write_text("")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "home"))
    listings = count_listings(monkeypatch)
    assert names(index(read_only)) == names(index(read_only))
    assert len(listings) == 2


def test_an_index_that_someone_else_has_stored_beside_read_only_data_is_read(train, monkeypatch):
    index(train)
    monkeypatch.setattr(kept_index, "location", pytest.fail)
    listings = count_listings(monkeypatch)
    assert len(index(train)) == 4
    assert not listings


def test_a_damaged_index_is_made_anew(train):
    index(train)
    (train.parent / ".index" / "train" / "paths.npy").write_bytes(b"no")
    assert len(index(train)) == 4
    (train.parent / ".index" / "train" / "labels.npy").unlink()
    assert len(index(train)) == 4


def test_an_empty_class_is_an_error_each_time(train):
    (train / "emu").mkdir()
    for _ in range(2):
        with pytest.raises(DataError, match=r"class folder .*emu holds no image"):
            index(train)


def test_an_index_is_complete_or_not_there(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    place = tmp_path / ".index" / "train"
    assert kept_index.keep(place, {"a": np.arange(3)})
    monkeypatch.setattr(np, "save", full)
    assert not kept_index.keep(place, {"a": np.arange(4)})
    assert kept_index.read(place, ["a"])["a"].tolist() == [0, 1, 2]
    assert not kept_index.keep(tmp_path / ".index" / "val", {"a": np.arange(4)})
    assert sorted(path.name for path in place.parent.iterdir()) == ["train"]


def test_what_cannot_be_kept_is_not_taken_from_an_older_index(train, monkeypatch):
    index(train)
    (train / "dog" / "4.png").write_bytes(b"")
    age(train)
    os.utime(train / "dog", (OLD + 1, OLD + 1))
    monkeypatch.setattr(kept_index, "keep", lambda *_: False)
    assert names(index(train))[-2:] == ["dog/3.png", "dog/4.png"]


def list_slowly(train):
    """Print the number of files, and before it that this process has listed them."""
    listing = imagenet._list

    def slow(*arguments):
        print("listed")
        time.sleep(1)
        return listing(*arguments)

    imagenet._list = slow
    print(len(imagenet.index(train)))


def test_of_three_processes_one_lists_and_the_others_wait(train):
    started = [Forked(list_slowly, train) for _ in range(3)]
    words = [process.communicate(timeout=120)[0].split() for process in started]
    assert sorted(words) == [["4"], ["4"], ["listed", "4"]]
