"""Patterns of the rendered scenes: noise, ground and wall textures, object textures and object silhouettes.

Every pattern is a function of two coordinate arrays that broadcast against each other, float32, and returns float32.
Surface and object textures return the share of the second colour, in [0, 1]. Silhouettes return the distance to the
outline in units of the object's height, positive inside.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]  # float32 throughout
Pattern = Callable[[Array, Array], Array]

TAU = np.float32(2 * np.pi)
TILE = 256  # side of the noise tiles: a power of two, so that wrapping is a bit mask
TEXELS = 8  # texels of the smooth tile per unit of its coordinates: its largest blobs are about one unit wide


@functools.cache
def _tiles() -> tuple[Array, Array]:
    """Two fixed tiles that wrap around: smooth noise and white noise, both in [0, 1]."""
    rng = np.random.default_rng(20230928)
    white = rng.random((TILE, TILE), dtype=np.float32)
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None]) * TILE
    band = np.where((frequency >= 8) & (frequency <= 96), 1 / np.maximum(frequency, 1) ** 1.3, 0)
    smooth = np.fft.irfft2(np.fft.rfft2(white) * band, s=white.shape)
    smooth = np.clip(0.5 + 0.28 * smooth / smooth.std(), 0, 1)
    return smooth.astype(np.float32), white


def noise(x: Array, y: Array) -> Array:
    """Smooth fractal noise in [0, 1], about one blob per unit, bilinear between the texels."""
    tile = _tiles()[0].ravel()
    x, y = np.broadcast_arrays(x * np.float32(TEXELS), y * np.float32(TEXELS))
    left, top = np.floor(x), np.floor(y)
    wx, wy = x - left, y - top
    column, row = left.astype(np.int32) & (TILE - 1), (top.astype(np.int32) & (TILE - 1)) * TILE
    right, below = (column + 1) & (TILE - 1), (row + TILE) & (TILE * TILE - 1)
    upper = tile[row + column] * (1 - wx) + tile[row + right] * wx
    lower = tile[below + column] * (1 - wx) + tile[below + right] * wx
    return upper * (1 - wy) + lower * wy


def cell_value(column: Array, row: Array) -> Array:
    """Fixed random value in [0, 1) for each cell of a grid (coordinates are whole numbers stored as float32)."""
    return _tiles()[1][row.astype(np.int32) & (TILE - 1), column.astype(np.int32) & (TILE - 1)]


def _split(x: Array) -> tuple[Array, Array]:
    whole = np.floor(x)
    return whole, x - whole


def _edge(fraction: Array) -> Array:
    """Distance to the nearer border of a cell, from the position in the cell: [0, 1) -> [0, 0.5]."""
    return 0.5 - np.abs(fraction - 0.5)


def _soft(x: Array) -> Array:
    return np.clip(x, np.float32(0), np.float32(1))


# Ground textures, coordinates in metres on the ground.


def grass(x: Array, y: Array) -> Array:
    return _soft(0.5 + 2.2 * (0.6 * noise(9 * x, 3 * y) + 0.4 * noise(x + 7, y) - 0.5))


def sand(x: Array, y: Array) -> Array:
    return _soft(
        0.5 + 0.3 * np.sin(TAU * (2.2 * y + 1.2 * noise(0.6 * x, 0.6 * y))) + 0.5 * (noise(4 * x, 4 * y) - 0.5)
    )


def tiles(x: Array, y: Array) -> Array:
    (column, fx), (row, fy) = _split(1.7 * x), _split(1.7 * y)
    grout = np.minimum(_edge(fx), _edge(fy)) < 0.04
    return np.where(grout, np.float32(1), 0.7 * cell_value(column, row))


def planks(x: Array, y: Array) -> Array:
    column, fx = _split(3.2 * x)
    row, fy = _split(0.5 * y + cell_value(column, column))
    groove = np.minimum(_edge(fx), 6 * _edge(fy)) < 0.06
    grain = 0.2 + 0.5 * cell_value(column, row) + 0.6 * (noise(9 * x, 0.8 * y) - 0.5)
    return np.where(groove, np.float32(1), _soft(grain))


def gravel(x: Array, y: Array) -> Array:
    (column, fx), (row, fy) = _split(6 * x), _split(6 * y)
    shade = cell_value(column, row)
    radius = np.hypot(fx - 0.4 - 0.2 * shade, fy - 0.4 - 0.2 * cell_value(row, column))
    return _soft((0.47 - radius) * 9) * (0.3 + 0.7 * shade)


def water(x: Array, y: Array) -> Array:
    warp = noise(0.8 * x, 0.8 * y)
    waves = np.sin(TAU * (0.5 * x + 2 * warp)) * np.sin(TAU * (1.3 * y + 1.5 * warp))
    return _soft(1 - 2.2 * np.abs(waves))


# Wall textures, coordinates in metres: to the right, and up from the floor.


def brick(x: Array, y: Array) -> Array:
    row, fy = _split(4.5 * y)
    column, fx = _split(2.0 * x + 0.5 * (row % 2))
    mortar = np.minimum(2.2 * _edge(fx), _edge(fy)) < 0.1
    return np.where(mortar, np.float32(1), 0.55 * cell_value(column, row))


def panels(x: Array, y: Array) -> Array:
    (column, fx), (row, fy) = _split(1.1 * x), _split(0.7 * y)
    edge = np.minimum(_edge(fx), _edge(fy))
    frame = (edge > 0.08) & (edge < 0.13)
    return np.where(frame, np.float32(1), 0.15 + 0.35 * fy + 0.2 * cell_value(column, row))


def hedge(x: Array, y: Array) -> Array:
    (column, fx), (row, fy) = _split(4.5 * x + noise(x, y)), _split(4.5 * y + noise(y, x))
    leaf = _soft(1.4 - 2.6 * np.abs(fx - 0.5) - 1.5 * np.abs(fy - 0.5))
    return _soft(leaf * (0.2 + cell_value(column, row)) * (0.4 + noise(0.7 * x, 0.7 * y)))


def plaster(x: Array, y: Array) -> Array:
    return _soft(0.4 + 0.4 * (noise(0.5 * x, 0.5 * y) - 0.5) + 0.5 * (noise(5 * x, 5 * y) - 0.5))


def curtain(x: Array, y: Array) -> Array:
    return 0.5 + 0.5 * np.sin(TAU * (1.8 * x + 0.8 * noise(0.7 * x, 0.12 * y)))


def lattice(x: Array, y: Array) -> Array:
    (_, first), (_, second) = _split(1.8 * (x + y)), _split(1.8 * (x - y))
    return _soft(7 * (0.2 - np.minimum(_edge(first), _edge(second))))


class Surface(NamedTuple):
    """A texture of the ground or the wall."""

    pattern: Pattern
    frequency: float  # highest relevant cycles per metre: the texture fades out where pixels are coarser than that
    hue: float  # the hue it often (not always) has, in [0, 1)


GROUNDS = {
    "grass": Surface(grass, 3.5, 0.28),
    "sand": Surface(sand, 2.2, 0.12),
    "tiles": Surface(tiles, 1.7, 0.55),
    "planks": Surface(planks, 3.2, 0.07),
    "gravel": Surface(gravel, 6.0, 0.10),
    "water": Surface(water, 1.5, 0.58),
}
WALLS = {
    "brick": Surface(brick, 4.5, 0.03),
    "panels": Surface(panels, 1.5, 0.09),
    "hedge": Surface(hedge, 4.5, 0.33),
    "plaster": Surface(plaster, 2.0, 0.14),
    "curtain": Surface(curtain, 1.8, 0.85),
    "lattice": Surface(lattice, 1.8, 0.60),
}


# Object textures: coordinates in periods of the texture.


def plain(x: Array, y: Array) -> Array:
    """Constant one half, so that the mean colour equals that of the other textures, which show both equally."""
    return np.full(np.broadcast_shapes(x.shape, y.shape), 0.5, np.float32)


def striped(x: Array, y: Array) -> Array:
    return _soft(0.5 + 2.5 * np.sin(TAU * x) + 0 * y)


def dotted(x: Array, y: Array) -> Array:
    row, fy = _split(y)
    fx = _split(x + 0.5 * (row % 2))[1]
    return _soft((0.43 - np.hypot(fx - 0.5, fy - 0.5)) * 12)


def checked(x: Array, y: Array) -> Array:
    return _soft(0.5 + 4 * np.sin(0.5 * TAU * x) * np.sin(0.5 * TAU * y))


TEXTURES: dict[str, Pattern] = {"plain": plain, "striped": striped, "dotted": dotted, "checked": checked}


# Silhouettes: u to the right of the axis, v up from the ground, both in units of the object's height.


def ball(u: Array, v: Array) -> Array:
    return 0.5 - np.hypot(u, v - 0.5)


def box(u: Array, v: Array) -> Array:
    return np.minimum(0.46 - np.abs(u), 0.5 - np.abs(v - 0.5))


def cone(u: Array, v: Array) -> Array:
    return np.minimum(v, 0.91 * (0.46 * (1 - v) - np.abs(u)))


def bottle(u: Array, v: Array) -> Array:
    half_width = 0.1 + 0.18 * _soft((0.78 - v) / 0.22)
    return np.minimum(half_width - np.abs(u), 0.5 - np.abs(v - 0.5))


def star(u: Array, v: Array) -> Array:
    """Five-pointed star: tips at distance 0.55 from a centre at height 0.445, so that two touch the ground."""
    angle = np.abs((np.arctan2(u, v - 0.445) + 0.1 * TAU) % (0.2 * TAU) - 0.1 * TAU)
    radius = np.hypot(u, v - 0.445)
    inner_x, inner_y = 0.25 * np.cos(0.1 * TAU), 0.25 * np.sin(0.1 * TAU)
    length = np.hypot(inner_x - 0.55, inner_y)
    return ((0.55 - radius * np.cos(angle)) * inner_y - radius * np.sin(angle) * (0.55 - inner_x)) / length


def ring(u: Array, v: Array) -> Array:
    return 0.15 - np.abs(np.hypot(u, v - 0.5) - 0.35)


def mushroom(u: Array, v: Array) -> Array:
    stem = np.minimum(0.13 - np.abs(u), 0.3 - np.abs(v - 0.3))
    cap = np.minimum(v - 0.45, 0.5 - np.hypot(u, 0.9 * (v - 0.45)))
    return np.maximum(stem, cap)


def cross(u: Array, v: Array) -> Array:
    upright = np.minimum(0.16 - np.abs(u), 0.5 - np.abs(v - 0.5))
    beam = np.minimum(0.48 - np.abs(u), 0.16 - np.abs(v - 0.56))
    return np.maximum(upright, beam)


def pebble(u: Array, v: Array) -> Array:
    return np.minimum(v, 1 - np.hypot(u, v))


class Shape(NamedTuple):
    """A silhouette that stands on v = 0 and reaches v = 1."""

    outline: Pattern
    half_width: float  # largest |u| inside
    inner: float  # largest distance to the outline: half of the object's thickness


SHAPES = {
    "ball": Shape(ball, 0.5, 0.5),
    "box": Shape(box, 0.46, 0.46),
    "cone": Shape(cone, 0.46, 0.29),
    "bottle": Shape(bottle, 0.28, 0.28),
    "star": Shape(star, 0.53, 0.21),
    "ring": Shape(ring, 0.5, 0.15),
    "mushroom": Shape(mushroom, 0.5, 0.27),
    "cross": Shape(cross, 0.48, 0.16),
    "pebble": Shape(pebble, 1.0, 0.5),
}
