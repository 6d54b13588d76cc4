"""`make annotate`: which sets it looks at, what it keeps, when it looks again, and every mistake in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.annotate import __main__ as program
from benchmarks.tables import scored_records
from regvit_lightning.data import annotated, annotating
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.errors import UserError
from tests.benchmarks.test_chain import mistake
from tests.benchmarks.test_chain import program as run
from tests.by_hand import cell, save
from tests.data.test_ade20k import write_pair


def picture(file, seed=0):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(file)


@pytest.fixture
def data(tmp_path):
    """Two classes with an image each, in train and val."""
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            picture(tmp_path / "images" / "imagenet" / split / name / "1.png", seed=len(name) + len(split))
    return DataSettings(name="own", root=str(tmp_path / "images"), get="ask for it")


def written(results):
    return {file.name: json.loads(file.read_text()) for file in (results / "own" / "annotations").glob("*")}


@pytest.fixture
def unseen(monkeypatch):
    """From here on no image may be looked at."""

    def refuse(*_):
        raise AssertionError("looked at")

    return lambda: monkeypatch.setattr(annotating, "annotate", refuse)


def test_only_the_sets_that_are_there_are_looked_at(data, tmp_path):
    results = tmp_path / "results"
    assert program.there(data) == ["imagenet"]
    (line,) = program.annotate(data, results)
    assert line == f"{results}/own/annotations/imagenet.json: 2 images, 2 classes; texture, clutter"
    assert list(written(results)) == ["imagenet.json"]
    for split in ("training", "validation"):
        write_pair(Path(data.root), split, 1)
    assert program.there(data) == ["imagenet", "segmentation"]
    lines = list(program.annotate(data, results))
    assert "fits its images" in lines[0]
    assert "segmentation.json: 1 images, 0 classes; texture, clutter, segments, segment size" in lines[1]


def test_every_kind_of_rendered_set_is_there(tiny):
    found = program.there(tiny)
    assert found[:3] == ["imagenet", "segmentation", "depth"]
    assert {"voc07", "voc12", "coco20k"} == set(found[3:])


def test_chosen_sets_alone_are_looked_at(data, tmp_path):
    for split in ("training", "validation"):
        write_pair(Path(data.root), split, 1)
    list(program.annotate(data, tmp_path / "results", ["segmentation"]))
    assert list(written(tmp_path / "results")) == ["segmentation.json"]


def test_a_file_is_kept_until_its_images_change(data, tmp_path, unseen):
    results = tmp_path / "results"
    list(program.annotate(data, results))
    file = results / "own" / "annotations" / "imagenet.json"
    before = file.read_bytes()
    picture(Path(data.root, "imagenet", "val", "dog", "2.png"))
    (line,) = program.annotate(data, results)
    assert "3 images" in line
    assert len(annotated.parse(file.read_bytes(), "x")) == 3
    Path(data.root, "imagenet", "val", "dog", "2.png").unlink()
    list(program.annotate(data, results))
    assert file.read_bytes() == before
    unseen()
    (line,) = program.annotate(data, results)
    assert "fits its images (FORCE=1 looks again)" in line


def test_training_images_do_not_matter(data, tmp_path, unseen):
    list(program.annotate(data, tmp_path / "results"))
    picture(Path(data.root, "imagenet", "train", "dog", "2.png"))
    unseen()
    (line,) = program.annotate(data, tmp_path / "results")
    assert "fits its images" in line


def test_force_looks_again(data, tmp_path):
    results = tmp_path / "results"
    list(program.annotate(data, results))
    file = results / "own" / "annotations" / "imagenet.json"
    whole = file.read_text()
    file.write_text(whole.replace('"cat"', '"lion"'))
    list(program.annotate(data, results))
    assert '"lion"' in file.read_text()
    list(program.annotate(data, results, force=True))
    assert file.read_text() == whole


def test_a_torn_file_is_made_again(data, tmp_path):
    results = tmp_path / "results"
    list(program.annotate(data, results))
    file = results / "own" / "annotations" / "imagenet.json"
    whole = file.read_text()
    file.write_text(whole[:50])
    list(program.annotate(data, results))
    assert file.read_text() == whole


def test_a_file_of_other_results_is_taken_where_it_fits(data, tmp_path, unseen):
    there, here = tmp_path / "there", tmp_path / "here"
    list(program.annotate(data, there))
    unseen()
    list(program.annotate(data, here, elsewhere=there))
    assert written(here) == written(there)


def test_a_file_of_other_results_is_not_taken_for_other_images(data, tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    list(program.annotate(data, there))
    picture(Path(data.root, "imagenet", "val", "dog", "2.png"))
    list(program.annotate(data, here, elsewhere=there))
    assert len(written(here)["imagenet.json"]["labels"]) == 3
    assert len(written(there)["imagenet.json"]["labels"]) == 2


def test_nothing_to_look_at_is_said(tmp_path):
    with pytest.raises(UserError, match=r"no test images in .* that a task of classes, masks, depth or boxes reads"):
        list(program.annotate(DataSettings(name="own", root=str(tmp_path)), tmp_path / "results"))
    assert not (tmp_path / "results").exists()


def test_the_program_and_who_reads_its_file(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_ROOT", data.root)
    shown = run("annotate", "data=own", "sets=imagenet")
    assert shown == "annotate: results/own/annotations/imagenet.json: 2 images, 2 classes; texture, clutter\n"
    save(Path("results"), cell(data="own", images=2, per_image=[0, 100]))
    assert list(scored_records.read_scored_records(Path("results"), "own").known) == ["imagenet"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data=own", "sets=unicorns"], "unicorns"),
        (["data=own", "sets=segmentation"], "ADEChallengeData2016"),
        (["data=nowhere"], "neither a folder nor a name"),
    ],
)
def test_mistakes_are_one_line(data, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_ROOT", data.root)
    assert said in mistake("annotate", *words)


def test_a_root_that_is_not_there_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "gone"))
    line = mistake("annotate", "data=own")
    assert f"no folder {tmp_path / 'gone'}; " in line
