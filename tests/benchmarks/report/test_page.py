"""The whole page: what it shows is what the records say, and nothing that they say becomes markup."""

import dataclasses
import json
import math
import re
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks.report import __main__ as report
from benchmarks.report import templates
from benchmarks.tables import scored_records
from benchmarks.tables.published import Protocol, Published
from benchmarks.tables.scored_records import ScoredRecord
from regvit_lightning import settings
from regvit_lightning.errors import UserError
from regvit_lightning.records import ADDED
from tests.benchmarks.report.pages_by_hand import EVIL, Read, artifacts, hostile, hostile_artifacts, page, record, saved

KEPT = Path(__file__).resolve().parents[3] / "results"


def written(folder, **options):
    report.main(report.ReportOptions("mini", results=str(folder / "results"), runs=str(folder / "runs"), **options), [])
    return (folder / "results" / "mini" / "report.html").read_text(encoding="utf-8")


def test_a_page_is_the_same_when_it_is_made_again_and_asks_nobody(tmp_path):
    saved(tmp_path, record("deit3-vitn_reg0"), record(), artifacts())
    text = written(tmp_path)
    assert text == written(tmp_path)
    for name, attributes in Read(text).tags:
        assert name not in ("link", "iframe", "object", "embed", "base", "form")
        assert not {"srcset", "action", "style"} & attributes.keys()
        assert attributes.get("href", "#").startswith(("#", "cells/"))  # pictures beside the page
        assert attributes.get("src", "data:").startswith("data:")
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp|innerHTML|eval\(|\bimport\b", text.partition("<main>")[0])
    script = Read(text).scripts[-1][1]
    assert not re.search(r"fetch\(|XMLHttp|innerHTML|outerHTML|insertAdjacent|eval\(|document\.write", script)


def test_a_page_of_the_kept_results_shows_their_numbers(tmp_path):
    kept = scored_records.read_scored_records(KEPT, "mini")
    text, skipped = report.page(kept, "mini", tmp_path, width=60)
    assert not skipped
    shown = Read(text)
    cells = sorted(kept.cells, key=report.order)
    seeds = defaultdict(list)
    for cell in cells:
        seeds[cell.record.model, cell.record.task].append(cell.record)
    for records in seeds.values():
        for name, facts in records[0].columns.items():
            mean = fmean(record.metrics[name] for record in records)
            assert f"{mean:.{facts['decimals']}f}" in shown.texts
    facts = json.loads(shown.scripts[0][1])
    files = [json.loads(cell.file.read_text(encoding="utf-8")) for cell in cells]
    assert [one["record"] for one in facts] == [{**ADDED.get(file["schema"], {}), **file} for file in files]


@pytest.mark.parametrize("long", [1, 100])
def test_nothing_that_a_record_says_becomes_markup(tmp_path, long):
    evil = (hostile(long), hostile_artifacts(), record(EVIL), artifacts(EVIL))
    cells = [ScoredRecord(one, {}, tmp_path / "x.json") for one in evil]
    read, _ = page(cells, [EVIL], EVIL, tmp_path)
    assert [attributes.get("type") for attributes, _ in read.scripts] == ["application/json", None]
    assert read.scripts[1][1] == (templates.PARTS / "page.js").read_text(encoding="utf-8")
    assert not [name for name, attributes in read.tags for key in attributes if key.startswith("on")]
    assert "img" not in {name for name, _ in read.tags}
    assert read.texts.count(EVIL) > 10
    assert EVIL in {one["record"]["model"] for one in json.loads(read.scripts[0][1])}


def leaves(value, path=()):
    """Where a number, a text or nothing stands in JSON, the first of each list; and every list and mapping, too."""
    yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    elif isinstance(value, list) and value:
        yield from leaves(value[0], (*path, 0))


def with_evil(value, path, evil):
    """A copy of JSON in which `evil` stands at a path."""
    copy = json.loads(json.dumps(value))
    parent = copy
    for name in path[:-1]:
        parent = parent[name]
    parent[path[-1]] = evil
    return copy


@pytest.mark.parametrize("evil", [EVIL, [EVIL], {EVIL: EVIL}], ids=["text", "list", "mapping"])
def test_whatever_stands_anywhere_in_a_file_is_shown_as_text_or_named(tmp_path, evil):
    """Every value of a record in turn: the page shows it as text, or leaves the file out and says so, escaped."""
    whole = dataclasses.asdict(artifacts("deit3-vitn_reg4"))
    whole |= {"intervals": {"outlier_share": [9.0, 11.0]}, "floors": {"chance": {"outlier_share": 1.0}}}
    whole |= {"per_class": {"cat": 1.0}, "settings": {"rule": "cutoff"}, "layout": {"imagenet": "a"}, "data_root": "/d"}
    places = [place for place in leaves(whole) if place]
    files = {}
    for index, place in enumerate(places):
        values = with_evil({**whole, "model": f"deit3-vitn{index}_reg4"}, place, evil)
        files[f"deit3-vitn{index}_reg4/artifact_report.seed0.json"] = json.dumps(values).encode()
    records = scored_records.parse_files(files, "mini", "x", tmp_path)
    text, skipped = report.page(records, "mini", tmp_path)
    read = Read(text)
    assert len(places) > 60
    assert len(records.cells) + len(records.skipped) == len(places)
    assert [attributes.get("type") for attributes, _ in read.scripts] == ["application/json", None]
    assert not [name for name, attributes in read.tags for key in attributes if key.startswith("on")]
    assert "img" not in {name for name, _ in read.tags}
    shown = json.loads(read.scripts[0][1])
    assert len(shown) == len(records.cells) > 10
    assert all(line[: report.LONGEST_WARNING] in read.texts for line in skipped)


def test_files_that_are_no_records_are_named_and_left(tmp_path, capsys):
    (cell,) = saved(tmp_path, record())
    folder = cell.file.parent
    values = json.loads(cell.file.read_text())
    wrong = {
        "torn": '{"model": "de',
        "foreign": '{"hello": 1}',
        "words": json.dumps({**values, "metrics": {"top1": "<b>best</b>"}}),
        "nan": json.dumps({**values, "metrics": {"top1": math.nan}}),
        "huge": json.dumps({**values, "metrics": {"top1": 10**400}}),
        "lists": json.dumps({**values, "settings": []}),
        "columns": json.dumps({**values, "columns": {"top1": {"better": 1}}}),
        "images": json.dumps({**values, "images": EVIL}),
        "intervals": json.dumps({**values, "intervals": {"top1": [EVIL, EVIL]}}),
        "other": json.dumps({**values, "data": "full"}),
        "moved": json.dumps({**values, "seed": 7}),
    }
    for name, text in wrong.items():
        (folder / f"{name}.json").write_text(text)
    text = written(tmp_path)
    printed = capsys.readouterr().out
    for name, content in wrong.items():
        assert f"left out: {folder / name}.json: " in printed
        assert f"{folder / name}.json: " in "".join(Read(text).texts)
        assert (folder / f"{name}.json").read_text() == content
    assert "belongs to" in printed
    assert "11 files are left out" in text
    assert len(json.loads(Read(text).scripts[0][1])) == 1


def test_nothing_to_show_is_told(tmp_path):
    with pytest.raises(UserError, match=r"no record in .*results/mini/cells; make some with: make eval DATA=mini"):
        written(tmp_path)
    with pytest.raises(UserError, match=r"width=0: must lie in \[1, 1e4\]"):
        settings.build(report.ReportOptions, words=["width=0"])


def test_a_full_disk_leaves_the_old_page(tmp_path, monkeypatch):
    saved(tmp_path, record())
    before = written(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"cannot write .*report\.html: No space left on device"):
        written(tmp_path)
    assert (tmp_path / "results/mini/report.html").read_text() == before


def test_what_is_left_out_is_named_on_the_page_too_and_not_at_any_length(tmp_path):
    broken = dataclasses.replace(artifacts(), protocol={**artifacts().protocol, "norms_by_block": {"levels": "many"}})
    read, text = page(saved(tmp_path, broken, record()), ["x" * 9999])
    assert "2 files are left out" in text
    assert "x" * report.LONGEST_WARNING in read.texts
    assert sum("its norms cannot be drawn" in one for one in read.texts) == 1


def test_the_program_sets_published_numbers_beside_its_own(tmp_path, monkeypatch):
    protocol = Protocol("knn", "kNN as published", "top1", task="imagenet_knn", images=10)
    entries = [Published("DeiT", ("deit3-vitn_reg4",), "", protocol, 84.8, None, "arXiv 1")]
    monkeypatch.setattr("benchmarks.tables.published._protocol_here", lambda task: {"version": 1})
    monkeypatch.setattr(report, "read_published", lambda: entries)
    saved(tmp_path, dataclasses.replace(record(), data="full", settings={"version": 1}))
    report.main(report.ReportOptions("full", results=str(tmp_path / "results")), [])
    assert "84.8 [1]" in Read((tmp_path / "results/full/report.html").read_text(encoding="utf-8")).texts
