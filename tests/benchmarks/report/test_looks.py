"""Figures of `make look` on the page: the newest first, linked to their files, unreadable ones named."""

import base64
import io
import os

from PIL import Image

from benchmarks.report import looks


def figure(folder, name, age, page=True):
    path = folder / "look" / name
    path.mkdir(parents=True)
    Image.new("RGB", (400, 200), "teal").save(path / "figure.png")
    os.utime(path / "figure.png", (1e9 - age, 1e9 - age))
    if page:
        (path / "index.html").touch()


def test_the_newest_figures_with_their_addresses(tmp_path):
    for age, name in enumerate(["a+b", "c d", "e", "f"]):
        figure(tmp_path, name, age, page=name != "e")
    shown, skipped = looks.looks(tmp_path, 100)
    assert skipped == []
    assert [one.name for one in shown] == ["a+b", "c d", "e"]
    assert [one.file for one in shown] == [f"look/{name}/figure.png" for name in ("a%2Bb", "c%20d", "e")]
    assert [one.page for one in shown] == ["look/a%2Bb/index.html", "look/c%20d/index.html", ""]
    content = base64.b64decode(shown[0].source.partition(",")[2])
    assert Image.open(io.BytesIO(content)).size == (shown[0].width, shown[0].height) == (100, 50)


def test_an_unreadable_figure_is_named_and_none_is_none(tmp_path):
    assert looks.looks(tmp_path, 100) == ([], [])
    figure(tmp_path, "a", 0)
    (tmp_path / "look" / "a" / "figure.png").write_text("no picture")
    shown, skipped = looks.looks(tmp_path, 100)
    assert shown == []
    assert len(skipped) == 1
    assert "unreadable figure" in skipped[0]
