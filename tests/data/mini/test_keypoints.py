"""Keypoints of rendered objects: where they lie, and that they are the same point of every object of a shape."""

import numpy as np
import pytest

from regvit_lightning.data.mini.keypoints import Annotated, keypoints_of, pair_annotations, places
from regvit_lightning.data.mini.patterns import SHAPES
from regvit_lightning.data.mini.scenes import CLASSES, render, sample_scene


@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "pebble"])
def test_every_shape_has_keypoints_inside(shape):
    chosen = places(shape)
    assert len(chosen) >= 4
    for u, v in chosen.values():
        assert SHAPES[shape].outline(np.float32([u]), np.float32([v]))[0] > 0


@pytest.mark.parametrize("label", range(0, len(CLASSES), 3))
def test_keypoints_are_on_the_object_and_at_its_own_coordinates(label):
    scene = sample_scene(np.random.default_rng(label), 96, 96, label)
    rendering = render(scene)
    annotated = keypoints_of(scene, rendering)
    rows, columns = np.nonzero(rendering.owner == 0)
    assert annotated.points
    thing, camera = scene.things[0], scene.camera
    for name, (x, y) in annotated.points.items():
        assert rendering.owner[int(y), int(x)] == 0
        u, v = places(thing.shape)[name]
        assert x == pytest.approx(
            camera.width / 2 + (thing.x + u * thing.stretch * thing.height) * camera.focal / thing.z, abs=0.01
        )
        assert y == pytest.approx(camera.row(thing.z) - v * thing.height * camera.focal / thing.z, abs=0.01)
    left, top, right, bottom = annotated.box
    assert left - 1 <= columns.min() + 0.5 <= columns.max() + 0.5 <= right + 1
    assert top - 1 <= rows.min() + 0.5 <= rows.max() + 0.5 <= bottom + 1


def test_pairs_hold_what_both_images_show():
    images = {
        "000.jpg": Annotated({"a": (1, 2), "b": (3, 4)}, [0, 0, 9, 9]),
        "001.jpg": Annotated({"b": (5, 6), "c": (7, 8)}, [1, 1, 8, 8]),
        "002.jpg": Annotated({"c": (9, 9)}, [2, 2, 7, 7]),
    }
    pairs = pair_annotations("ring", images)
    assert list(pairs) == ["000-001-ring", "001-000-ring", "001-002-ring", "002-001-ring"]
    first = pairs["000-001-ring"]
    assert (first["src_kps"], first["trg_kps"], first["trg_bndbox"]) == ([(3, 4)], [(5, 6)], [1, 1, 8, 8])
