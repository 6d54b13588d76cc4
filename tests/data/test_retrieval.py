"""Sets for retrieval: the benchmark's pickle, JSON of one's own, crops, sizes, and files that do not fit."""

import json
import pickle
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from regvit_lightning.data import digest
from regvit_lightning.data.image_sets import RetrievalSet
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.module import Loading
from regvit_lightning.data.retrieval import Landmarks, Query, RetrievalModule, Views, landmarks, sizes_read
from regvit_lightning.settings import SettingsError

NAMES = ["a", "b", "c", "d"]


def write_images(folder, names=(*NAMES, "q")):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (60, 40)).save(folder / f"{name}.jpg")


def write_revisited(root, **changes):
    """ROxford5k's layout with one query; `changes` replace entries of its grades, as the published file's arrays."""
    write_images(root / "roxford5k" / "jpg")
    one = {"bbx": [5.5, 4.0, 45.0, 30.0], "easy": np.array([2]), "hard": np.array([0]), "junk": np.array([], int)}
    content = {"imlist": NAMES, "qimlist": ["q"], "gnd": [{**one, **changes}]}
    (root / "roxford5k" / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(content, protocol=2))
    return DataSettings(name="any", root=str(root))


def write_own(root, query, images=tuple(f"{name}.jpg" for name in NAMES)):
    write_images(root / "own" / "images")
    content = {"images": list(images), "queries": [{"file": "q.jpg", **query}]}
    (root / "own" / "queries.json").write_text(json.dumps(content))
    return DataSettings(name="own", root=str(root), retrieval={"own": RetrievalSet("own", "images", "queries.json")})


def test_the_benchmarks_own_file(tmp_path):
    found = landmarks(write_revisited(tmp_path), "roxford5k")
    (query,) = found.queries
    assert [file[-5:] for file in found.files] == ["q.jpg", "a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert query.box == (5.5, 4.0, 45.0, 30.0)
    assert (query.easy.tolist(), query.hard.tolist(), query.junk.tolist()) == ([2], [0], [])
    assert len(found) == 5


def test_json_of_ones_own_lists_files(tmp_path):
    data = write_own(tmp_path, {"easy": ["c.jpg", "a.jpg"], "junk": ["d.jpg"]})
    (query,) = landmarks(data, "own").queries
    assert (query.easy.tolist(), query.hard.tolist(), query.junk.tolist()) == ([2, 0], [], [3])
    assert query.box is None


def test_a_pickle_that_would_run_a_program_is_refused(tmp_path):
    data = write_revisited(tmp_path)

    class Harmful:
        def __reduce__(self):
            return subprocess.call, (["touch", str(tmp_path / "ran")],)

    (tmp_path / "roxford5k" / "gnd_roxford5k.pkl").write_bytes(pickle.dumps({"imlist": Harmful()}))
    with pytest.raises(DataError, match=r"gnd_roxford5k.pkl: not a ground truth .*names subprocess.call"):
        landmarks(data, "roxford5k")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"easy": np.array([4])}, "query q.jpg: an image is listed twice, or is none of the 4 images"),
        ({"easy": np.array([0])}, "is listed twice"),
        ({"bbx": [45, 4, 5, 30]}, "is not .left, top, right, bottom."),
        ({"bbx": [1, 2, 3]}, "is not .left, top, right, bottom."),
        ({"hard": "all"}, "expected a file, a box of 4 numbers and lists of images"),
    ],
)
def test_grades_that_do_not_fit(tmp_path, change, told):
    with pytest.raises(DataError, match=told):
        landmarks(write_revisited(tmp_path, **change), "roxford5k")


def test_files_that_do_not_fit(tmp_path):
    data = write_own(tmp_path, {"easy": ["e.jpg"]})
    with pytest.raises(DataError, match=r"queries.json: expected .*not found: 'e.jpg'"):
        landmarks(data, "own")
    data = write_own(tmp_path, {"easy": ["a.jpg"]}, ["a.jpg", "z.jpg"])
    with pytest.raises(DataError, match=r"1 of 3 files are missing: .*z.jpg"):
        landmarks(data, "own")
    (tmp_path / "own" / "queries.json").write_text("[")
    with pytest.raises(DataError, match=r"queries\.json: not readable as JSON"):
        landmarks(data, "own")
    (tmp_path / "own" / "queries.json").unlink()
    with pytest.raises(DataError, match=r"^no file .*queries\.json: expected .*; check the paths in the YAML file"):
        landmarks(data, "own")
    with pytest.raises(DataError, match=r"gnd_rparis6k\.pkl: not readable"):
        landmarks(data, "rparis6k")
    with pytest.raises(
        SettingsError, match="no set for retrieval called 'other': expected one of roxford5k, rparis6k, own"
    ):
        landmarks(data, "other")


