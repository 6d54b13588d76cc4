"""Which files of a folder are taken, what is said of the others, and names in two spellings."""

import os
import unicodedata
import warnings

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from regvit_lightning.data.imagenet import index
from regvit_lightning.data.images import EXTENSIONS
from regvit_lightning.data.layout import DataError
from regvit_lightning.data.listing import LeftOut, Spellings, is_image, report, walk
from regvit_lightning.errors import Notice


@given(st.text("ab./", max_size=6), st.sampled_from([*EXTENSIONS, ".JPG", ".txt", "", "."]))
@example("a/", ".jpg")
@example("..", ".png")
def test_the_suffix_of_an_image_is_that_of_the_standard_library(stem, suffix):
    assert is_image(stem + suffix) == (os.path.splitext(stem + suffix)[1].lower() in EXTENSIONS)


def put(path, form="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3)).save(path, form)


def listed(folder):
    """Paths of an index below its folder, its classes, and the message on what was left out."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        files = index(folder)
    lines = [str(one.message) for one in caught if issubclass(one.category, Notice)]
    assert len(lines) <= 1
    names = [os.path.relpath(files.path(place), folder) for place in range(len(files))]
    return names, files.classes, "".join(lines)


def test_what_is_no_class_and_no_image_is_left_out_counted_and_named_once(tmp_path):
    split = tmp_path / "train"
    for name in ("cat/1.jpg", "dog/2.png", ".ipynb_checkpoints/1.jpg", "__MACOSX/cat/1.jpg", "cat/@eaDir/1.jpg"):
        put(split / name)
    put(split / "cat" / "._1.jpg")
    put(split / "loose.jpg")
    put(split / "x.jpg" / "2.png")
    (split / "cat" / "y.jpg").mkdir()
    (split / "dog" / "notes.txt").write_text("")
    (split / "dog" / "3.heic").write_text("")
    names, classes, line = listed(split)
    assert (names, classes) == (["cat/1.jpg", "dog/2.png"], ("cat", "dog"))
    assert str(split) in line
    for part in ("4 hidden or left by the system", "2 folder named as an image", "1 beside the class folders (loose"):
        assert part in line
    assert "2 not an image that can be read" in line
    assert "\n" not in line
    assert listed(split)[2] == line  # the same from the kept index


def test_every_suffix_that_can_be_decoded_is_taken(tmp_path):
    names = [f"a/{number}{suffix}" for number, suffix in enumerate((".JPG", ".jpeg", ".Gif", ".jfif", ".ppm", ".AVIF"))]
    for name in names:
        put(tmp_path / "train" / name)
    assert listed(tmp_path / "train") == (names, ("a",), "")


def test_linked_folders_are_followed_and_circles_end(tmp_path):
    put(tmp_path / "elsewhere" / "deep" / "1.jpg")
    put(tmp_path / "train" / "a" / "0.jpg")
    (tmp_path / "train" / "a" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "deep" / "up").symlink_to(tmp_path / "elsewhere")
    names, classes, line = listed(tmp_path / "train")
    assert names == ["a/0.jpg", "a/linked/deep/1.jpg", "b/deep/1.jpg"]
    assert classes == ("a", "b")
    assert "2 link to a folder that contains it" in line


def test_classes_are_compared_in_one_unicode_form(tmp_path):
    forms = {"train": "NFC", "val": "NFD"}
    for split, form in forms.items():
        for name in ("café", "cafz"):
            put(tmp_path / split / unicodedata.normalize(form, name) / "1.jpg")
    train, val = (index(tmp_path / split) for split in forms)
    assert train.classes == val.classes == ("cafz", "café")
    assert val.open(1).size == (4, 3)
    put(tmp_path / "val" / unicodedata.normalize("NFC", "café") / "1.jpg")
    with pytest.raises(DataError, match="same name in different Unicode forms"):
        index(tmp_path / "val")


def test_files_are_found_in_another_spelling(tmp_path):
    put(tmp_path / unicodedata.normalize("NFD", "é") / unicodedata.normalize("NFD", "ü.JPG"))
    put(tmp_path / "b.jpeg")
    put(tmp_path / "b.png")
    spellings = Spellings()
    found = spellings.find(str(tmp_path / "é" / "ü.jpg"))
    assert os.path.isfile(found)
    assert spellings.find(str(tmp_path / "b.JPEG")) == str(tmp_path / "b.jpeg")
    assert spellings.find(str(tmp_path / "c.jpg")) == str(tmp_path / "c.jpg")
    assert spellings.find(str(tmp_path / "no" / "c.jpg")) == str(tmp_path / "no" / "c.jpg")
    assert spellings.find(str(tmp_path / "b.xml")) == str(tmp_path / "b.xml")


def test_nothing_is_said_where_nothing_is_left_out():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report("a", LeftOut())


def test_a_folder_that_goes_while_it_is_listed_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"cannot list .*gone: No such file"):
        list(walk(tmp_path, "gone", LeftOut()))
