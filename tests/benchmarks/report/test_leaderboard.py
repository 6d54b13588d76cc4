"""The leaderboard of the page: ranks, spans and values to sort by; names escaped, and no board of one model."""

import re

from benchmarks.tables.scored_records import ScoredRecord
from tests.benchmarks.report.pages_by_hand import EVIL, Read, page, record, saved

TOPS = {"deit3-vitn_reg0": 53.0, "deit3-vitn_reg1": 53.0, "deit3-vitn_reg4": 60.0}


def board_of(cells):
    """The table in the page, parsed, and its text; None without one."""
    found = re.search(r"<table[^>]*id=.board-table.*?</table>", page(cells)[1], re.DOTALL)
    return found and (Read(found[0]), found[0])


def test_ranks_stand_in_cells_that_sort_and_open_their_records(tmp_path):
    cells = saved(
        tmp_path,
        *(record(model, top1=value) for model, value in TOPS.items()),
        *(record(model, "imagenet_linear", top1=-value) for model, value in TOPS.items()),
        record("deit3-vitn_reg4", "nyud_linear1", top1=1.0),
    )
    shown, text = board_of(cells)
    heads = [facts["data-key"] for name, facts in shown.tags if name == "th" and "data-key" in facts]
    assert heads[:6] == ["model", "rank", "span", "n", "gflops", "front"]
    assert heads[6:] == ["imagenet_knn top1", "imagenet_linear top1", "nyud_linear1 top1"]
    rows = re.findall(r'<tr data-filter="([^"]+)">(.*?)</tr>', text, re.DOTALL)
    assert [model for model, _ in rows] == ["deit3-vitn_reg0", "deit3-vitn_reg1", "deit3-vitn_reg4"]  # means 2, 2 and 2
    values = [re.findall(r'class="number" data-task="(\w+)" data-value="([\d.]+)"', row) for _, row in rows]
    assert values[0] == [("imagenet_knn", "2.5"), ("imagenet_linear", "1.5")]
    assert values[2] == [("imagenet_knn", "1"), ("imagenet_linear", "3"), ("nyud_linear1", "1")]
    assert shown.texts.count("–") == 3 + 2, "no GFLOPs of three, no depth of two"
    links = [facts for name, facts in shown.tags if name == "a"]
    assert len(links) == 7
    assert all(facts["href"] == f"#record-{facts['data-cells']}" for facts in links)


def test_names_are_escaped_and_one_model_has_no_leaderboard(tmp_path):
    evil = EVIL.replace("/", "∕")
    (safe,) = saved(tmp_path, record("deit3-vitn_reg0", top1=1.0))
    shown, _ = board_of([ScoredRecord(record(evil), {}, safe.file), safe])
    assert evil in shown.texts
    assert not [name for name, _ in shown.tags if name in ("script", "img")]
    assert board_of(saved(tmp_path / "one", record())) is None
