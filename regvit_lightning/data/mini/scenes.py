"""Rendered scenes: objects that stand on a textured ground in front of a textured wall, seen by a pinhole camera.

Each scene yields an image, the class of its main object, a semantic map with ids in 1..150, metric depth, boxes and
a caption. The sixteen classes combine eight silhouettes with four textures: each silhouette comes in two textures
and each texture in four silhouettes, and colour, size, position and light are drawn independently of the class, so
that neither shape, texture nor colour alone determines it.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from regvit_lightning.data.mini.captions import caption
from regvit_lightning.data.mini.patterns import GROUNDS, SHAPES, TEXTURES, WALLS, Array, noise
from regvit_lightning.data.mini.world import (
    CLASSES,
    CLUTTER,
    FAR,
    MIN_PIXELS,
    NEAR,
    SEMANTIC_IDS,
    Camera,
    Colour,
    Light,
    Material,
    Scene,
    Thing,
    bounds,
)

__all__ = [
    "CLASSES",
    "CLUTTER",
    "FAR",
    "NEAR",
    "SEMANTIC_IDS",
    "Camera",
    "Light",
    "Material",
    "Rendering",
    "Scene",
    "Thing",
    "render",
    "sample_scene",
]


@dataclass(frozen=True)
class Rendering:
    """Rendered scene: the `n` objects with at least MIN_PIXELS visible pixels are listed, nearest first."""

    image: npt.NDArray[np.uint8]  # (H, W, 3)
    semantic: npt.NDArray[np.uint8]  # (H, W), 0 is unlabelled, else a value of SEMANTIC_IDS
    depth: Array  # (H, W), metres along the optical axis, in [NEAR, FAR]
    instances: npt.NDArray[np.uint8]  # (H, W), 0 is no listed object, k + 1 is row k of the boxes
    boxes: Array  # (n, 4), left, top, right, bottom of the visible part in pixels, the last two exclusive
    labels: npt.NDArray[np.int64]  # (n,), indices into CLASSES
    visibility: Array  # (n,), visible fraction of the object as seen unobstructed inside the frame, in (0, 1]
    truncated: npt.NDArray[np.bool_]  # (n,), whether the object leaves the frame
    main_label: int  # index into CLASSES, -1 without any object
    caption: str
    owner: npt.NDArray[np.int16]  # (H, W), index of the thing of the scene that is seen, clutter included; -1 for none


# ---------------------------------------------------------------------------------------------------- sampling


def sample_scene(
    rng: np.random.Generator, width: int, height: int, main_class: int | None = None, focal: float | None = None
) -> Scene:
    """Draw a random scene.

    With `main_class` (an index into CLASSES), one large, mostly unoccluded object of that class is placed well inside
    the frame, with up to three smaller ones of other classes; without it, two to six objects are placed anywhere.
    `focal` is in pixels; the default is 0.9 to 1.4 times the larger side.
    """
    if focal is None:
        focal = rng.uniform(0.9, 1.4) * max(width, height)
    horizon = rng.uniform(0.12, 0.42) * height
    # The ground at the lower edge of the frame is 0.6 to 5.5 m away, whatever the focal length and aspect ratio.
    eye = float(np.clip(rng.uniform(0.75, 1.6), 0.6 * (height - horizon) / focal, 5.5 * (height - horizon) / focal))
    camera = Camera(width, height, focal, horizon, eye)
    wall_z = rng.uniform(max(3.0, 1.5 * camera.distance(height)), 9.5)
    things = _anywhere(rng, camera, wall_z) if main_class is None else _around_main(rng, camera, wall_z, main_class)
    clutter = [_clutter(rng, camera, wall_z) for _ in range(rng.integers(0, 4))]
    return Scene(
        camera=camera,
        ground=_surface(rng, list(GROUNDS), rng.uniform(-np.pi, np.pi)),
        wall=_surface(rng, list(WALLS), rng.uniform(-0.06, 0.06)),
        wall_z=wall_z,
        things=(*things, *clutter),
        main=None if main_class is None else 0,
        light=_light(rng),
    )


def _around_main(rng: np.random.Generator, camera: Camera, wall_z: float, main_class: int) -> list[Thing]:
    tall = rng.uniform(0.6, 0.76) * camera.height
    highest = max(0.82 * camera.height, camera.row(wall_z - 0.4))
    foot = rng.uniform(min(highest, 0.95 * camera.height), 0.96 * camera.height)
    z = camera.distance(foot)
    main = _thing(rng, main_class, camera, z, tall * z / camera.focal, spread=0.3)
    things = [main]
    others = rng.permutation([label for label in range(len(CLASSES)) if label != main_class])
    for label in others[: max(0, rng.integers(-2, 4))]:
        for _ in range(8):
            z = _random_z(rng, camera, wall_z)
            other = _thing(rng, int(label), camera, z, rng.uniform(0.2, 0.42) * tall * z / camera.focal)
            main_in_view = z > main.z or _overlap(camera, other, main) < 0.1
            if main_in_view and all(_overlap(camera, thing, other) < 0.5 for thing in things):
                things.append(other)
                break
    return things


def _anywhere(rng: np.random.Generator, camera: Camera, wall_z: float) -> list[Thing]:
    things: list[Thing] = []
    for _ in range(rng.integers(2, 7)):
        for _ in range(8):
            z = _random_z(rng, camera, wall_z)
            metres = min(rng.uniform(0.35, 1.2), 0.75 * camera.height * z / camera.focal)
            thing = _thing(rng, int(rng.integers(len(CLASSES))), camera, z, metres)
            if all(_overlap(camera, other, thing) < 0.6 for other in things):
                things.append(thing)
                break
    return things


def _random_z(rng: np.random.Generator, camera: Camera, wall_z: float) -> float:
    """Draw a distance at which the foot of a thing is in the frame, clear of the wall."""
    nearest = max(1.02 * camera.distance(camera.height), NEAR + 0.3)
    return float(np.exp(rng.uniform(np.log(nearest), np.log(wall_z - 0.3))))


def _thing(rng: np.random.Generator, label: int, camera: Camera, z: float, height: float, spread: float = 1.0) -> Thing:
    """Draw a thing of a class at a distance; `spread` is the fraction of the frame's width that it is placed in."""
    stretch = rng.uniform(0.88, 1.12)
    half = SHAPES[CLASSES[label].split()[1]].half_width * stretch * height * camera.focal / z
    column = camera.width / 2 + spread * rng.uniform(-0.5, 0.5) * (camera.width - 0.6 * half)
    material = Material(
        name=CLASSES[label].split()[0],
        colours=_contrasting_colours(rng),
        angle=rng.uniform(-0.35, 0.35),
        scale=rng.uniform(2.8, 4.2),
        phase=(rng.uniform(0, 64), rng.uniform(0, 64)),
    )
    return Thing(label, (column - camera.width / 2) * z / camera.focal, z, height, stretch, material)


