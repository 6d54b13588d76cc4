"""The leaderboard from hand-made records whose ranks, spans and front can be worked out on paper."""

import csv
import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.tables import __main__ as program
from benchmarks.tables import columns, leaderboard, leaderboard_formats
from benchmarks.tables.formats import Origin
from benchmarks.tables.scored_records import ScoredRecords
from tests.by_hand import cell

LOWER = {"columns": {"top1": {"better": -1, "unit": "m", "decimals": 1}}}
A, B, C, D, E, F = (f"deit3-vitn_reg{number}" for number in range(6))
# Intervals of one seed are ± 1: two values of independent images differ beyond noise from 1.96 √2 / 1.96 = 1.414 on.
KNN = {A: 60.0, B: 60.0, C: 55.0, D: 59.5}
LINEAR = {A: 70.0, B: 72.0, C: 69.5, D: 60.0}
DEPTH = {A: 30.0, B: 20.0, C: 20.5}  # lower is better; D lacks it
WORK = {A: 10e9, B: 20e9, C: 15e9, D: 30e9}  # multiply-adds
SHARE = {"outlier_share": {"better": -1, "unit": "%", "decimals": 1}}


def cost(model, macs):
    registers = int(model[-1])
    rows = [{"registers": registers, "macs": macs}, {"registers": registers + 1, "macs": 2 * macs}]
    facts = {
        "protocol": {"cost": rows, "norms_of_last_block": [1.0]},
        "columns": SHARE,
        "intervals": {},
        "footnote": [],
    }
    return cell(model, "artifact_report", metrics={"outlier_share": macs / 1e9}, **facts)


CELLS = [
    *(cell(model, top1=value) for model, value in KNN.items()),
    *(cell(model, "imagenet_linear", top1=value) for model, value in LINEAR.items()),
    *(cell(model, "nyud_linear1", top1=value, **LOWER) for model, value in DEPTH.items()),
    *(cost(model, macs) for model, macs in WORK.items()),
    cell("random-vitn_reg4", top1=99.0),  # a floor takes no part, however good
    cell(E, top1=90.0),  # one column of three is less than half
]


def board_of(cells):
    return leaderboard.build(cells, columns.overview(cells))


def places(board, task):
    (column,) = [column for _, column in board.columns if column.task == task]
    found = {row.model: row.places[column] for row in board.rows if column in row.places}
    return {model: (place.rank, place.best, place.worst) for model, place in found.items()}


def test_ranks_by_hand_with_ties_and_the_ranks_that_noise_allows():
    board = board_of(CELLS)
    assert places(board, "imagenet_knn") == {A: (1.5, 1, 3), B: (1.5, 1, 3), D: (3, 1, 3), C: (4, 4, 4)}
    assert places(board, "imagenet_linear") == {B: (1, 1, 1), A: (2, 2, 3), C: (3, 2, 3), D: (4, 4, 4)}
    assert places(board, "nyud_linear1") == {B: (1, 1, 2), C: (2, 1, 2), A: (3, 3, 3)}
    assert {column.task for _, column in board.columns} == {"imagenet_knn", "imagenet_linear", "nyud_linear1"}


def test_the_mean_is_over_the_columns_that_all_have():
    board = board_of(CELLS)
    assert {column.task for column in board.common} == {"imagenet_knn", "imagenet_linear"}
    means = {row.model: (row.mean, row.best, row.worst) for row in board.rows}
    assert means == {B: (1.25, 1, 2), A: (1.75, 1.5, 3), C: (3.5, 3, 3.5), D: (3.5, 2.5, 3.5)}
    assert [row.model for row in board.rows] == [B, A, C, D]
    assert board.left_out == {E: 1}


def test_a_model_without_a_common_column_keeps_its_ranks_and_has_no_mean():
    halves = [cell(A, top1=1.0), cell(B, "imagenet_linear", top1=2.0)]
    board = board_of(halves)
    assert board.common == []
    assert [(row.mean, row.best) for row in board.rows] == [(None, None)] * 2
    assert places(board, "imagenet_knn") == {A: (1, 1, 1)}
    assert "no column in common" in leaderboard_formats.headline(board)


def test_the_front_of_accuracy_against_work():
    """E is as accurate as A with more work, F less with as much; D is far behind, C by less than noise."""
    more = [cell(E, "imagenet_linear", top1=70.0), cost(E, 12e9)]
    more += [cell(F, top1=58.0), cell(F, "imagenet_linear", top1=69.9), cost(F, 10e9)]
    board = board_of([*CELLS, *more])
    fronts = {row.model: (row.gflops, row.front) for row in board.rows}
    assert fronts == {
        A: (pytest.approx(20.0), leaderboard.FRONT),
        B: (pytest.approx(40.0), leaderboard.FRONT),
        C: (pytest.approx(30.0), leaderboard.NEAR),
        D: (pytest.approx(60.0), leaderboard.BEHIND),
        E: (pytest.approx(24.0), leaderboard.NEAR),
        F: (pytest.approx(20.0), leaderboard.NEAR),
    }
    assert board.accuracy == "imagenet_linear"
    without = [one for one in CELLS if one.record.task != "artifact_report"]
    assert {(row.gflops, row.front) for row in board_of(without).rows} == {(None, "")}


