"""Rendered views of landmarks: what they show against the pixels themselves, and the file in the benchmark's form."""

import pickle

import numpy as np
import pytest
from PIL import Image

from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.mini.landmarks import HEIGHT, QUERY, VIEWS, WIDTH, ground_truth, views
from regvit_lightning.data.retrieval import landmarks


@pytest.fixture(scope="module")
def seen():
    return views(np.random.default_rng(3), 5)


def test_the_object_leaves_the_frame_as_the_camera_moves_on(seen):
    assert list(seen) == [QUERY, *map(str, range(1, VIEWS))]
    assert seen[QUERY].share == 1
    shares = [round(view.share, 2) for name, view in seen.items() if name != QUERY]
    middle = shares.index(max(shares))
    assert shares[:middle] == sorted(shares[:middle])
    assert shares[middle:] == sorted(shares[middle:], reverse=True)
    assert min(shares) < 0.25  # not enough of it in every view
    assert max(shares) == pytest.approx(1, abs=0.05)  # in the middle it is seen as in the query


def test_a_view_to_the_other_side_moves_the_object_to_the_other_side(seen):
    boxes = [view.box for view in seen.values() if view.share > 0.9]
    assert all(view.image.shape == (HEIGHT, WIDTH, 3) for view in seen.values())
    lefts = [box[0] for box in boxes[1:]]
    assert lefts == sorted(lefts, reverse=True)  # the camera moves to the right
    assert all(0 <= box[0] < box[2] <= WIDTH and 0 <= box[1] < box[3] <= HEIGHT for box in boxes)


def test_grades_by_the_share_that_is_seen():
    one = {QUERY: {"share": 1, "box": [1, 2, 3, 4]}}
    one |= {str(n): {"share": share, "box": []} for n, share in enumerate([0.0, 0.1, 0.25, 0.7, 0.75, 1.1])}
    found = ground_truth({"a": one, "b": one})
    assert found["imlist"] == [f"{name}_{n}" for name in "ab" for n in range(6)]
    assert found["qimlist"] == ["a_query", "b_query"]
    assert found["gnd"][0] == {"bbx": [1, 2, 3, 4], "easy": [4, 5], "hard": [2, 3], "junk": [1]}
    assert found["gnd"][1]["easy"] == [10, 11]


def test_the_set_on_disk_is_that_of_the_benchmark(tiny):
    with open(f"{tiny.root}/roxford5k/gnd_roxford5k.pkl", "rb") as file:
        kept = pickle.load(file)  # written by this suite
    assert set(kept) == {"imlist", "qimlist", "gnd"}
    found = landmarks(DataSettings(name="any", root=tiny.root), "roxford5k")
    assert (len(found.queries), len(found.images)) == (2, 18)
    assert Image.open(found.queries[0].file).size == (WIDTH, HEIGHT)
    assert all(len(query.easy) and len(query.hard) for query in found.queries)
    own = found.queries[1]
    assert min([*own.easy, *own.hard, *own.junk]) >= 9  # views of the second landmark alone