def _clutter(rng: np.random.Generator, camera: Camera, wall_z: float) -> Thing:
    z = _random_z(rng, camera, wall_z)
    x = rng.uniform(-0.5, 0.5) * camera.width * z / camera.focal
    material = Material("plain", _contrasting_colours(rng), 0.0, 1.0, (rng.uniform(0, 64), 0.0))
    return Thing(CLUTTER, x, z, rng.uniform(0.02, 0.04) * z, 1.0, material)


def _overlap(camera: Camera, first: Thing, second: Thing) -> float:
    """Fraction of the second thing's bounding box in the image that the first one's covers."""
    boxes = [bounds(camera, thing) for thing in (first, second)]
    width = min(boxes[0][2], boxes[1][2]) - max(boxes[0][0], boxes[1][0])
    height = min(boxes[0][3], boxes[1][3]) - max(boxes[0][1], boxes[1][1])
    area = (boxes[1][2] - boxes[1][0]) * (boxes[1][3] - boxes[1][1])
    return max(width, 0.0) * max(height, 0.0) / area


def _surface(rng: np.random.Generator, names: Sequence[str], angle: float) -> Material:
    """Draw a ground or wall texture; its hue is near the usual one in half of the cases, otherwise arbitrary."""
    name = names[int(rng.integers(len(names)))]
    usual = {**GROUNDS, **WALLS}[name].hue + rng.normal(0, 0.04)
    hue = usual if rng.random() < 0.5 else rng.random()
    saturation, dark = rng.uniform(0.05, 0.5), rng.uniform(0.12, 0.4)
    bright = dark + rng.uniform(0.12, 0.32)
    first = colorsys.hsv_to_rgb(hue % 1, saturation, dark)
    second = colorsys.hsv_to_rgb((hue + rng.normal(0, 0.05)) % 1, saturation * rng.uniform(0.3, 1.0), bright)
    colours = (first, second) if rng.random() < 0.5 else (second, first)
    return Material(name, colours, angle, rng.uniform(0.75, 1.35), (rng.uniform(0, 64), rng.uniform(0, 64)))


