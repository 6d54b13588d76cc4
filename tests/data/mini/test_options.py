"""Options of the rendered data set, as data files give them."""

import pytest

from regvit_lightning.data import layout
from regvit_lightning.data.mini.options import MiniSettings
from regvit_lightning.settings import SettingsError


def test_the_shipped_rendered_sets():
    assert layout.resolve("mini").rendering == MiniSettings()
    assert layout.resolve("mini-plain").rendering == MiniSettings(plain=1.0)
    assert layout.resolve("scenes100k").rendering.imagenet_train * 16 == 100_000  # 16 classes
    roots = {layout.resolve(name).root for name in ("mini", "mini-plain", "scenes100k")}
    assert len(roots) == 3


def test_a_set_of_ones_own_gives_its_options(tmp_path):
    file = tmp_path / "half.yaml"
    file.write_text("base: mini\nroot: data/half\nrendering: {plain: 0.5}\n")
    found = layout.resolve(str(file))
    assert (found.name, found.rendered, found.rendering) == ("half", True, MiniSettings(plain=0.5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plane: 0.5", r"unknown key 'rendering.plane'; nearest: .*plain"),
        ("plain: 2", r"rendering.*plain.*must lie in \[0, 1\]"),
        ("coco: 0", r"rendering.*coco.*must lie in \[1, 1e7\]"),
    ],
)
def test_options_that_do_not_exist_or_are_out_of_range(text, message, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(f"base: mini\nrendering: {{{text}}}\n")
    with pytest.raises(SettingsError, match=message):
        layout.resolve(str(file))


def test_sets_from_before_an_option_are_those_without_it():
    assert "plain" not in MiniSettings().described()
    assert MiniSettings(plain=0.5).described() == {**MiniSettings().described(), "plain": 0.5}
