"""Where a model is better on the page: whiskers at their places, cards in their order, nothing hostile as markup."""

import re
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.report import where
from benchmarks.tables import columns, summary
from benchmarks.tables import where as groups
from regvit_lightning.data.annotated import Annotated, Property
from regvit_lightning.statistics import Comparison
from tests.benchmarks.report.pages_by_hand import EVIL, Read
from tests.benchmarks.tables import test_where as by_hand
from tests.by_hand import save

END = 10.0  # difference at either end of a chart, which has 4 units free


def line(value, interval=None, verdict="unclear"):
    return groups.Line("class", "cat", 40, 50.0, 50.0 + value, Comparison(value, interval), 0.01, verdict)


@pytest.mark.parametrize(
    ("value", "interval", "places"),
    [
        (0.0, (-5.0, 5.0), (110, 57, 163)),
        (10.0, (5.0, 15.0), (216, 163, 216)),  # cut at the end
        (-10.0, (-20.0, 10.0), (4, 4, 216)),
        (5.0, None, (163, 163, 163)),
    ],
)
def test_a_whisker_stands_where_its_numbers_are(value, interval, places):
    found = where.whisker(line(value, interval), END)
    assert (found.at, found.low, found.high) == places
    assert found.zero == 110


@pytest.mark.parametrize(
    ("verdict", "style"),
    [
        ("better", "better"),
        ("better beyond image noise, one seed", "better"),
        ("worse", "worse"),
        ("worse beyond image noise, one seed", "worse"),
        ("unclear", "unclear"),
        ("not tested", "unclear"),
    ],
)
def test_the_colour_is_that_of_the_verdict(verdict, style):
    """Whatever the sign: where lower is better, a better model has a negative difference."""
    assert {where.whisker(line(value, verdict=verdict), END).style for value in (-1.0, 1.0)} == {style}


def test_a_card_says_what_its_task_has():
    (section,) = where.sections(by_hand.planted(by_hand.LABELS == 3))
    assert section.title == "a-vitn: 4 registers against none"
    assert section.sides == ("without", "with")
    assert section.headline.startswith("Better on 1 and worse on 0 of 11 ")
    (card,) = section.cards
    assert (card.task, card.models, card.open) == ("imagenet_knn", "a-vitn_reg0 a-vitn_reg4", True)
    assert card.count == "better on 1, worse on 0"
    assert card.whole.startswith("All 320 images: ")
    assert card.whole.endswith("; seeds: 4.")
    assert [kind for kind, *_ in card.rows] == ["class", *[""] * 7, "object size", "", ""]
    assert [text.group for _, text, _ in card.rows][:2] == ["class_0", "class_1"]
    styles = {text.group: whisker.style for _, text, whisker in card.rows}
    assert {group for group, style in styles.items() if style != "unclear"} == {"class_3"}
    largest = max(card.rows, key=lambda row: abs(row[2].at - row[2].zero))
    assert largest[1].group == "class_3"
    assert largest[2].at == pytest.approx(110 + 106 / 1.25, abs=0.1)  # the reach is 1.25 × the largest


def test_cards_without_a_difference_are_shut_but_for_the_first():
    equal = by_hand.planted(np.zeros(by_hand.IMAGES, bool))
    found = by_hand.planted(by_hand.LABELS == 3)
    parts = [*equal[0].parts, *equal[0].parts, *found[0].parts]
    (section,) = where.sections([replace(equal[0], parts=parts)])
    assert [card.open for card in section.cards] == [True, False, True]
    assert section.cards[0].count == "no difference beyond noise"


def rendered(folder, cells, known):
    """The page of some cells, and its section."""
    from benchmarks.report import __main__ as report
    from benchmarks.tables import scored_records

    for one in cells:
        save(folder / "results", one)
    for one in known.values():
        one.save(folder / "results" / "mini" / "annotations")
    read = scored_records.read_scored_records(folder / "results", "mini")
    text, _ = report.page(read, "mini", folder)
    return text


def test_the_page_shows_the_lines_of_the_tables(tmp_path):
    share = np.where(by_hand.LABELS == 3, 0.98, 0.5)
    cells = by_hand.cells("a-vitn_reg0", 0.5) + by_hand.cells("a-vitn_reg4", share)
    text = rendered(tmp_path, cells, by_hand.known())
    (section,) = re.findall(r'<div class="twins wheres">.*?</div>\n<ul class="notes">', text, re.DOTALL)
    rows = re.findall(r"<tr.*?</tr>", section, re.DOTALL)[1:]
    assert len(rows) == 11
    (pair,) = groups.pairs(summary.answers(columns.overview(cells)), by_hand.known())
    for row, meant in zip(rows, pair.lines, strict=True):
        cells_of = [re.sub("<.*?>", "", one).strip() for one in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)]
        assert cells_of[1] == meant.name
        assert cells_of[2:5] == [
            "40" if meant.kind == "class" else cells_of[2],
            f"{meant.first:.1f}",
            f"{meant.second:.1f}",
        ]
        assert (f'<b class="{meant.verdict}">' in row) is meant.found
        assert f"(p {meant.p:.3f})" in row or "(p &lt; 0.001)" in row
    assert "Holm" in text.partition("twins wheres")[2]


def test_without_annotations_the_page_says_how_to_make_them(tmp_path):
    cells = by_hand.cells("a-vitn_reg0", 0.5) + by_hand.cells("a-vitn_reg4", 0.5)
    text = rendered(tmp_path, cells, {})
    assert "nothing is known of the images of imagenet; with the images at hand: make annotate DATA=mini" in text


def test_hostile_names_of_classes_and_properties_are_text(tmp_path):
    labels = [[int(label)] for label in by_hand.LABELS]
    kinds = Property(EVIL, EVIL, EVIL, [EVIL + str(index % 2) for index in range(by_hand.IMAGES)])
    known = {"imagenet": Annotated("imagenet", {"rendered": "aa"}, labels, [EVIL + str(n) for n in range(8)], [kinds])}
    text = rendered(tmp_path, by_hand.cells("a-vitn_reg0", 0.5) + by_hand.cells("a-vitn_reg4", 0.5), known)
    read = Read(text)
    assert len(read.scripts) == 2
    assert "img" not in {name for name, _ in read.tags}
    assert not [name for name, attributes in read.tags for key in attributes if key.startswith("on")]
    assert any(EVIL in shown for shown in read.texts)


def test_without_twins_there_is_no_section(tmp_path):
    text = rendered(tmp_path, by_hand.cells("a-vitn_reg4", 0.5), by_hand.known())
    assert "wheres" not in text.partition("</style>")[2]
