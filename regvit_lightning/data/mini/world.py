"""Definition of the rendered world: classes and their semantic ids, and the description of one scene.

The world is metric: x to the right of the camera, y up from the ground, z along the optical axis, which is parallel to
the ground (the horizon is moved by shifting the lens, so upright things stay upright). Pixel (row, column) has its
centre at (row + 0.5, column + 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass

from regvit_lightning.data.mini.patterns import GROUNDS, SHAPES, WALLS

CLASSES = (
    "striped ball",
    "dotted ball",
    "plain box",
    "checked box",
    "striped cone",
    "checked cone",
    "plain bottle",
    "dotted bottle",
    "plain star",
    "striped star",
    "dotted ring",
    "checked ring",
    "plain mushroom",
    "dotted mushroom",
    "striped cross",
    "checked cross",
)
CLUTTER = -1  # label of small litter that belongs to no class: its pixels have the semantic id 0

_NAMES = (*GROUNDS, *WALLS, *CLASSES)
SEMANTIC_IDS = {name: 1 + 149 * i // (len(_NAMES) - 1) for i, name in enumerate(_NAMES)}

NEAR, FAR = 0.5, 10.0  # metres: range of all depths
MIN_PIXELS = 16  # an object with fewer visible pixels gets no box

Colour = tuple[float, float, float]  # red, green, blue in [0, 1]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; the principal point is the middle column on the row of the horizon."""

    width: int
    height: int
    focal: float  # pixels
    horizon: float  # row
    eye: float  # metres above the ground

    def row(self, z: float) -> float:
        """Image row where the ground is `z` metres away."""
        return self.horizon + self.focal * self.eye / z

    def distance(self, row: float) -> float:
        """Distance in metres of the ground at a row below the horizon."""
        return self.focal * self.eye / (row - self.horizon)


@dataclass(frozen=True)
class Material:
    """A named texture with its two colours and its placement on the surface."""

    name: str
    colours: tuple[Colour, Colour]
    angle: float  # radians
    scale: float  # ground and wall: 1 is natural size; objects: periods per object height
    phase: tuple[float, float]


@dataclass(frozen=True)
class Thing:
    """An upright object; `label` indexes CLASSES, or is CLUTTER."""

    label: int
    x: float  # metres
    z: float  # metres
    height: float  # metres
    stretch: float  # width relative to the silhouette's own
    material: Material

    @property
    def shape(self) -> str:
        return "pebble" if self.label == CLUTTER else CLASSES[self.label].split()[1]

    @property
    def half_width(self) -> float:
        """Half of the width in metres."""
        return SHAPES[self.shape].half_width * self.stretch * self.height


@dataclass(frozen=True)
class Light:
    """Light direction and camera response."""

    direction: tuple[float, float]  # of the light in x and y; z follows, towards the camera
    gain: Colour
    slope: tuple[float, float]  # relative change of brightness across and down the image
    grain: float  # standard deviation of the sensor noise, image in [0, 1]
    seed: int  # of the grain


@dataclass(frozen=True)
class Scene:
    camera: Camera
    ground: Material
    wall: Material
    wall_z: float  # metres
    things: tuple[Thing, ...]
    main: int | None  # index into things; None: the one with most visible pixels
    light: Light
    plain_wall: bool = False  # the wall has one colour, the mean of those of its texture


def bounds(camera: Camera, thing: Thing) -> tuple[float, float, float, float]:
    """Left, top, right, bottom in pixels, not clipped to the frame."""
    zoom = camera.focal / thing.z
    middle, foot, half = camera.width / 2 + thing.x * zoom, camera.row(thing.z), thing.half_width * zoom
    return middle - half, foot - thing.height * zoom, middle + half, foot
