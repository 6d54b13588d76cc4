"""What the renderer tells of its images, against scenes made by hand and images read back from the disk."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regvit_lightning.data.mini import properties
from regvit_lightning.data.mini.options import MiniSettings
from regvit_lightning.data.mini.parts import main_scene
from regvit_lightning.data.mini.scenes import CLASSES, CLUTTER, render, sample_scene
from tests.conftest import TINY

BALL, BOX = CLASSES.index("striped ball"), CLASSES.index("plain box")


def test_every_test_image_is_known_as_it_lies_on_the_disk(tiny):
    """Two images of each class: name of the class and mean grey value are those of the file, but for JPEG's loss."""
    files = sorted(Path(tiny.root, "imagenet", "val").rglob("*.JPEG"))
    assert len(files) == 2 * len(CLASSES)
    found = set()
    for file in files:
        index = properties.scene_index(file.parent.name, file.name)
        found.add(index)
        known = properties.known(TINY, index)
        assert f"{known.texture}_{known.shape}" == file.parent.name
        assert known.brightness == pytest.approx(np.asarray(Image.open(file), float).mean(), abs=0.3)
    assert found == set(range(len(files)))


def test_size_is_what_is_seen_of_the_object_and_visible_is_its_share():
    """Rendered alone, without what hides it: the object's pixels there are those that could be seen."""
    settings, hidden = MiniSettings(imagenet_side=64), 0
    for index in range(24):
        scene, known = main_scene(settings, properties.PART, index), properties.known(settings, index)
        alone = (render(replace(scene, things=scene.things[:1])).owner == 0).mean() * 100
        assert known.size == pytest.approx(alone * known.visible / 100, abs=1e-4)
        assert known.wall == ("plain" if scene.plain_wall else scene.wall.name)
        assert known.ground == scene.ground.name
        hidden += known.visible < 99
    assert 0 < hidden < 24


@pytest.fixture
def of(monkeypatch):
    """What is known of a scene by hand."""
    base = sample_scene(np.random.default_rng(1), 64, 64, main_class=BALL)
    main = base.things[0]

    def known(*things, **more):
        scene = replace(base, things=(main, *things), **more)
        monkeypatch.setattr(properties, "main_scene", lambda settings, part, index: scene)
        return properties.known(MiniSettings(), BALL)

    return known, main


def test_pebbles_count_where_they_are_seen(of):
    known, main = of
    pebble = replace(main, label=CLUTTER, height=0.04 * main.z, z=main.z * 0.8)
    behind = replace(pebble, x=main.x, z=main.z + 0.02)
    beside = [replace(pebble, x=main.x + side * main.half_width * 1.2) for side in (-1, 1)]
    assert known().clutter == 0
    assert known(*beside).clutter == 2
    assert known(*beside, behind).clutter == 2
    assert known(*beside).objects == known().objects == 1  # a pebble has no class


def test_an_object_that_others_hide_has_no_size(of):
    known, main = of
    assert known().visible == pytest.approx(100.0)
    wide = replace(main, label=BOX, height=4 * main.height, stretch=4.0, z=main.z - 0.1)
    covered = known(wide)
    assert (covered.size, covered.visible, covered.objects) == (0.0, 0.0, 1)


def test_a_plain_wall_is_said(of):
    known, _ = of
    assert known(plain_wall=True).wall == "plain"
    assert known(plain_wall=False).wall != "plain"


def test_each_fact_has_a_name_a_unit_and_a_meaning():
    assert list(properties.NAMED) == [one.name for one in fields(properties.Known)]
    assert len({name for name, _, _ in properties.NAMED.values()}) == len(properties.NAMED)