def test_a_published_number_of_images_is_checked(tmp_path):
    data = write_revisited(tmp_path)
    data.counts = {"roxford5k": [5063]}
    with pytest.raises(DataError, match="has 5 queries and images, expected 5,063"):
        landmarks(data, "roxford5k")


def test_a_changed_grade_changes_the_digest(tmp_path):
    before = digest.digests(write_revisited(tmp_path), "roxford5k")
    assert set(before) == {"all"}
    assert digest.digests(write_revisited(tmp_path, easy=np.array([3])), "roxford5k") != before


def test_sizes_are_whole_patches_in_nearly_the_same_shape(tmp_path):
    write_images(tmp_path, ["a"])
    empty = np.array([], np.int64)
    wide, slim = (0.0, 0.0, 60.0, 8.0), (0.0, 0.0, 3.0, 40.0)
    queries = [Query(str(tmp_path / "a.jpg"), box, empty, empty, empty) for box in (wide, slim)]
    found = Landmarks(queries, [str(tmp_path / "a.jpg")])
    # 60 × 8 at 30 px is 30 × 4: 4 × 1 patches of 8 px, of which 3 fit; 3 × 40 is 2.25 × 30; 60 × 40 is 30 × 20.
    assert sizes_read(found, 30, 8).tolist() == [[24, 8], [8, 24], [24, 16]]
    assert sizes_read(found, 640, 8).tolist() == [[64, 8], [8, 40], [64, 40]]  # never enlarged, but for rounding


def test_queries_are_cropped_to_their_box(tmp_path):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[8:16, 16:32] = 200
    Image.fromarray(pixels).save(tmp_path / "q.png")
    empty = np.array([], np.int64)
    query = Query(str(tmp_path / "q.png"), (16.0, 8.0, 32.0, 16.0), empty, empty, empty)
    outside = Query(str(tmp_path / "q.png"), (16.0, 8.0, 99.0, 99.0), empty, empty, empty)
    views = Views(Landmarks([query, outside], [str(tmp_path / "q.png")]), np.array([[16, 8], [16, 8], [60, 40]]))
    assert (views[0][0] == 200).all()
    assert views[1][0].shape == (3, 8, 16)  # a box that leaves the image is cut at its edge
    assert (views[2][0].permute(1, 2, 0).numpy() == pixels).all()


@pytest.mark.parametrize("box", [[60, 0, 90, 40], [-9, 3, 0.5, 9], [5.2, 5.2, 5.6, 30], [0, 39.5, 60, 99]])
def test_a_box_of_which_no_pixel_lies_in_its_image_is_refused(tmp_path, box):
    with pytest.raises(
        DataError, match=r"queries\.json: less than a pixel of the box .* lies in .*q\.jpg of 60 × 40 px"
    ):
        landmarks(write_own(tmp_path, {"easy": ["a.jpg"], "box": box}), "own")
    assert len(landmarks(write_own(tmp_path, {"easy": ["a.jpg"], "box": [59, -9, 99, 1]}), "own")) == 5


def test_two_devices_share_the_images(tmp_path):
    data = write_own(tmp_path, {"easy": ["a.jpg"]})
    found, parts = landmarks(data, "own"), []
    for rank in (0, 1):
        images = RetrievalModule(Loading(0, 2), Views(found, np.array([[16, 8]] * 5)), 8)
        module = SimpleNamespace(shares_passes=True)
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        images.trainer = SimpleNamespace(
            world_size=2, num_devices=2, global_rank=rank, lightning_module=module, strategy=strategy
        )
        parts.append([index for batch in images._ordered(images.test[0]).batch_sampler for index in batch])
    assert sorted(parts[0] + parts[1]) == [0, 1, 2, 3, 4]
    assert all(parts)


def test_an_image_that_is_listed_twice_is_refused(tmp_path):
    # The places of the images behind it would be off by one, and another image relevant.
    data = write_own(tmp_path, {"easy": ["a.jpg"]}, ["a.jpg", "b.jpg", "a.jpg", "c.jpg"])
    with pytest.raises(DataError, match=r"queries\.json: image .*a\.jpg is listed twice"):
        landmarks(data, "own")


def test_a_query_finds_itself_only_as_junk(tmp_path):
    images = ["a.jpg", "q.jpg"]
    for grades in ({"easy": ["a.jpg"]}, {"easy": ["a.jpg", "q.jpg"]}):
        with pytest.raises(DataError, match=r"query .*q\.jpg is among the images, where it finds itself"):
            landmarks(write_own(tmp_path, grades, images), "own")
    (query,) = landmarks(write_own(tmp_path, {"easy": ["a.jpg"], "junk": ["q.jpg"]}, images), "own").queries
    assert (query.easy.tolist(), query.junk.tolist()) == ([0], [1])
