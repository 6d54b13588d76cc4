"""Rendered films: a moving camera passes a scene in which some objects move; every frame has an exact mask.

A film is a sequence of scenes of `world.py`: the world is shifted against the camera, textures included, so that all
that stands still in the world moves in the image as its distance demands.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from regvit_lightning.data.mini.patterns import Array
from regvit_lightning.data.mini.scenes import Rendering, render, sample_scene
from regvit_lightning.data.mini.world import CLUTTER, FAR, NEAR, Material, Scene, Thing

FRAMES, SCAN_FRAMES = 12, 9
WIDTH, HEIGHT = 192, 128  # pixels
MOST_OBJECTS = 3
LEAST_SHARE = 0.012  # of the pixels of the first frame: smaller objects are not followed


@dataclass(frozen=True)
class Motion:
    """Motion over a whole film, in metres: linear, but for the camera's bobbing up and down.

    Attributes:
        camera: of the camera, to the right and forward.
        bob: height of the camera's path above and below its mean.
        objects: of each thing that moves, to the right and away from the wall, by its index among the things.
    """

    camera: tuple[float, float]
    bob: float
    objects: dict[int, tuple[float, float]]


def film(
    rng: np.random.Generator, frames: int = FRAMES
) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
    """Frames (H, W, 3) of a film with their masks (H, W): 0, or the id 1, 2, … of the object that is seen.

    The objects that have an id are those that move; each covers `LEAST_SHARE` of the first frame. Ids follow their
    distance in the first frame, the nearest first.
    """
    scene, moving = _scene(rng)
    motion = _motion(rng, scene, moving)
    ids = np.zeros(len(scene.things) + 1, np.uint8)
    ids[[index + 1 for index in moving]] = np.arange(1, len(moving) + 1)
    for number in range(frames):
        rendering = render(at(scene, motion, number / max(frames - 1, 1), number))
        yield rendering.image, ids[rendering.owner + 1]


def scan(rng: np.random.Generator, frames: int = SCAN_FRAMES) -> Iterator[tuple[Rendering, Array, Array]]:
    """Frames of a camera that passes a scene in which nothing moves, with its pose (4, 4) and its matrix (3, 3).

    The pose is from the camera, whose axes are x right, y down and z forward, to the world, in metres.
    """
    scene, moving = _scene(rng)
    motion = replace(_motion(rng, scene, moving), objects={})
    focal, middle = scene.camera.focal, (scene.camera.width / 2, scene.camera.horizon)
    matrix = np.array([[focal, 0, middle[0]], [0, focal, middle[1]], [0, 0, 1]])
    for number in range(frames):
        time = number / max(frames - 1, 1)
        now, pose = at(scene, motion, time, number), np.eye(4)
        pose[:3, 3] = time * motion.camera[0], scene.camera.eye - now.camera.eye, time * motion.camera[1]
        yield render(now), pose, matrix


def _scene(rng: np.random.Generator) -> tuple[Scene, list[int]]:
    """A scene with at least one object to follow, and the indices of those among its things."""
    while True:
        scene = sample_scene(rng, WIDTH, HEIGHT)
        owner = render(scene).owner
        shares = np.bincount(owner.ravel() + 1, minlength=len(scene.things) + 1)[1:] / owner.size
        large = [i for i, thing in enumerate(scene.things) if thing.label != CLUTTER and shares[i] >= LEAST_SHARE]
        if large:
            return scene, sorted(large, key=lambda index: scene.things[index].z)[:MOST_OBJECTS]


def _motion(rng: np.random.Generator, scene: Scene, moving: list[int]) -> Motion:
    """A motion that keeps every followed object in the frame and all depths in range."""
    nearest = min(thing.z for thing in scene.things)
    pixel = 1 / scene.camera.focal  # metres a pixel, a metre away
    forward = rng.uniform(-0.05, 0.12) * (nearest - NEAR)
    camera = rng.uniform(-22, 22) * pixel * scene.things[moving[0]].z, max(forward, scene.wall_z - 0.99 * FAR)
    objects = {}
    for index in moving:
        thing = scene.things[index]
        across = rng.choice([-1, 1]) * rng.uniform(12, 40) * pixel * thing.z
        away = rng.uniform(-0.08, 0.08) * (thing.z - NEAR)
        paths = [(across, away), (-across, away), (camera[0], camera[1])]
        objects[index] = next((path for path in paths if _stays(scene, thing, path, camera)), paths[-1])
    return Motion(camera, rng.uniform(0.0, 0.03) * scene.camera.eye, objects)


def _stays(scene: Scene, thing: Thing, path: tuple[float, float], camera: tuple[float, float]) -> bool:
    """Whether the middle of a thing is well inside the frame at the end of the film, and in front of the wall."""
    x, z = thing.x + path[0] - camera[0], thing.z + path[1] - camera[1]
    column = scene.camera.width / 2 + x * scene.camera.focal / z if z > NEAR else -1.0
    return 0.08 * scene.camera.width < column < 0.92 * scene.camera.width and thing.z + path[1] < scene.wall_z - 0.3


def at(scene: Scene, motion: Motion, time: float, number: int) -> Scene:
    """The scene at a time in 0..1 of the film, in the frame `number`, whose grain is its own."""
    right, forward = (time * part for part in motion.camera)
    eye = scene.camera.eye + motion.bob * math.sin(2 * math.pi * time)
    return replace(
        scene,
        camera=replace(scene.camera, eye=eye),
        ground=_shifted(scene.ground, right, forward),
        wall=_shifted(scene.wall, right, 0.0),
        wall_z=scene.wall_z - forward,
        things=tuple(_moved(scene, motion, index, time) for index in range(len(scene.things))),
        light=replace(scene.light, seed=scene.light.seed + number),
    )


def _moved(scene: Scene, motion: Motion, index: int, time: float) -> Thing:
    thing, own = scene.things[index], motion.objects.get(index, (0.0, 0.0))
    x, z = (time * (mine - cameras) for mine, cameras in zip(own, motion.camera, strict=True))
    return replace(thing, x=thing.x + x, z=thing.z + z)


def _shifted(material: Material, right: float, away: float) -> Material:
    """The surface as seen from a camera that has moved: its texture is evaluated at coordinates that are larger."""
    cos, sin = material.scale * math.cos(material.angle), material.scale * math.sin(material.angle)
    phase = material.phase[0] + cos * right - sin * away, material.phase[1] + sin * right + cos * away
    return replace(material, phase=phase)