def _contrasting_colours(rng: np.random.Generator) -> tuple[Colour, Colour]:
    """Draw two colours, the brighter one first, with enough contrast in brightness to make the texture visible."""
    while True:
        dark, bright = sorted((_random_colour(rng), _random_colour(rng)), key=_brightness)
        if _brightness(bright) - _brightness(dark) > 0.3:
            return bright, dark


def _random_colour(rng: np.random.Generator) -> Colour:
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.2, 1.0), rng.uniform(0.25, 1.0))


def _brightness(colour: Colour) -> float:
    return 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]


def _light(rng: np.random.Generator) -> Light:
    exposure = rng.uniform(0.75, 1.2)
    red, green, blue = exposure * rng.uniform(0.88, 1.12, 3)
    return Light(
        direction=(rng.uniform(-0.7, 0.7), rng.uniform(0.1, 0.7)),
        gain=(red, green, blue),
        slope=(rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4)),
        grain=rng.uniform(0.01, 0.04),
        seed=int(rng.integers(2**31)),
    )


# ---------------------------------------------------------------------------------------------------- rendering


def render(scene: Scene) -> Rendering:
    """Render a scene; the same scene gives the same arrays."""
    canvas = _Canvas(scene)
    for thing in scene.things:
        canvas.shade_ground(thing)
    for index in sorted(range(len(scene.things)), key=lambda i: -scene.things[i].z):
        canvas.paint(index)
    return canvas.finish()


