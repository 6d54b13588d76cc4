"""Fingerprints that are stored: nothing is read twice, and whatever could change a model's weights is noticed."""

import json
import os
import shutil
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

import regvit_lightning.models
from benchmarks.grid import fingerprints
from benchmarks.grid.fingerprints import FILE, Fingerprints
from regvit_lightning.errors import UserError
from regvit_lightning.models import EXPORT, sources, vit, weights
from regvit_lightning.models.metadata import Metadata
from tests.benchmarks.grid.test_states import MODEL, known, made, place  # noqa: F401
from tests.benchmarks.test_chain import program

TRAINED = "deit3-vitn_reg2"
METADATA = Metadata("vitn_reg2", "deit3", 64, (0.5,) * 3, (0.2,) * 3, None, 2)


@pytest.mark.parametrize("change", ["length", "time"])
def test_code_that_builds_models_is_noticed_when_it_changes(tmp_path, monkeypatch, change):
    """By its size or by its time alone: an editor or a checkout may keep one of the two."""
    folder = shutil.copytree(Path(*regvit_lightning.models.__path__), tmp_path / "models")
    monkeypatch.setattr(regvit_lightning.models, "__path__", [str(folder)])
    before, file = fingerprints._code.__wrapped__(), folder / "vit.py"
    assert fingerprints._code.__wrapped__() == before
    if change == "length":
        facts = file.stat()
        file.write_text(file.read_text() + "\n")
        os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    else:
        age(file, 5)
    assert fingerprints._code.__wrapped__() != before


@pytest.fixture
def trained(tmp_path):
    """Weights of a model that was trained an hour ago."""
    file = tmp_path / TRAINED / "seed0" / EXPORT
    write(file, 0)
    return file


def write(file, seed):
    torch.manual_seed(seed)
    weights.save(file, vit.build("vitn_reg2", image_size=64), METADATA)
    age(file, 3600)


def age(file, seconds):
    then = time.time() - seconds
    os.utime(file, (then, then))


def looked(runs, model=TRAINED, size=0):
    """Id and fingerprint in a new process, and how often weights were hashed."""
    with mock.patch.object(weights, "fingerprint", wraps=weights.fingerprint) as hashing:
        found = Fingerprints(runs).of(model, 0, size)
    return found, hashing.call_count


@pytest.mark.parametrize(("model", "size"), [(TRAINED, 0), ("file", 0), ("random-vitn_reg4", 64)])
def test_a_second_process_hashes_nothing(trained, tmp_path, model, size):
    model = str(trained) if model == "file" else model
    first, hashed = looked(tmp_path, model, size)
    assert hashed == 1
    assert looked(tmp_path, model, size) == (first, 0)
    backbone = sources.load_backbone(model, tmp_path, image_size=size or 224)
    assert first == (backbone.name, backbone.fingerprint)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [FILE]


def same_size_and_time(file):
    before = file.stat()
    file.rename(file.with_suffix(".old"))  # keeps the inode from being used again
    write(file, 1)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("change", [lambda file: write(file, 1), same_size_and_time])
def test_changed_weights_are_hashed_anew(trained, tmp_path, change):
    first, _ = looked(tmp_path)
    change(trained)
    second, hashed = looked(tmp_path)
    assert hashed == 1
    assert second[1] == weights.fingerprint(load_file(trained)) != first[1]


def test_a_process_that_goes_on_notices_a_change(trained, tmp_path):
    known_ = Fingerprints(tmp_path)
    first = known_.of(TRAINED, 0, 0)
    write(trained, 1)
    assert known_.of(TRAINED, 0, 0) != first


def test_a_file_written_a_moment_ago_is_not_relied_on(trained, tmp_path):
    """Within a tick of its clock a file system does not tell two versions of a file apart."""
    age(trained, 0)
    assert looked(tmp_path)[1] == 1
    assert looked(tmp_path)[1] == 1
    assert not (tmp_path / FILE).exists()


def test_other_code_hashes_anew(trained, tmp_path, monkeypatch):
    looked(tmp_path)
    monkeypatch.setattr(fingerprints, "_code", lambda: "another")
    assert looked(tmp_path)[1] == 1


@pytest.mark.parametrize(
    "text", ["", "[]", '{"deit3-vitn_reg2 0 0": 3}', '{"deit3-vitn_reg2 0 0": [[], 1, 2]}', "\x00"]
)
def test_a_damaged_file_is_made_anew(trained, tmp_path, text):
    (tmp_path / FILE).write_text(text)
    first, hashed = looked(tmp_path)
    assert hashed == 1
    assert looked(tmp_path) == (first, 0)
    assert len(json.loads((tmp_path / FILE).read_text())) == 1


def test_where_nothing_can_be_written_every_process_hashes(trained, tmp_path):
    (tmp_path / FILE).mkdir()
    assert looked(tmp_path)[1] == looked(tmp_path)[1] == 1


def test_a_model_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match="is not trained yet"):
        Fingerprints(tmp_path).of(TRAINED, 0, 0)
    with pytest.raises(UserError, match=r"none\.pth: not readable"):
        Fingerprints(tmp_path).of(str(tmp_path / "none.pth"), 0, 0)


def test_status_of_an_unchanged_tree_hashes_nothing(place):  # noqa: F811
    made(place)
    made(place, "lost_voc07")
    assert known(place)[MODEL, "imagenet_knn"].kind == "done"
    with mock.patch.object(weights, "fingerprint", side_effect=AssertionError("hashed")):
        words = [f"grid={place}/small.yaml", f"runs={place}/runs", f"results={place}/results"]
        assert "2 done" in program("status", *words)


def test_the_code_that_makes_models_is_all_of_it(monkeypatch):
    real, seen = fingerprints._stat, []
    monkeypatch.setattr(fingerprints, "_stat", lambda file: seen.append(file) or real(file))
    fingerprints._code.__wrapped__()
    folder = Path(*regvit_lightning.models.__path__)
    assert folder / "vit.py" in seen
    assert folder / "arms" / "registry.py" in seen
