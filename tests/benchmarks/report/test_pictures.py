"""Pictures of the page: small, side by side, named where they cannot be read."""

import base64
import dataclasses
import io
import re
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from benchmarks.report import pictures
from benchmarks.tables.scored_records import ScoredRecord
from tests.benchmarks.report.pages_by_hand import EVIL, hostile, page, record, saved


def test_a_picture_becomes_small_and_stays_itself(tmp_path):
    Image.new("RGB", (400, 200), (200, 30, 60)).save(tmp_path / "a.png")
    content, size = pictures.small(tmp_path / "a.png", 100)
    small = Image.open(io.BytesIO(content))
    assert size == small.size == (100, 50)
    assert small.format == "JPEG"  # what a browser prints without unpacking it
    assert np.abs(np.array(small, float) - (200, 30, 60)).max() < 4


def noise(file, size):
    """A picture that no format packs well."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)).save(file)


def test_pictures_become_narrower_until_all_fit(tmp_path):
    cells = saved(tmp_path, *(record(f"deit3-vitn_reg{n}") for n in range(4)))
    for cell in cells:
        noise(cell.file.with_suffix(".png"), (300, 400))
    few, many = (pictures.gallery(cells, 400, budget)[0]["imagenet_knn"]["deit3-vitn"] for budget in (10**9, 100_000))
    assert [one.width for one in few] == [400] * 4
    assert len({one.width for one in many}) == 1
    assert 160 <= many[0].width < 400
    assert sum(len(base64.b64decode(one.source.partition(",")[2])) for one in many) <= 100_000
    assert [one.cell for one in many] == [one.cell for one in few] == [0, 1, 2, 3]


def test_a_picture_links_to_its_file_beside_the_page(tmp_path):
    model = "deit3+a-vitn_reg4"
    (cell,) = saved(tmp_path, record(model))
    Image.new("RGB", (8, 8)).save(cell.file.with_suffix(".png"))
    read, _ = page([cell])
    (link,) = [facts["href"] for name, facts in read.tags if name == "a" and facts.get("class") == "enlarge"]
    assert link == "cells/deit3%2Ba-vitn_reg4/imagenet_knn.seed0.png"
    assert (tmp_path / "results" / "mini" / unquote(link)).is_file()


def test_pictures_of_a_family_stand_side_by_side(tmp_path):
    cells = saved(tmp_path, record("deit3-vitb_reg0"), record("deit3-vitn_reg0"), record("deit3-vitn_reg4"))
    for cell in cells:
        Image.new("RGB", (8, 8)).save(cell.file.with_suffix(".png"))
    _, skipped = pictures.gallery(cells, 100)
    (section,) = re.findall(r'<section class="pictures".*?</section>', page(cells, width=100)[1], re.DOTALL)
    rows = section.split('class="twins"')[1:]
    assert [re.findall(r'data-filter="([^"]*)"', row) for row in rows] == [
        ["deit3-vitb_reg0"],
        ["deit3-vitn_reg0", "deit3-vitn_reg4"],
    ]
    assert not skipped


def _postscript():
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "EPS")  # Pillow would hand it to Ghostscript
    return file.getvalue()


@pytest.mark.parametrize("content", [b"", b"no picture", "torn", _postscript()], ids=["empty", "text", "torn", "eps"])
def test_an_unreadable_picture_is_named(tmp_path, content):
    (cell,) = saved(tmp_path, record())
    file = cell.file.with_suffix(".png")
    if content == "torn":
        Image.effect_noise((64, 64), 90).save(file)
        content = file.read_bytes()[:2000]
    file.write_bytes(content)
    tasks, (line,) = pictures.gallery([cell], 100)
    assert not tasks
    assert line.startswith(f"{file}: unreadable picture")


def test_a_picture_of_a_hostile_record_is_a_picture_and_nothing_else(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    evil = dataclasses.replace(hostile(), model=EVIL, task=EVIL)
    read, _ = page([ScoredRecord(evil, {}, tmp_path / "x.json")])
    (picture,) = [facts for name, facts in read.tags if name == "img"]
    assert picture.keys() == {"src", "alt", "width", "height"}
    assert picture["alt"] == f"{EVIL} of {EVIL}, seed 0"
    assert not [name for name, facts in read.tags for key in facts if key.startswith("on")]
    assert len(read.scripts) == 2


def test_the_first_seed_that_has_a_picture_is_shown_and_tasks_are_in_order(tmp_path):
    found = [record(task=task, seed=seed) for task in ("lost_voc07", "ade20k_linear") for seed in (0, 1, 2)]
    cells = saved(tmp_path, *found)
    for cell in cells:
        if cell.record.seed:
            Image.new("RGB", (8, 8)).save(cell.file.with_suffix(".png"))
    tasks, _ = pictures.gallery(cells, 100)
    assert list(tasks) == ["ade20k_linear", "lost_voc07"]
    assert [[one.text for one in row] for row in tasks["lost_voc07"].values()] == [
        ["lost_voc07 of deit3-vitn_reg4, seed 1"]
    ]