def test_an_unknown_noise_tells_no_two_models_apart():
    unknown = [cell(model, top1=value, intervals={}) for model, value in KNN.items()]
    assert [(best, worst) for _, best, worst in places(board_of(unknown), "imagenet_knn").values()] == [(1, 4)] * 4


def test_one_model_is_no_leaderboard():
    assert board_of([cell(A, top1=1.0), cell("random-vitn_reg4", top1=2.0)]) is None


@given(st.lists(st.integers(0, 8), min_size=2, max_size=6), st.sampled_from([1, -1]))
def test_ranks_are_those_of_scipy_and_lie_in_their_spans(values, better):
    facts = {"columns": {"top1": {"better": better, "unit": "%", "decimals": 1}}}
    cells = [cell(f"deit3-vitn_reg{number}", top1=float(value), **facts) for number, value in enumerate(values)]
    found = places(board_of(cells), "imagenet_knn")
    expected = stats.rankdata([-better * value for value in values])
    for number, rank in enumerate(expected):
        own, best, worst = found[f"deit3-vitn_reg{number}"]
        assert own == rank
        assert 1 <= best <= own <= worst <= len(values)


# ------------------------------------------------------------------------------------------------------- formats


def formatted(cells):
    board = board_of(cells)
    return leaderboard_formats.formats(board, Origin("mini", ScoredRecords("results", cells, []), "make tables"))


def test_the_three_formats_show_the_same_ranks():
    texts = formatted(CELLS)
    lines = [[text.strip() for text in line.strip("|").split("|")] for line in texts["md"].splitlines()]
    assert [line[:6] for line in lines if line[0] in ("1", "4")] == [
        ["1", B, "1.25", "1.0 to 2.0", "2", "40"],
        ["4", D, "3.50", "2.5 to 3.5", "2", "60"],
    ]
    shown = {line[0]: line[1:] for line in lines if len(line) == 4 and line[0] in (A, C, D)}
    assert shown[A] == ["60.0 (1.5; 1–3)", "70.0 (2; 2–3)", "30.0 (3)"]
    assert shown[D] == ["59.5 (3; 1–3)", "60.0 (4)", "–"]
    assert f"{E} is not ranked: it has 1 of 3 columns" in texts["md"].replace("\\", "")
    assert "not in the mean, as some of these models lack it: nyud_linear1" in texts["md"].replace("\\", "")
    rows = {row["model"]: row for row in csv.DictReader(io.StringIO(texts["csv"]))}
    assert [rows[A][name] for name in ("place", "mean rank", "mean rank worst", "columns", "front")] == [
        "2",
        "1.7500",
        "3.0000",
        "2",
        "yes",
    ]
    assert (rows[A]["imagenet_knn top1"], rows[A]["imagenet_knn top1 rank"]) == ("60.0000", "1.5")
    assert (rows[D]["nyud_linear1 top1 rank"], rows[D]["nyud_linear1 top1 in the mean"]) == ("", "no")
    assert r"\num{60.0}" in texts["tex"] or "60.0 (1.5; 1--3)" in texts["tex"]
    assert r"$\bullet$" in texts["tex"]


def test_a_terminal_shows_the_first_models():
    shown = leaderboard_formats.lines(board_of(CELLS))
    assert shown[0] == "Leaderboard: 4 models by their mean rank over 2 of 3 columns, those that all of them have."
    assert shown[1] == f"   1 {B}  1.25 (1.0 to 2.0 by noise)"
    many = [cell(f"deit3-vitn_reg{number}", top1=float(number)) for number in range(13)]
    assert len(leaderboard_formats.lines(board_of(many))) == 12
    assert leaderboard_formats.lines(board_of(many))[-1] == "  and 3 more in leaderboard.md"
    origin = Origin("mini", ScoredRecords("results", many, []), "make tables")
    assert "  and 3 more in leaderboard.md" in program.printed(columns.overview(many), origin, 100)


def test_the_tables_of_a_folder_have_it():
    cells = [one for one in CELLS if one.record.task != "artifact_report"]
    origin = Origin("mini", ScoredRecords("results", cells, []), "make tables")
    made = dict(program.files([columns.overview(cells)], origin))
    assert made["leaderboard"].keys() == {"md", "csv", "tex"}
    assert made["leaderboard_visbench"].keys() == {"csv"}
    alone = [one for one in cells if one.record.model == A]
    of_one = replace(origin, records=ScoredRecords("results", alone, []))
    assert "leaderboard" not in dict(program.files([columns.overview(alone)], of_one))
