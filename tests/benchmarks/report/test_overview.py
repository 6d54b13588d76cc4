"""The overview of the page: the same numbers, marks and notes as the tables have."""

import dataclasses
import itertools
import math
import re
import statistics

import numpy as np
import pytest

from benchmarks.tables import columns, formats, scored_records
from benchmarks.tables.formats import Origin, row_name
from benchmarks.tables.published import Protocol, Published
from benchmarks.tables.scored_records import ScoredRecord, ScoredRecords
from tests.benchmarks.report.pages_by_hand import Read, page, record, saved


def in_overview(cells):
    """The table of models and metrics in the page, parsed, and its text."""
    text = re.search(r"<table class=.sortable overview.*?</table>", page(cells)[1], re.DOTALL)[0]
    return Read(text), text


def test_means_spreads_and_changes(tmp_path):
    runs = {("deit3-vitn_reg0", 0): 50.0, ("deit3-vitn_reg4", 0): 53.0, ("deit3-vitn_reg4", 1): 55.0}
    cells = saved(tmp_path, *(record(model, seed=seed, top1=value) for (model, seed), value in runs.items()))
    table = columns.overview(cells)
    ((row, column),) = [where for where in table.scores if where[0].model == "deit3-vitn_reg4"]
    score = table.scores[row, column]
    assert (score.mean, score.deviation) == (54.0, pytest.approx(math.sqrt(2)))
    assert score.change.value == 54.0 - 50.0
    assert [cell.record.seed for cell in score.cells] == [0, 1]
    shown = in_overview(cells)[0].texts
    assert shown[-3:] == ["54.0", "± 1.4", "+4.0"]
    assert "± 1.4" not in shown[:-3]


def test_a_number_from_changed_code_is_marked(tmp_path):
    clean, changed = record("deit3-vitn_reg0"), record("deit3-vitn_reg4")
    changed = dataclasses.replace(changed, provenance={**changed.provenance, "dirty": True})
    cells = saved(tmp_path, clean, changed)
    shown, _ = in_overview(cells)
    marks = [facts.get("class") for name, facts in shown.tags if name == "a" and "data-cells" in facts]
    assert marks == [None, "dirty"]
    assert shown.texts.count("ᵈ") == 1
    assert "ᵈ: measured with uncommitted changes of the code" in page(cells)[0].texts


def test_other_settings_are_another_column(tmp_path):
    other = dataclasses.replace(record("deit3-vitn_reg0"), settings={"k": 20})
    cells = saved(tmp_path, record("deit3-vitn_reg4"), other)
    table = columns.overview(cells)
    assert len(table.columns) == 2
    assert len(table.scores) == 2
    heads = [text for text in in_overview(cells)[0].texts if text.startswith("imagenet_knn")]
    assert sorted(heads) == ["imagenet_knn (k 20)", "imagenet_knn (no k)"]


def test_models_stand_floors_first_then_by_registers(tmp_path):
    names = ["deit3-vitn_reg16", "deit3-vitn_reg4", "random-vitn_reg4", "deit3-vitb_reg0"]
    cells = saved(tmp_path, *map(record, names))
    floor = dataclasses.replace(record("deit3-vitn_reg8"), floors={"chance": {"top1": 6.25}})
    order = ["random-vitn_reg4", "deit3-vitb_reg0", "deit3-vitn_reg4", "deit3-vitn_reg16"]
    kept = scored_records.read_scored_records(tmp_path / "results", "mini")
    assert [row.model for row in columns.overview(kept.cells).rows] == order
    listed = page(cells)[1].partition('id="record-list"')[2].partition("</table>")[0]
    assert re.findall(r'data-cells="\d+">([^<]*)<', listed) == order
    assert len(cells) == 4
    rows = columns.overview(saved(tmp_path, floor)).rows
    assert [row_name(row) for row in rows] == ["chance (floor)", "deit3-vitn_reg8"]


