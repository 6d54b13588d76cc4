"""Rendered films: masks against the geometry of the scene, and a world that stands still while the camera moves."""

import dataclasses

import numpy as np
import pytest

from regvit_lightning.data.mini import films
from regvit_lightning.data.mini.films import FRAMES, HEIGHT, WIDTH, Motion, at, film
from regvit_lightning.data.mini.scenes import render, sample_scene
from regvit_lightning.data.mini.world import FAR, NEAR, bounds


def scene_of(seed, **changes):
    scene = sample_scene(np.random.default_rng(seed), WIDTH, HEIGHT)
    light = dataclasses.replace(scene.light, grain=0.0, slope=(0.0, 0.0))
    return dataclasses.replace(scene, light=light, **changes)


def test_the_same_seed_gives_the_same_film_and_another_one_another():
    first, again, other = ([*film(np.random.default_rng(seed), 2)] for seed in (3, 3, 4))
    assert all((a == b).all() for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True))
    assert (first[1][0] != other[1][0]).any()


@pytest.mark.parametrize("seed", range(6))
def test_masks_are_the_objects_that_are_seen(seed):
    rng = np.random.default_rng(seed)
    scene, moving = films._scene(rng)
    motion = films._motion(rng, scene, moving)
    shown = list(film(np.random.default_rng(seed)))
    assert len(shown) == FRAMES
    first_ids = np.unique(shown[0][1]).tolist()
    assert first_ids == [0, *range(1, len(moving) + 1)]
    for number, (image, mask) in enumerate(shown):
        now = at(scene, motion, number / (FRAMES - 1), number)
        assert image.shape == (HEIGHT, WIDTH, 3)
        assert (image == render(now).image).all()
        assert render(now).depth.min() >= NEAR - 1e-6
        assert render(now).depth.max() <= FAR
        for own, index in enumerate(moving, 1):
            rows, columns = np.nonzero(mask == own)
            left, top, right, bottom = bounds(now.camera, now.things[index])
            if len(rows):
                assert columns.min() + 0.5 >= left - 1
                assert columns.max() + 0.5 <= right + 1
                assert rows.min() + 0.5 >= top - 1
                assert rows.max() + 0.5 <= bottom + 1


@pytest.mark.parametrize("seed", range(6))
def test_objects_move_and_most_stay_in_view(seed):
    masks = np.stack([mask for _, mask in film(np.random.default_rng(seed))])
    assert (masks[0] != masks[-1]).mean() > 0.005
    seen = [(masks[-1] == own).any() for own in range(1, masks[0].max() + 1)]
    assert np.mean(seen) >= 0.5


def test_the_wall_moves_by_whole_pixels_where_the_camera_does():
    scene = scene_of(1, things=())
    pixels, rows = 7, slice(0, 20)  # the wall alone
    motion = Motion((pixels * scene.wall_z / scene.camera.focal, 0.0), 0.0, {})
    before, after = (render(at(scene, motion, time, 0)).image[rows].astype(int) for time in (0, 1))
    assert np.abs(after[:, :-pixels] - before[:, pixels:]).max() <= 1
    assert np.abs(after - before).max() > 5


def test_the_ground_moves_towards_a_camera_that_goes_forward():
    scene = scene_of(2, things=())
    camera = dataclasses.replace(scene.camera, focal=200.0, horizon=20.0, eye=1.0)
    scene = dataclasses.replace(scene, camera=camera, wall_z=9.0)
    near, far = 2.0, 2.5
    rows = [int(camera.row(z)) for z in (far, near)]  # 100 and 120: z is that of the middle of a row to a percent
    middle = WIDTH // 2
    motion = Motion((0.0, camera.distance(rows[0] + 0.5) - camera.distance(rows[1] + 0.5)), 0.0, {})
    before, after = (render(at(scene, motion, time, 0)).image.astype(int) for time in (0, 1))
    assert np.abs(after[rows[1], middle] - before[rows[0], middle]).max() <= 12
    assert after.shape == before.shape


def test_a_thing_that_stands_still_moves_as_its_distance_demands():
    scene = scene_of(5)
    motion = Motion((0.4, 0.3), 0.0, {})
    thing, moved = scene.things[0], at(scene, motion, 0.5, 0).things[0]
    focal = scene.camera.focal
    left, _, right, _ = bounds(scene.camera, moved)
    assert (left + right) / 2 == pytest.approx(WIDTH / 2 + focal * (thing.x - 0.2) / (thing.z - 0.15))
    assert right - left == pytest.approx(2 * focal * thing.half_width / (thing.z - 0.15))


def test_an_object_moves_by_its_own_path_less_that_of_the_camera():
    scene = scene_of(5)
    moved = at(scene, Motion((0.4, 0.3), 0.0, {0: (1.0, 0.1)}), 1.0, 0).things
    assert (moved[0].x - scene.things[0].x, moved[0].z - scene.things[0].z) == pytest.approx((0.6, -0.2))
    assert (moved[1].x - scene.things[1].x, moved[1].z - scene.things[1].z) == pytest.approx((-0.4, -0.3))


def test_the_pose_of_a_scan_brings_the_ground_of_every_frame_to_one_plane():
    heights = []
    for rendering, pose, camera in films.scan(np.random.default_rng(2), 3):
        row, columns = HEIGHT - 1, np.flatnonzero(rendering.owner[-1] < 0)
        pixels = np.stack([columns + 0.5, np.full(len(columns), row + 0.5), np.ones(len(columns))])
        world = pose[:3, :3] @ np.linalg.inv(camera) @ (pixels * rendering.depth[row, columns]) + pose[:3, 3:]
        heights.append(world[1])
    assert all(len(one) for one in heights)
    assert np.ptp(np.concatenate(heights)) < 1e-3
