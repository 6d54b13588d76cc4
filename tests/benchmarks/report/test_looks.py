"""Figures of `make look` on the page: the newest first, linked to their files, unreadable ones named."""

import base64
import io
import os

from PIL import Image

from benchmarks.report import looks
from tests.benchmarks.report.pages_by_hand import page, record, saved


def figure(folder, name, age, page=True):
    path = folder / "look" / name
    path.mkdir(parents=True)
    Image.new("RGB", (400, 200), "teal").save(path / "figure.png")
    os.utime(path / "figure.png", (1e9 - age, 1e9 - age))
    if page:
        (path / "index.html").touch()


def test_the_newest_figures_with_their_addresses(tmp_path):
    for age, name in enumerate(["a+b", "c d", "e", "f"]):
        figure(tmp_path, name, age, page=name != "c d")
    shown, skipped = looks.looks(tmp_path, 100)
    assert skipped == []
    assert [one.name for one in shown] == ["a+b", "c d"]
    assert [one.file for one in shown] == [f"look/{name}/figure.png" for name in ("a%2Bb", "c%20d")]
    assert [one.page for one in shown] == ["look/a%2Bb/index.html", ""]
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


def test_the_page_shows_them_above_the_pictures_and_links_to_their_files(tmp_path):
    cells = saved(tmp_path, record())
    read, text = page(cells)
    assert 'id="maps"' not in text
    figure(cells[0].file.parents[2], "a&b", 0)
    read, text = page(cells)
    links = [attributes.get("href") for name, attributes in read.tags if name == "a"]
    assert {"#maps", "look/a%26b/figure.png", "look/a%26b/index.html"} <= set(links)
    assert 'data-filter="a&amp;b"' in text
