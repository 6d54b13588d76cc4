"""Classes and properties of images on disk: one fixed text, everything back as it was, and every bad file in a line."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regvit_lightning.data import annotated
from regvit_lightning.data.annotated import Annotated, Property
from tests.data.one_line import complaint

PETS = Annotated(
    section="pets",
    digests={"test": "0123"},
    labels=[[0], [], [1, 0]],
    classes=["cat", "dög"],
    properties=[
        Property("size", "%", "of it", [12.34567, None, 3]),
        Property("wall", "", "kind", ["lime", "lime", None]),
    ],
)
TEXT = """{
 "schema": 1,
 "section": "pets",
 "digests": {"test":"0123"},
 "classes": ["cat","dög"],
 "labels": [[0],[],[1,0]],
 "properties": [
  {"name":"size","unit":"%","about":"of it","values":[12.35,null,3]},
  {"name":"wall","unit":"","about":"kind","values":["lime","lime",null]}
 ]
}
"""


def test_the_text_of_a_file(tmp_path):
    file = PETS.save(tmp_path / "annotations")
    assert file == tmp_path / "annotations" / "pets.json"
    assert file.read_text(encoding="utf-8") == TEXT
    assert [path.name for path in file.parent.iterdir()] == ["pets.json"]  # no temporary file is left


def test_a_file_is_found_where_it_is_looked_for(tmp_path):
    file = PETS.save(annotated.path(tmp_path, "mini", "").parent)
    assert file == annotated.path(tmp_path, "mini", "pets") == tmp_path / "mini" / "annotations" / "pets.json"


names = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=8)
values = st.none() | names | st.integers(-(10**6), 10**6) | st.integers(-999, 999).map(lambda whole: whole / 16)


@st.composite
def annotations(draw):
    classes = draw(st.lists(names, max_size=3))
    of_image = st.lists(st.integers(0, len(classes) - 1), max_size=2) if classes else st.just([])
    labels = draw(st.lists(of_image, max_size=4))
    column = st.lists(values, min_size=len(labels), max_size=len(labels))
    properties = draw(st.lists(st.builds(Property, names, names, names, column), max_size=2))
    digests = draw(st.dictionaries(names, names, max_size=2))
    return Annotated("set", digests, labels, classes, properties)


@given(annotations())
def test_everything_comes_back(tmp_path_factory, one):
    """Sixteenths below 64 have up to six digits: they come back to four."""
    folder = tmp_path_factory.getbasetemp()
    content = one.save(folder).read_bytes()
    again = annotated.parse(content, "x")
    assert again.save(folder).read_bytes() == content
    assert (again.digests, again.labels, again.classes) == (one.digests, one.labels, one.classes)
    for found, meant in zip(again.properties, one.properties, strict=True):
        assert (found.name, found.unit, found.about) == (meant.name, meant.unit, meant.about)
        for back, value in zip(found.values, meant.values, strict=True):
            assert back == (pytest.approx(value, rel=5e-4) if isinstance(value, float) else value)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [([1, 2.5, None], True), ([None, "plain"], False), ([1, "plain"], False), ([None], True)],
)
def test_numbers_are_told_from_names(numbers, expected):
    assert Property("x", "", "", numbers).is_number is expected


def changed(**more):
    return json.dumps({**json.loads(TEXT), **more}).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not readable as annotations"),
        (b"\xff\xfe", "not readable as annotations"),
        (b"[]", "expected a mapping"),
        (b'{"schema": 1}', "section is missing"),
        (changed(schema=2), "of schema 2, expected 1"),
        (changed(section="../pets"), "section: expected the name of a data set"),
        (changed(section=""), "section: expected the name of a data set"),
        (changed(labels=[[0], [], [2]]), "labels: expected indices of the 2 classes"),
        (changed(labels=[[0], [], [-1]]), "labels: expected indices of the 2 classes"),
        (changed(labels=[0, 1, 0]), "labels[0]: expected a list"),
        (changed(labels=[[0], []]), "property size: expected a value for each of the 2 images"),
        (changed(properties=[{"name": "a", "unit": "", "about": "", "values": [[], 1, 1]}]), "values[0]: expected"),
        (changed(classes="cat"), "classes: expected a list"),
        (TEXT.replace("12.35", "NaN").encode(), "not readable as annotations"),
    ],
)
def test_every_bad_file_is_one_line_that_says_what_to_do(content, said):
    line = complaint(annotated.parse, content, "pets.json")
    assert line.startswith("pets.json: ")
    assert said in line
    assert line.endswith("make annotate DATA=<name>")


def test_labels_of_any_class_are_taken():
    assert annotated.parse(changed(labels=[[1], [0], [1]]), "x").labels == [[1], [0], [1]]


def test_a_folder_gives_what_can_be_read_and_names_the_rest(tmp_path):
    assert annotated.read_folder(tmp_path / "missing") == ({}, [])
    PETS.save(tmp_path)
    (tmp_path / "torn.json").write_text(TEXT[:80])
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "notes.txt").write_text("not ours")
    known, skipped = annotated.read_folder(tmp_path)
    assert list(known) == ["pets"]
    assert [Path(line.partition(":")[0]).name for line in skipped] == ["folder.json", "torn.json"]
    assert all("\n" not in line and line.endswith("make annotate DATA=<name>") for line in skipped)


def test_a_file_under_another_name_counts_as_the_set_that_it_tells(tmp_path):
    (tmp_path / "copy.json").write_text(TEXT)
    assert list(annotated.read_folder(tmp_path)[0]) == ["pets"]
