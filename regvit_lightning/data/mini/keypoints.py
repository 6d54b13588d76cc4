"""Keypoints of rendered objects: points of a silhouette that are the same for every object of its shape, where seen."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from regvit_lightning.data.mini.patterns import SHAPES
from regvit_lightning.data.mini.scenes import Rendering
from regvit_lightning.data.mini.world import Scene, bounds

ACROSS, UP = (-0.8, -0.4, 0.0, 0.4, 0.8), (0.1, 0.3, 0.5, 0.7, 0.9)  # of the half-width, and of the height
INSIDE = 0.04  # of the height: least distance of a keypoint to the outline


class Annotated(NamedTuple):
    """Keypoints and box of an image's main object, in pixels."""

    points: dict[str, tuple[float, float]]
    box: list[float]


def places(shape: str) -> dict[str, tuple[float, float]]:
    """Keypoints of a silhouette by name, in its own coordinates u and v, see `patterns`: those well inside it."""
    own = SHAPES[shape]
    grid = {f"{row}{column}": (u * own.half_width, v) for row, v in enumerate(UP) for column, u in enumerate(ACROSS)}
    return {name: at for name, at in grid.items() if float(own.outline(*np.array(at, np.float32)[:, None])[0]) > INSIDE}


def keypoints_of(scene: Scene, rendering: Rendering) -> Annotated:
    """Keypoints of the main object that are in the frame and not hidden, and its box, cut at the frame."""
    assert scene.main is not None, "a scene with a main object"
    thing = scene.things[scene.main]
    left, top, right, bottom = bounds(scene.camera, thing)
    size, points = bottom - top, {}
    for name, (u, v) in places(thing.shape).items():
        x, y = (left + right) / 2 + u * thing.stretch * size, bottom - v * size
        inside = 0 <= x < scene.camera.width and 0 <= y < scene.camera.height
        if inside and rendering.owner[int(y), int(x)] == scene.main:
            points[name] = (round(x, 2), round(y, 2))
    clipped = np.clip([left, top, right, bottom], 0, [scene.camera.width, scene.camera.height] * 2)
    return Annotated(points, np.round(clipped, 2).tolist())


def pair_annotations(category: str, images: Mapping[str, Annotated]) -> dict[str, dict[str, Any]]:
    """Annotations of all ordered pairs of images of a class by name, as in SPair-71k: keypoints that both show."""
    pairs = {}
    for source, target in permutations(images, 2):
        ours, theirs = images[source], images[target]
        names = [name for name in ours.points if name in theirs.points]
        if names:
            pairs[f"{source.removesuffix('.jpg')}-{target.removesuffix('.jpg')}-{category}"] = {
                "category": category,
                "src_imname": source,
                "trg_imname": target,
                "kps_ids": names,
                "src_kps": [ours.points[name] for name in names],
                "trg_kps": [theirs.points[name] for name in names],
                "src_bndbox": ours.box,
                "trg_bndbox": theirs.box,
            }
    return pairs
