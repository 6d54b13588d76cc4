"""The table of the three questions from hand-made records: answers of seeds, effect sizes, all three formats."""

import csv
import io
from dataclasses import replace

from benchmarks.tables import __main__ as program
from benchmarks.tables import columns, questions, questions_formats
from benchmarks.tables.formats import Origin
from benchmarks.tables.scored_records import ScoredRecord, ScoredRecords
from tests.by_hand import report


def answered(model="deit3-vitn_reg0", seed=0, answers=("no", "few", "yes"), largest=2.5, nop=0.25, own=0.5, **more):
    """An artifact report whose answers are these."""
    effects = (
        {"max_over_median": largest},
        {"nop_sinks": nop, "broadcast_sinks": 0.0, "other_sinks": 0.0},
        {"patch_share": own, "mean_cosine": None},
    )
    asked = [
        {"question": "?", "answer": answer, "words": f"In words: {answer}.", "effect": effect}
        for answer, effect in zip(answers, effects, strict=True)
    ]
    made = report(model).record
    protocol = {**made.protocol, "questions": asked, "sinks": {"images": 64}, **more}
    return ScoredRecord(replace(made, seed=seed, protocol=protocol), {})


def origin(*cells):
    return Origin("mini", ScoredRecords("results", list(cells), []), "make tables")


def test_answers_of_seeds_are_one_or_each_with_its_share():
    cells = [
        answered(seed=1, answers=("no", "none", "yes"), largest=2.0, nop=0.0, own=0.6),
        answered(seed=0, answers=("no", "none", "yes"), largest=2.5, nop=0.0, own=0.5),
        answered(seed=2, answers=("no", "NOP and broadcast", "no"), largest=3.0, nop=0.3, own=0.4),
    ]
    (row,) = questions.rows(cells)
    assert row.answers == ["no", "none 2/3, NOP and broadcast 1/3", "yes 2/3, no 1/3"]
    assert row.shown == ["2.50 ± 0.50", "0.10 ± 0.17", "0", "0", "50 ± 10", "–"]
    assert row.words == ["In words: no.", "In words: none.", "In words: yes."]  # of seed 0
    notes = questions.notes([row])
    assert any("mean of 64 images" in note for note in notes)
    assert "2/3: the answer of 2 of 3 seeds" in notes


def test_sinks_in_too_few_images_are_few_in_records_from_before_that_word():
    old, none = (answered(answers=("no", "none", "yes")) for _ in range(2))
    old.record.protocol["questions"][1]["effect"]["sinks"] = 0.02
    none.record.protocol["questions"][1]["effect"]["sinks"] = 0.0
    assert [questions.rows([one])[0].answers[1] for one in (old, none)] == ["few", "none"]


def test_rows_are_models_whose_report_answers_the_questions():
    other = replace(report("deit3-vitn_reg8").record, protocol={"view": "whole"})
    cells = [answered("deit3-vitn_reg4"), report("deit3-vitn_reg1"), ScoredRecord(other, {}), answered()]
    assert [row.row.model for row in questions.rows(cells)] == ["deit3-vitn_reg0", "deit3-vitn_reg4"]


def test_formats_have_the_same_answers_and_numbers(tmp_path):
    cells = [answered(), answered("deit3-vitn_reg4", answers=("high", "broadcast", "no"), largest=12.5)]
    rows = questions.rows(cells)
    texts = questions_formats.formats(rows, origin(*cells))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in texts["md"].splitlines() if line[:1] == "|"]
    assert lines[0][3:5] == ["high norms?", "largest ÷ median"]
    assert lines[3] == [
        "deit3-vitn_reg4",
        "960",
        "1",
        "**high**",
        "12.50",
        "**broadcast**",
        "0.25",
        "0",
        "0",
        "**no**",
        "50",
        "–",
    ]
    table = {row["model"]: row for row in csv.DictReader(io.StringIO(texts["csv"]))}
    four = table["deit3-vitn_reg4"]
    assert (four["high norms?"], four["largest ÷ median"], four["NOP per image"]) == ("high", "12.5000", "0.2500")
    assert (four["own variance %"], four["cosine to image mean"], four["largest ÷ median std"]) == ("50.0000", "", "")
    assert r"deit3-vitn\_reg4 & 1 & high & \num{12.50} & broadcast & \num{0.25} & \num{0} & \num{0}" in texts["tex"]
    assert questions_formats.line(rows[1]) == (
        "high norms? high (largest 12.50 × median); attention sinks? broadcast (NOP 0.25, broadcast 0, other 0 per "
        "image); patches local? no (50 % of their variance is their own)"
    )


def test_seeds_that_differ_stand_below_each_other_in_print():
    cells = [answered(seed=seed, answers=("no", answer, "yes")) for seed, answer in enumerate(("none", "few"))]
    text = questions_formats.as_latex(questions.rows(cells), origin(*cells))
    assert r"\shortstack[l]{none 1/2 \\ few 1/2}" in text
    assert "their deviations are in the CSV" in text
    assert "standard deviation" not in text


def test_the_tables_have_a_file_and_the_terminal_a_line(tmp_path):
    cells = [answered(), answered("deit3-vitn_reg4")]
    overview = columns.overview(cells)
    names = [name for name, _ in program.files([overview], origin(*cells))]
    assert names == ["summary", "questions", "overview"]
    text = program.printed(overview, origin(*cells), 100)
    assert "Artifacts: three questions." in text
    assert "deit3-vitn_reg4: high norms? no (largest 2.50 × median);" in text
    before = program.printed(overview, origin(*[report("deit3-vitn_reg0")]), 100)
    assert "three questions" not in before