def test_the_page_says_of_a_number_what_the_tables_say(tmp_path):
    """Its change with the interval, bold and marks: all from the one overview."""
    per_image = {0: [100.0, 0.0] * 100, 4: [100.0] * 150 + [0.0] * 50}
    cells = []
    for registers, seed in itertools.product(per_image, (0, 1)):
        model, scores = f"deit3-vitn_reg{registers}", per_image[registers]
        facts = {"provenance": {**record().provenance, "dirty": registers == 4}}
        one = dataclasses.replace(record(model, seed=seed, top1=statistics.fmean(scores)), **facts)
        cells.append(ScoredRecord(one, {"top1": np.array(scores)}, one.save(tmp_path)))
    table = columns.overview(cells)
    origin = Origin("mini", ScoredRecords("results", cells, []), "make tables")
    in_markdown = formats.markdown(table, origin).splitlines()
    (line,) = [one for one in in_markdown if one.startswith("| deit3-vitn_reg4")]
    ((change, low, high),) = re.findall(r"\*\*75\.0 ± 0\.0\*\*ᵈ \((\S+) \[(\S+), (\S+)\] ▲\)", line)
    shown, text = in_overview(cells)
    assert shown.texts[-6:] == ["75.0", "ᵈ", "± 0.0", change, f"[{low}, {high}]", "▲"]
    assert text.count('class="number best"') == 1
    notes = [
        one.removeprefix("- ") for one in in_markdown if one.startswith(("- (in brackets)", "- bold", "- ᵈ", "- ▲"))
    ]
    assert len(notes) == 4
    assert set(notes) <= set(page(cells)[0].texts)
    assert set(table.footnotes) <= set(page(cells)[0].texts)


def test_a_published_number_stands_below_the_one_that_it_is_beside_in_the_tables(tmp_path, monkeypatch):
    protocol = Protocol("knn", "kNN <as> published", "top1", task="imagenet_knn", images=10)
    entries = [
        Published("another", (), "", protocol, 10.0, None, "arXiv 0"),
        Published("DeiT", ("deit3-vitn_reg4",), "", protocol, 84.8, None, "arXiv 1"),
    ]
    monkeypatch.setattr("benchmarks.tables.published._protocol_here", lambda task: {"version": 1})
    one = dataclasses.replace(record(), data="full", settings={"version": 1})
    shown, _ = page(saved(tmp_path, one), entries=entries)
    assert "84.8 [1]" in shown.texts
    assert "[1] arXiv 1: kNN <as> published" in shown.texts


def test_a_row_copies_the_commands_of_its_own_model_alone(tmp_path):
    found = [record("deit3-vitn_reg0"), record("deit3-vitn_reg0", seed=1), record("deit3-vitn_reg4")]
    cells = saved(tmp_path, *(dataclasses.replace(one, floors={"chance": {"top1": 6.25}}) for one in found))
    shown, _ = in_overview(cells)
    copied = [facts["data-copy"] for name, facts in shown.tags if "data-copy" in facts]
    assert [text.count("\n") + 1 for text in copied] == [2, 1]  # none for chance
    assert all("MODEL=deit3-vitn_reg0 " in line for line in copied[0].splitlines())
    values = [facts["data-value"] for name, facts in shown.tags if name == "td" and "data-value" in facts]
    assert values == ["6.25", "50.0", "50.0"]


def test_a_model_that_is_not_above_its_floors_is_marked(tmp_path):
    """By more than noise: 30 [25, 35] is above chance of 20, 22 [17, 27] is not; nor is 19 without an interval."""
    values = {
        "deit3-vitn_reg0": (30.0, [25.0, 35.0]),
        "deit3-vitn_reg4": (22.0, [17.0, 27.0]),
        "a-vitn_reg0": (19.0, None),
    }
    found = []
    for model, (value, interval) in values.items():
        one = dataclasses.replace(record(model, top1=value), floors={"chance": {"top1": 20.0}})
        found.append(dataclasses.replace(one, intervals={"top1": interval} if interval else {}))
    cells = saved(tmp_path, *found)
    below = {row.model for (row, _), score in columns.overview(cells).scores.items() if score.shortfall}
    assert below == {"deit3-vitn_reg4", "a-vitn_reg0"}
    shown, _ = in_overview(cells)
    assert sum("†" in text for text in shown.texts) == 2
    assert sum(text.startswith("†: does not beat every floor") for text in page(cells)[0].texts) == 1
    assert not any(text.startswith("†:") for text in page(saved(tmp_path, found[0]))[0].texts)


def test_the_summary_stands_first_and_follows_the_filter(tmp_path):
    cells = saved(tmp_path, record("deit3-vitn_reg0", top1=50.0), record("deit3-vitn_reg4", top1=53.0))
    shown, text = page(cells)
    assert text.index('id="summary"') < text.index('id="results"')
    (row,) = re.findall(r'<table class="answers".*?<tr data-filter="([^"]*)" data-task="([^"]*)"', text, re.DOTALL)
    assert row == ("deit3-vitn_reg0 deit3-vitn_reg4", "imagenet_knn")
    assert "One seed cannot tell whether registers help: unclear in 1 of 1 comparison." in shown.texts
