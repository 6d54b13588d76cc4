"""Reading the records of a data set: what cannot be read is named, and a folder and a commit say the same."""

import json
import subprocess

import pytest

from benchmarks.tables import scored_records
from regvit_lightning.errors import UserError
from tests.by_hand import cell, save


@pytest.mark.parametrize(
    ("given", "name"),
    [("mini", "mini"), ("/data/own photos", "own photos"), ("data/tiny/", "tiny"), ("./mini", "mini")],
)
def test_data_are_given_by_name_or_by_folder(given, name):
    assert scored_records.data_name(given) == name


def test_data_are_given_by_a_yaml_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("name: scenes\nroot: /nowhere\n")
    assert scored_records.data_name(str(tmp_path / "mine.yaml")) == "scenes"
    (tmp_path / "mine.yaml").write_text("root: ${oc.env:NOT_SET_ANYWHERE}\n")
    assert scored_records.data_name(str(tmp_path / "mine.yaml")) == "mine"
    with pytest.raises(UserError, match="not readable"):
        scored_records.data_name(str(tmp_path / "gone.yaml"))


def test_files_that_cannot_be_read_are_named_and_the_others_are_there(tmp_path):
    file = save(tmp_path, cell("deit3-vitn_reg4"))
    folder = file.parent
    (folder / "folder.seed0.json").mkdir()
    (folder / "gone.seed0.json").symlink_to("nowhere")
    (folder / "deeper").mkdir()
    (folder / "deeper" / "imagenet_knn.seed0.json").write_bytes(file.read_bytes())
    found = scored_records.read_scored_records(tmp_path, "mini")
    assert [one.file for one in found.cells] == [file]
    words = {
        "folder.seed0.json: not readable": 1,
        "gone.seed0.json: not readable": 1,
        "a record that belongs to mini": 1,
    }
    assert {word: sum(word in line for line in found.skipped) for word in words} == words
    assert all(line.startswith(str(folder)) for line in found.skipped)
    assert len(found.skipped) == 3


def test_what_is_wrong_with_a_record_is_wrong_in_a_commit_too(tmp_path):
    file = save(tmp_path / "results", cell("deit3-vitn_reg4"))
    values = json.loads(file.read_text())
    file.with_name("moved.seed0.json").write_text(json.dumps(values))
    file.with_name("words.seed0.json").write_text(json.dumps({**values, "metrics": {"top1": "best"}}))
    identity = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "results"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    here, there = (scored_records.read_scored_records(tmp_path / "results", "mini", side) for side in ("", "HEAD"))
    assert here.records == there.records
    assert [line.removeprefix(f"{tmp_path}/") for line in here.skipped] == there.skipped
    assert len(there.skipped) == 2
    assert there.skipped[0].startswith("results/mini/cells/deit3-vitn_reg4/moved.seed0.json: a record that belongs to")


def test_where_nothing_is_sound_the_reasons_are_given(tmp_path):
    file = save(tmp_path, cell("deit3-vitn_reg4"))
    file.write_text("[]")
    with pytest.raises(UserError, match=r"no record in .*mini/cells \(.*not a record of schema 4.*\); make some with"):
        scored_records.read_scored_records(tmp_path, "mini")
