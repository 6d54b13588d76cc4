"""Captions of scenes: objects and their positions, with colours, sizes and neighbours."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from itertools import cycle

from regvit_lightning.data.mini.patterns import GROUNDS, WALLS
from regvit_lightning.data.mini.world import CLASSES, Colour, Scene, Thing

WHEEL = ("red", "orange", "yellow", "green", "green", "green", "cyan", "blue", "blue", "purple", "purple", "pink")
WALL_WORDS = {"brick": "a brick wall", "panels": "wall panels", "plaster": "a plaster wall"}


def colour_name(colour: Colour) -> str:
    """Common name of a colour."""
    hue, saturation, value = colorsys.rgb_to_hsv(*colour)
    if value < 0.3:
        return "black"
    if saturation < 0.15:
        return "white" if value > 0.8 else "grey"
    if (hue > 0.75 and saturation < 0.6 and value > 0.7) or (hue < 0.06 and saturation < 0.45 and value > 0.7):
        return "pink"
    word = WHEEL[int(hue * 12 + 0.5) % 12]
    return "brown" if word in ("orange", "yellow") and value < 0.6 else word


def templates() -> list[str]:
    """Caption templates of one object with {} for its class: every size and colour word, cycling grounds and walls."""
    colours = sorted({*WHEEL, "black", "white", "grey", "brown"})
    objects = [_article(f"{size}{colour} {{}}") for size in ("", "small ", "large ") for colour in colours]
    places = zip(cycle(GROUNDS), cycle(WALLS), strict=False)
    return [f"{words} {_place(ground, wall)}" for words, (ground, wall) in zip(objects, places, strict=False)]


def caption(scene: Scene, main: int | None, listed: Sequence[int]) -> str:
    """Caption such as 'a small red striped ball on planks in front of a brick wall, left of a blue plain box'."""
    place = _place(scene.ground.name, scene.wall.name)
    if main is None:
        return f"nothing {place}"
    thing = scene.things[main]
    size = "small" if thing.height < 0.45 else "large" if thing.height > 0.9 else ""
    sentence = f"{_article(f'{size} {_describe(thing)}'.strip())} {place}"
    neighbours = [i for i in listed if i != main][:2]
    relations = (f"{_relation(thing, scene.things[i])} {_article(_describe(scene.things[i]))}" for i in neighbours)
    return ", ".join([sentence, *relations])


def _place(ground: str, wall: str) -> str:
    return f"on {ground} in front of {WALL_WORDS.get(wall, _article(wall))}"


def _describe(thing: Thing) -> str:
    first, second = thing.material.colours
    if thing.material.name == "plain":  # shows the mean of its two colours
        first = ((first[0] + second[0]) / 2, (first[1] + second[1]) / 2, (first[2] + second[2]) / 2)
    return f"{colour_name(first)} {CLASSES[thing.label]}"


def _relation(thing: Thing, other: Thing) -> str:
    if abs(other.x - thing.x) < 0.5 * abs(other.z - thing.z):
        return "in front of" if other.z > thing.z else "behind"
    return "left of" if other.x > thing.x else "right of"


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