class _Canvas:
    """Arrays that a scene is painted into; `owner` stores the index of the thing at each pixel, or -1."""

    def __init__(self, scene: Scene) -> None:
        self.scene, camera = scene, scene.camera
        shape = (camera.height, camera.width)
        self.rows = np.arange(camera.height, dtype=np.float32)[:, None] + 0.5
        self.columns = np.arange(camera.width, dtype=np.float32)[None] + 0.5
        below = np.maximum(self.rows - camera.horizon, 1e-3)
        self.ground_z = np.minimum(camera.focal * camera.eye / below, scene.wall_z).astype(np.float32)  # (H, 1)
        self.first_ground_row = int(np.sum(self.ground_z >= scene.wall_z))
        self.depth = np.broadcast_to(self.ground_z, shape).copy()
        self.semantic = np.full(shape, SEMANTIC_IDS[scene.wall.name], np.uint8)
        self.semantic[self.first_ground_row :] = SEMANTIC_IDS[scene.ground.name]
        self.owner = np.full(shape, -1, np.int16)
        self.unobstructed = np.zeros(len(scene.things), np.int64)
        self.image = np.concatenate([self._wall(), self._ground()])

    def _ground(self) -> Array:
        """Colours of the ground (rows of the ground, W, 3)."""
        camera, z = self.scene.camera, self.ground_z[self.first_ground_row :]
        x = (self.columns - np.float32(camera.width / 2)) * (z / np.float32(camera.focal))
        return _surface_colour(self.scene.ground, x, z, z**2 / np.float32(camera.focal * camera.eye))

    def _wall(self) -> Array:
        """Colours of the wall (rows of the wall, W, 3)."""
        camera, metres = self.scene.camera, np.float32(self.scene.wall_z / self.scene.camera.focal)
        x = (self.columns - np.float32(camera.width / 2)) * metres
        y = (np.float32(camera.row(self.scene.wall_z)) - self.rows[: self.first_ground_row]) * metres
        if self.scene.plain_wall:
            return _blend(self.scene.wall.colours, np.full(np.broadcast_shapes(x.shape, y.shape), 0.5, np.float32))
        return _surface_colour(self.scene.wall, x, y, np.full_like(y, metres))

    def shade_ground(self, thing: Thing) -> None:
        """Add a soft contact shadow: an ellipse on the ground, elongated away from the light."""
        camera, width = self.scene.camera, 1.3 * thing.half_width
        z = self.ground_z[self.first_ground_row :]
        inside = np.flatnonzero(np.abs(z[:, 0] - thing.z) < 0.7 * width)
        if not len(inside):
            return
        rows = slice(self.first_ground_row + inside[0], self.first_ground_row + inside[-1] + 1)
        z = self.ground_z[rows]
        x = (self.columns - np.float32(camera.width / 2)) * (z / np.float32(camera.focal))
        x = x - np.float32(thing.x - 0.4 * width * self.scene.light.direction[0])
        reach = np.sqrt((x / np.float32(width)) ** 2 + ((z - np.float32(thing.z)) / np.float32(0.7 * width)) ** 2)
        self.image[rows] *= (1 - 0.6 * np.clip(1.25 - 1.25 * reach, 0, 1))[..., None]

    def paint(self, index: int) -> None:
        """Paint one thing where it is nearer than the current depth; its relief bulges towards the camera."""
        thing, camera = self.scene.things[index], self.scene.camera
        left, top, right, bottom = bounds(camera, thing)
        rows = slice(max(int(top) - 1, 0), min(int(bottom) + 2, camera.height))
        columns = slice(max(int(left) - 1, 0), min(int(right) + 2, camera.width))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        size = np.float32(thing.height * camera.focal / thing.z)  # pixels
        u = (self.columns[:, columns] - np.float32((left + right) / 2)) / (size * np.float32(thing.stretch))
        v = (np.float32(bottom) - self.rows[rows]) / size
        shape = SHAPES[thing.shape]
        distance = shape.outline(u, v)
        thickness = np.float32(min(shape.inner * thing.height, thing.z - NEAR))
        relief = thickness * np.sqrt(1 - (1 - np.clip(distance / np.float32(shape.inner), 0, 1)) ** 2)
        depth = np.float32(thing.z) - relief
        nearer = depth < self.depth[rows, columns]
        inside = distance > 0
        visible = inside & nearer
        colour = _thing_colour(thing.material, u, v) * _shading(relief * size / thing.height, self.scene.light)
        opacity = (np.clip(distance * size + 0.5, 0, 1) * nearer)[..., None]
        self.image[rows, columns] += opacity * (colour - self.image[rows, columns])
        self.depth[rows, columns][visible] = depth[visible]
        self.semantic[rows, columns][visible] = 0 if thing.label == CLUTTER else SEMANTIC_IDS[CLASSES[thing.label]]
        self.owner[rows, columns][visible] = index
        self.unobstructed[index] = np.count_nonzero(inside)

    def finish(self) -> Rendering:
        scene = self.scene
        visible = np.bincount(self.owner.ravel() + 1, minlength=len(scene.things) + 1)[1:]
        listed = [i for i, t in enumerate(scene.things) if t.label != CLUTTER and visible[i] >= MIN_PIXELS]
        listed.sort(key=lambda i: scene.things[i].z)
        number = np.zeros(len(scene.things) + 1, np.uint8)
        number[[i + 1 for i in listed]] = np.arange(1, len(listed) + 1)
        main = scene.main if scene.main is not None else max(listed, key=lambda i: visible[i], default=None)
        return Rendering(
            image=_expose(self.image, scene.light),
            semantic=self.semantic,
            depth=self.depth,
            instances=number[self.owner + 1],
            boxes=np.array([_extent(self.owner == i) for i in listed], np.float32).reshape(-1, 4),
            labels=np.array([scene.things[i].label for i in listed], np.int64),
            visibility=np.array([visible[i] / self.unobstructed[i] for i in listed], np.float32),
            truncated=np.array([_leaves_frame(scene.camera, scene.things[i]) for i in listed], np.bool_),
            main_label=-1 if main is None else scene.things[main].label,
            caption=caption(scene, main, listed),
            owner=self.owner,
        )


