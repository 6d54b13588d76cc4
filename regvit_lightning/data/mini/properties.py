"""Properties of the rendered test images with a main object, which the renderer knows exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regvit_lightning.data.mini.options import MiniSettings
from regvit_lightning.data.mini.parts import FOLDER_NAMES, main_scene
from regvit_lightning.data.mini.scenes import CLASSES, CLUTTER, Scene, render

PART = "imagenet val"


@dataclass(frozen=True)
class Known:
    """What the renderer knows of an image.

    Attributes:
        size: share of the image that is the main object, in percent.
        visible: share of the main object, as it would be seen alone, that others do not hide, in percent.
        objects: number of objects with a class.
        clutter: number of pebbles without a class of which anything is seen.
        texture, shape: of the main object.
        wall, ground: their textures; `plain` for a wall without texture.
        brightness: mean grey value, in 0..255.
    """

    size: float
    visible: float
    objects: int
    clutter: int
    texture: str
    shape: str
    wall: str
    ground: str
    brightness: float


NAMED = {  # name, unit and meaning of each
    "size": ("object size", "%", "share of the image that is the main object, from the renderer"),
    "visible": ("object visible", "%", "share of the main object that others do not hide, from the renderer"),
    "objects": ("objects", "", "objects with a class in the image, from the renderer"),
    "clutter": ("clutter (pebbles)", "", "pebbles without a class that are seen, from the renderer"),
    "texture": ("object texture", "", "of the main object, half of its class, from the renderer"),
    "shape": ("object shape", "", "silhouette of the main object, half of its class, from the renderer"),
    "wall": ("wall texture", "", "behind the objects, from the renderer"),
    "ground": ("ground texture", "", "below the objects, from the renderer"),
    "brightness": ("brightness", "grey levels", "mean grey value of the image, from the renderer"),
}


def scene_index(folder: str, file: str) -> int:
    """Index of the scene of a test image `<folder>/<class>_<number>.JPEG`: the classes take turns."""
    number = int(file.partition(".")[0].removeprefix(f"{folder}_"))
    return number * len(CLASSES) + FOLDER_NAMES.index(folder)


def known(settings: MiniSettings, index: int) -> Known:
    """Render scene `index` of the test images, and say what it holds."""
    scene = main_scene(settings, PART, index)
    rendering = render(scene)
    main = rendering.owner == scene.main
    row = int(rendering.instances[main].max(initial=0)) - 1
    return Known(
        size=100.0 * float(main.mean()),
        visible=100.0 * float(rendering.visibility[row]) if row >= 0 else 0.0,
        objects=len(rendering.labels),
        clutter=_clutter_seen(scene, rendering.owner),
        texture=CLASSES[index % len(CLASSES)].split()[0],
        shape=CLASSES[index % len(CLASSES)].split()[1],
        wall="plain" if scene.plain_wall else scene.wall.name,
        ground=scene.ground.name,
        brightness=float(rendering.image.mean()),
    )


def _clutter_seen(scene: Scene, owner: np.ndarray) -> int:
    return sum(thing.label == CLUTTER and bool((owner == place).any()) for place, thing in enumerate(scene.things))
