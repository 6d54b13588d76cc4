"""The scene renderer: geometry in closed form, occlusion in hand-made scenes, and what must not give a class away."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kruskal

from regvit_lightning.data.mini.scenes import (
    CLASSES,
    CLUTTER,
    SEMANTIC_IDS,
    Camera,
    Light,
    Material,
    Scene,
    Thing,
    render,
    sample_scene,
)

CAMERA = Camera(width=120, height=90, focal=100.0, horizon=30.0, eye=1.2)
EMPTY = Scene(
    camera=CAMERA,
    ground=Material("tiles", ((0.1, 0.1, 0.1), (0.9, 0.9, 0.9)), 0.3, 1.0, (0.0, 0.0)),
    wall=Material("brick", ((0.5, 0.2, 0.2), (0.8, 0.8, 0.8)), 0.0, 1.0, (0.0, 0.0)),
    wall_z=6.0,
    things=(),
    main=None,
    light=Light((0.2, 0.4), (1.0, 1.0, 1.0), (0.0, 0.0), 0.01, 5),
)


def thing(name: str, x: float, z: float, height: float) -> Thing:
    material = Material(name.split()[0], ((0.9, 0.1, 0.1), (0.1, 0.1, 0.9)), 0.0, 4.0, (0.0, 0.0))
    return Thing(CLASSES.index(name), x, z, height, 1.0, material)


def main_object(seed: int, side: int = 96, main_class: int | None = None):
    rng = np.random.default_rng([7, seed])
    return render(sample_scene(rng, side, side, seed % len(CLASSES) if main_class is None else main_class))


def test_classes_are_told_by_neither_shape_nor_texture_alone():
    textures, shapes = zip(*(name.split() for name in CLASSES), strict=True)
    assert len(set(CLASSES)) == 16
    assert set(Counter(shapes).values()) == {2}
    assert set(Counter(textures).values()) == {4}


def test_semantic_ids_are_distinct_and_span_the_150_classes():
    ids = list(SEMANTIC_IDS.values())
    assert len(set(ids)) == len(ids) == 28
    assert (min(ids), max(ids)) == (1, 150)


def test_depth_of_the_ground_and_the_wall():
    """Row y sees the ground at z = f h / (y - horizon): the wall, 6 m away, begins 100 * 1.2 / 6 = 20 rows below it."""
    depth = render(EMPTY).depth
    assert depth[:50] == pytest.approx(6.0)
    assert depth[50, 0] == pytest.approx(120 / 20.5)
    assert depth[69, 60] == pytest.approx(120 / 39.5)
    assert depth[89, 119] == pytest.approx(120 / 59.5)


def test_empty_scene_is_ground_and_wall():
    rendering = render(EMPTY)
    assert set(np.unique(rendering.semantic[:50])) == {SEMANTIC_IDS["brick"]}
    assert set(np.unique(rendering.semantic[50:])) == {SEMANTIC_IDS["tiles"]}
    assert rendering.boxes.shape == (0, 4)
    assert rendering.main_label == -1


def test_box_of_one_object_follows_from_the_projection():
    """A cube of 1 m at 4 m is 25 px high and 0.92 * 25 = 23 px wide; its foot is at row 30 + 100 * 1.2 / 4 = 60."""
    rendering = render(replace(EMPTY, things=(thing("plain box", 0.4, 4.0, 1.0),)))
    mask = rendering.semantic == SEMANTIC_IDS["plain box"]
    rows, columns = np.nonzero(mask)
    extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_array_equal(rendering.boxes, [extent])
    np.testing.assert_allclose(rendering.boxes[0], [60 + 10 - 11.5, 35, 60 + 10 + 11.5, 60], atol=1)
    assert rendering.visibility.tolist() == [1.0]
    assert rendering.truncated.tolist() == [False]
    assert "purple plain box on tiles in front of a brick wall" in rendering.caption


def test_relief_swells_towards_the_camera_by_at_most_half_the_width():
    rendering = render(replace(EMPTY, things=(thing("striped ball", 0.0, 4.0, 1.0),)))
    depth = rendering.depth[rendering.instances == 1]
    assert depth.max() <= 4.0
    assert depth.min() == pytest.approx(3.5, abs=0.02)  # a ball of radius 0.5 m


@pytest.mark.parametrize("order", [1, -1])
def test_nearer_object_occludes_farther_in_any_order(order):
    near, far = thing("plain box", 0.0, 2.5, 0.6), thing("checked cross", 0.0, 4.0, 1.6)
    rendering = render(replace(EMPTY, things=(near, far)[::order]))
    alone = render(replace(EMPTY, things=(near,)))
    mask = alone.instances == 1
    assert (rendering.semantic[mask] == SEMANTIC_IDS["plain box"]).all()
    np.testing.assert_array_equal(rendering.depth[mask], alone.depth[mask])
    assert [CLASSES[label] for label in rendering.labels] == ["plain box", "checked cross"]
    hidden = np.count_nonzero(render(replace(EMPTY, things=(far,))).instances[mask])
    full = np.count_nonzero(render(replace(EMPTY, things=(far,))).instances)
    assert rendering.visibility == pytest.approx([1.0, 1 - hidden / full])


def test_object_that_leaves_the_frame_is_truncated_and_its_box_clipped():
    rendering = render(replace(EMPTY, things=(thing("plain box", 2.4, 4.0, 1.0),)))
    assert rendering.truncated.tolist() == [True]
    assert rendering.boxes[0, 2] == CAMERA.width


def test_clutter_is_unlabelled_and_has_no_box():
    litter = replace(thing("plain box", 0.0, 3.0, 0.2), label=CLUTTER)
    rendering = render(replace(EMPTY, things=(litter,)))
    assert (rendering.semantic == 0).sum() > 16
    assert len(rendering.boxes) == 0


def test_one_seed_one_picture():
    first, again, other = main_object(3), main_object(3), main_object(3 + 16)
    for name in ("image", "semantic", "depth", "boxes", "instances"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert first.caption == again.caption
    assert (first.image != other.image).mean() > 0.5


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), width=st.integers(48, 160), height=st.integers(48, 160), any_class=st.booleans())
def test_every_scene_keeps_its_promises(seed, width, height, any_class):
    rendering = render(sample_scene(np.random.default_rng(seed), width, height, None if any_class else seed % 16))
    assert rendering.image.shape == (height, width, 3)
    assert rendering.image.dtype == rendering.semantic.dtype == np.uint8
    assert rendering.depth.dtype == np.float32
    assert 0.5 <= rendering.depth.min() <= rendering.depth.max() <= 10
    assert set(np.unique(rendering.semantic)) <= {0, *SEMANTIC_IDS.values()}
    for row, (box, label) in enumerate(zip(rendering.boxes.astype(int), rendering.labels, strict=True)):
        mask = rendering.instances == row + 1
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert (rendering.semantic[mask] == SEMANTIC_IDS[CLASSES[label]]).all()
        assert 0 < rendering.visibility[row] <= 1


def test_main_object_is_large_and_in_view():
    for seed in range(96):
        rendering = main_object(seed)
        assert rendering.main_label == seed % 16
        main = rendering.labels.tolist().index(seed % 16)
        height = (rendering.boxes[main, 3] - rendering.boxes[main, 1]) / 96
        areas = np.bincount(rendering.instances.ravel(), minlength=len(rendering.labels) + 1)[1:]
        assert rendering.visibility[main] >= 0.6
        assert 0.55 <= height <= 0.8
        assert areas[main] >= 0.8 * areas.max()
        assert CLASSES[rendering.main_label] in rendering.caption


def test_colour_and_size_do_not_give_the_class_away():
    """Kruskal-Wallis over the classes for brightness, each colour channel's share, and the distance."""
    values = [[] for _ in CLASSES]
    for seed in range(384):
        rendering = main_object(seed, side=48)
        mask = rendering.semantic == SEMANTIC_IDS[CLASSES[seed % 16]]
        red, green, blue = rendering.image[mask].mean(0)
        values[seed % 16].append((red + green + blue, red - green, green - blue, rendering.depth[mask].mean()))
    for column in range(4):
        assert kruskal(*([row[column] for row in rows] for rows in values)).pvalue > 1e-3


def test_nearest_neighbours_on_pixels_hardly_know_the_class():
    """Centred pixels, cosine similarity, k = 20: chance is 6 %."""
    pictures = np.stack([main_object(seed, side=32).image for seed in range(1200)]).reshape(1200, -1) / 255.0
    labels = np.arange(1200) % 16
    pictures -= pictures[:960].mean(0)
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
    nearest = np.argpartition(-pictures[960:] @ pictures[:960].T, 20, axis=1)[:, :20]
    guesses = [np.bincount(row, minlength=16).argmax() for row in labels[nearest]]
    assert np.mean(guesses == labels[960:]) < 0.3


def test_rendering_needs_no_torch():
    """Worker processes import these modules afresh, so they must stay light."""
    code = (
        "import sys, regvit_lightning.data.mini.writer; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