def _surface_colour(material: Material, x: Array, y: Array, footprint: Array) -> Array:
    """Colours (H, W, 3) of a surface at metric coordinates; `footprint` (H, 1) is metres per pixel in y."""
    surface = GROUNDS.get(material.name) or WALLS[material.name]
    cos, sin = np.float32(material.scale * np.cos(material.angle)), np.float32(material.scale * np.sin(material.angle))
    dx, dy = np.float32(material.phase[0]), np.float32(material.phase[1])
    share = surface.pattern(cos * x - sin * y + dx, sin * x + cos * y + dy)
    # A pattern finer than about two pixels would only alias: fade it into its mean, as a real lens does.
    fade = np.clip(2 - 3 * np.float32(surface.frequency * material.scale) * footprint, 0, 1)
    return _blend(material.colours, 0.5 + (share - 0.5) * fade)


def _thing_colour(material: Material, u: Array, v: Array) -> Array:
    """Colours (h, w, 3) of a thing's texture at object coordinates."""
    cos, sin = np.float32(material.scale * np.cos(material.angle)), np.float32(material.scale * np.sin(material.angle))
    dx, dy = np.float32(material.phase[0]), np.float32(material.phase[1])
    share = TEXTURES[material.name](cos * u - sin * v + dx, sin * u + cos * v + dy)
    wear = 0.85 + 0.3 * noise(4 * u + dx, 4 * v + dy)
    return _blend(material.colours, share) * wear[..., None]


def _blend(colours: tuple[Colour, Colour], share: Array) -> Array:
    first, second = np.array(colours, np.float32)
    return first + share[..., None] * (second - first)


def _shading(relief: Array, light: Light) -> Array:
    """Lambert shading (h, w, 1) of a relief in pixels, plus ambient light."""
    lx, ly = light.direction
    if min(relief.shape) < 2:
        return np.ones((*relief.shape, 1), np.float32)
    down, across = np.gradient(relief)
    lz = np.float32(np.sqrt(max(1 - lx**2 - ly**2, 0.1)))
    facing = (np.float32(ly) * down - np.float32(lx) * across + lz) / np.sqrt(across**2 + down**2 + 1)
    return (0.55 + 0.6 * np.clip(facing, 0, 1))[..., None]


def _expose(image: Array, light: Light) -> npt.NDArray[np.uint8]:
    """Simulate exposure: light fall-off across the image, gain and grain; (H, W, 3) in [0, 1] -> bytes."""
    height, width = image.shape[:2]
    across, down = np.linspace(-0.5, 0.5, width, dtype=np.float32), np.linspace(-0.5, 0.5, height, dtype=np.float32)
    level = 1 + np.float32(light.slope[0]) * across[None] + np.float32(light.slope[1]) * down[:, None]
    grain = np.random.default_rng(light.seed).standard_normal(image.shape, dtype=np.float32)
    exposed = image * level[..., None] * np.array(light.gain, np.float32) + np.float32(light.grain) * grain
    return (np.clip(exposed, 0, 1) * 255 + 0.5).astype(np.uint8)


def _extent(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _leaves_frame(camera: Camera, thing: Thing) -> bool:
    left, top, right, bottom = bounds(camera, thing)
    return left < -1 or top < -1 or right > camera.width + 1 or bottom > camera.height + 1
