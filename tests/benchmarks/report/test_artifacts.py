"""The three questions and the charts of sinks and locality on the page, from reports made by hand."""

import dataclasses

import pytest

from benchmarks.report import artifacts as section
from benchmarks.report import norms
from tests.benchmarks.report.pages_by_hand import artifacts, numbered, page, paths, saved

ASKED = [
    {"question": "?", "answer": "no", "words": "No norm is high.", "effect": {"max_over_median": 2.0}},
    {"question": "?", "answer": "broadcast", "words": "Sinks: broadcast 1.50.", "effect": {"broadcast_sinks": 1.5}},
    {"question": "?", "answer": "yes", "words": "Patches are local.", "effect": {"patch_share": 0.75}},
]
FACTS = {
    "questions": ASKED,
    "sinks": {"images": 8, "by_block": {"events": [0.0, 1.0, 2.0], "NOP": [0.0] * 3, "broadcast": [0.0, 0.5, 1.0]}},
    "locality_by_block": {
        "mean_cosine": [0.2, 0.4, 0.6, 0.8],
        "cls_cosine": None,
        "variance": {"patch": [0.9, 0.8, 0.7, 0.6], "image": [0.1] * 4, "position": [0.0, 0.1, 0.2, 0.3]},
    },
    "singular_defects": {"cosine_of_others": [0.1] * 3, "cosine_of_high_norms": [None, None, 0.9]},
}


def asked(model="deit3-vitn_reg4", **more):
    made = artifacts(model)
    return dataclasses.replace(made, protocol={**made.protocol, **FACTS, **more})


def test_answers_stand_in_the_overview_and_open_their_records(tmp_path):
    cells = saved(tmp_path, asked(), asked("deit3-vitn_reg0"), artifacts("openclip-vitn_reg0"))
    found = section.asked(cells, numbered(cells))
    assert [(name, records) for name, _, records, _ in found.rows] == [
        ("deit3-vitn_reg0", "1"),
        ("deit3-vitn_reg4", "0"),
    ]
    assert [answer for answer, *_ in found.rows[0][3]] == ["no", "broadcast", "yes"]
    shown, text = page(cells)
    assert "Artifacts: three questions" in shown.texts
    titles = [attributes.get("title") for name, attributes in shown.tags if name == "a"]
    assert titles.count("Sinks: broadcast 1.50.") == 2
    assert text.index('id="questions"') < text.index('id="results"')
    assert section.asked(saved(tmp_path / "old", artifacts()), {}) is None


def test_lines_are_at_their_values_by_block(tmp_path):
    cells = saved(tmp_path, asked())
    (((panel,),)) = section.panels(cells, numbered(cells))
    assert panel.words == "Sinks: broadcast 1.50. Patches are local."
    sinks, variance, cosines = panel.charts
    assert [key.name for key in sinks[3]] == ["all 3.00", "NOP 0", "broadcast 1.50"]
    every, broadcast = (paths(sinks[2].shapes, f"line {colour}")[0][1::2] for colour in ("c0", "c2"))
    assert every[0] - every[2] == pytest.approx(2 * (broadcast[0] - broadcast[2]), abs=0.3)
    assert [key.name for key in variance[3]] == ["their own 60 %", "the image's 10 %", "the position's 30 %"]
    own = paths(variance[2].shapes, "line c0")[0]
    assert len(own) == 8  # three blocks and the final norm
    assert own[1] < own[-1]  # 90 % is above 60 %
    assert [key.name for key in cosines[3]] == ["image mean", "singular direction", "the same, of high norms"]
    assert len(paths(cosines[2].shapes, "line c1")[0]) == 6  # no value after the final norm


def test_models_of_a_family_share_the_scale_of_their_sinks(tmp_path):
    few = {"images": 8, "by_block": {"events": [0.0, 0.0, 1.0], "NOP": [0.0] * 3, "broadcast": [0.0] * 3}}
    cells = saved(tmp_path, asked("deit3-vitn_reg0"), asked(sinks=few))
    ((many, one),) = section.panels(cells, numbered(cells))
    heights = [paths(panel.charts[0][2].shapes, "line c0")[0][1::2] for panel in (many, one)]
    assert heights[1][0] - heights[1][2] == pytest.approx((heights[0][0] - heights[0][2]) / 2, abs=0.3)


def test_what_is_not_measured_has_no_chart(tmp_path):
    cells = saved(tmp_path, asked(sinks={"why_not": "m: block 0 is another"}, singular_defects={"why_not": "m"}))
    (((panel,),)) = section.panels(cells, numbered(cells))
    assert [title for title, *_ in panel.charts] == ["variance of patches", "cosine of patches"]
    assert [key.name for key in panel.charts[1][3]] == ["image mean"]
    assert section.panels(saved(tmp_path / "old", artifacts()), {}) == []


def test_the_section_of_norms_has_the_answer_on_norms(tmp_path):
    cells = saved(tmp_path, asked())
    (((panel,),), _) = norms.panels(cells, numbered(cells))
    assert panel.verdict == "No norm is high."
