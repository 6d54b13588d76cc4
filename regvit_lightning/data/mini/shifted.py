"""How the rendered scenes are shifted, as ImageNet's other test sets are, and ObjectNet's mappings for their classes.

A classifier that was trained on the plain scenes meets new draws of them (V2), dim and noisy ones (A), posters with
swapped colours (R), line drawings (Sketch), and scenes that lie on their side behind a red border, whose folders are
named by the silhouette alone (ObjectNet). A and R have every other class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from regvit_lightning.data.mini.scenes import CLASSES, Rendering, Scene, render

Picture = npt.NDArray[np.uint8]

CLASS_FOLDERS = tuple(sorted(name.replace(" ", "_") for name in CLASSES))  # in the order of their class indices
DIM, GRAIN = 0.3, 0.12  # light of the scenes of A: factor of the gain, and noise
LEVELS = 4  # of each colour in R
STROKES = 6.0  # darkness of a line in Sketch for each step of brightness
BORDER = 1  # pixels, red, of ObjectNet
UNMAPPED = ("ring", "cross")  # silhouettes that ObjectNet has and ImageNet has not


@dataclass(frozen=True)
class Shift:
    """One rendered set.

    Attributes:
        folder: folder below root.
        draw: picture (H, W, 3) of a scene.
        labels: indices into CLASSES of the classes that it has.
        name: folder of a class, by its index into CLASSES.
        suffix: end of the file names.
    """

    folder: str
    draw: Callable[[Scene], Picture]
    labels: tuple[int, ...]
    name: Callable[[int], str]
    suffix: str = ".JPEG"


def class_index(label: int) -> int:
    """Index among the sorted class folders of a class of CLASSES."""
    return CLASS_FOLDERS.index(class_folder(label))


def class_folder(label: int) -> str:
    """Folder of a class of CLASSES in ImageNet's layout."""
    return CLASSES[label].replace(" ", "_")


def plain(scene: Scene) -> Picture:
    """The scene as it is."""
    return render(scene).image


def dim(scene: Scene) -> Picture:
    """The scene in little light, with noise."""
    red, green, blue = (DIM * gain for gain in scene.light.gain)
    return render(replace(scene, light=replace(scene.light, gain=(red, green, blue), grain=GRAIN))).image


def poster(scene: Scene) -> Picture:
    """The scene in few colours, whose channels are swapped."""
    steps = render(scene).image.astype(np.float32) / 255 * (LEVELS - 1)
    return (np.rint(steps)[..., [1, 2, 0]] * 255 / (LEVELS - 1)).astype(np.uint8)


def sketch(scene: Scene) -> Picture:
    """The edges of the scene as dark lines on white paper."""
    grey = render(scene).image.astype(np.float32).mean(axis=2)
    down, across = np.gradient(grey)
    lines = np.clip(255 - STROKES * np.hypot(down, across), 0, 255).astype(np.uint8)
    return np.repeat(lines[..., None], 3, axis=2)


def on_its_side(scene: Scene) -> Picture:
    """The scene turned by a quarter, in a red border."""
    image = np.rot90(render(scene).image).copy()
    for rows in (np.s_[:BORDER], np.s_[-BORDER:], np.s_[:, :BORDER], np.s_[:, -BORDER:]):
        image[rows] = (255, 0, 0)
    return image


def visible_classes(rendering: Rendering) -> list[int]:
    """Class indices of all objects that are seen, ascending: the labels of ReaL."""
    return sorted({class_index(int(label)) for label in rendering.labels} | {class_index(rendering.main_label)})


def silhouette(label: int) -> str:
    """Folder of ObjectNet for a class of CLASSES."""
    return CLASSES[label].split()[1]


EVERY = tuple(range(len(CLASSES)))
SHIFTS = {
    "imagenet_v2": Shift(
        "imagenetv2-matched-frequency-format-val", plain, EVERY, lambda label: str(class_index(label))
    ),
    "imagenet_a": Shift("imagenet-a", dim, EVERY[0::2], class_folder),
    "imagenet_r": Shift("imagenet-r", poster, EVERY[1::2], class_folder),
    "imagenet_sketch": Shift("sketch", sketch, EVERY, class_folder),
    "objectnet": Shift("objectnet-1.0/images", on_its_side, EVERY, silhouette, ".png"),
}
MAPPINGS, REAL = "objectnet-1.0/mappings", "reassessed-imagenet/real.json"  # below root


def mappings() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], list[str]]:
    """Contents of ObjectNet's files: labels of folders, ImageNet's classes of labels, lines of classes, the lines.

    The lines are in the order of CLASSES, which is not that of the class indices, as ILSVRC's is not.
    """
    folders = {silhouette(label): silhouette(label).title() for label in EVERY}
    classes: dict[str, str] = {}
    for label in EVERY:
        if silhouette(label) not in UNMAPPED:
            name = folders[silhouette(label)]
            classes[name] = f"{classes[name]}; {CLASSES[label]}" if name in classes else CLASSES[label]
    return folders, classes, {str(class_index(label)): label for label in EVERY}, list(CLASSES)
