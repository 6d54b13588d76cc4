"""Views of rendered objects for retrieval: which view shows how much of a scene's object is known to the pixel.

The camera moves to the side, so that the object leaves the frame step by step; every view has its own exposure and
grain. The share of the object's pixels that is still seen decides whether a view is easy, hard or junk, as the
revisited Oxford and Paris benchmark grades photographs by hand (Radenović et al. 2018, arXiv 1803.11285, section 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from regvit_lightning.data.mini.films import Motion, at
from regvit_lightning.data.mini.scenes import render, sample_scene
from regvit_lightning.data.mini.world import Scene

VIEWS, QUERY = 10, "query"  # views of a landmark, the first of which is the query
WIDTH, HEIGHT = 128, 96  # pixels
FARTHEST = 1.5  # widths of the frame that the last view is moved by, half of them to each side
EASY, HARD = (
    0.75,
    0.25,
)  # least share of the query's pixels of the object; less is junk, nothing at all is another image


@dataclass(frozen=True)
class View:
    """One view of a landmark.

    Attributes:
        image: (HEIGHT, WIDTH, 3).
        share: pixels of the object in this view over those in the query.
        box: left, top, right and bottom of the object in pixels; of all zeros where it is not seen.
    """

    image: npt.NDArray[np.uint8]
    share: float
    box: list[float]


def views(rng: np.random.Generator, label: int) -> dict[str, View]:
    """The views of a scene around an object of a class by name: `query`, then `1`, `2`, …"""
    scene = sample_scene(rng, WIDTH, HEIGHT, label)
    assert scene.main is not None, "a scene with a main object"
    moved = np.linspace(-FARTHEST / 2, FARTHEST / 2, VIEWS - 1) + rng.uniform(-0.03, 0.03, VIEWS - 1)
    metres = WIDTH * scene.things[scene.main].z / scene.camera.focal  # a width of the frame, where the object stands
    taken = {QUERY: _view(scene)} | {
        str(number): _view(_exposed(at(scene, Motion((share * metres, 0.0), 0.0, {}), 1.0, number), rng))
        for number, share in enumerate(moved, 1)
    }
    whole = taken[QUERY].share
    return {name: replace(view, share=view.share / whole) for name, view in taken.items()}


def _exposed(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with another brightness and another fall-off across the image."""
    gain = scene.light.gain
    brightness, slope = rng.uniform(0.7, 1.15), (float(rng.uniform(-0.3, 0.3)), float(rng.uniform(-0.2, 0.2)))
    brighter = (gain[0] * brightness, gain[1] * brightness, gain[2] * brightness)
    return replace(scene, light=replace(scene.light, gain=brighter, slope=slope))


def _view(scene: Scene) -> View:
    """A view whose `share` is still a number of pixels."""
    rendering = render(scene)
    mask = rendering.owner == scene.main
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    ends = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if mask.any() else [0] * 4
    return View(rendering.image, float(mask.sum()), [float(end) for end in ends])


def ground_truth(landmarks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Ground truth in the form of the revisited benchmark's `gnd_<set>.pkl`.

    Args:
        landmarks: `share` and `box` of each view by its name, by name of the landmark.
    """
    images = [f"{name}_{view}" for name, views in landmarks.items() for view in views if view != QUERY]
    index = {image: number for number, image in enumerate(images)}
    queries = []
    for name, seen in landmarks.items():
        shares = {index[f"{name}_{view}"]: one["share"] for view, one in seen.items() if view != QUERY}
        queries.append(
            {
                "bbx": list(seen[QUERY]["box"]),
                "easy": [image for image, share in shares.items() if share >= EASY],
                "hard": [image for image, share in shares.items() if HARD <= share < EASY],
                "junk": [image for image, share in shares.items() if 0 < share < HARD],
            }
        )
    return {"imlist": images, "qimlist": [f"{name}_{QUERY}" for name in landmarks], "gnd": queries}
