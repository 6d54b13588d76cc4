"""What the page lists of a record."""

import dataclasses

from benchmarks.report import record_list
from tests.benchmarks.report.pages_by_hand import record, saved


def test_logs_that_are_here_are_named(tmp_path):
    head = tmp_path / "mini" / "deit3-vitn_reg4" / "seed0" / "imagenet_knn" / "log"
    assert record_list.logs(record(), tmp_path) == f"{head} (not here)"
    head.mkdir(parents=True)
    assert record_list.logs(record(), tmp_path) == str(head)


def test_a_row_says_where_its_record_comes_from_and_the_filter_looks_into_all_of_it(tmp_path):
    changed = dataclasses.replace(record(top1=50.0, top5=81.25), provenance={**record().provenance, "dirty": True})
    (row,) = record_list.listed(saved(tmp_path, changed), ["make it"])
    assert row.values == {
        "task": "imagenet_knn",
        "seed": 0,
        "result": "top1 50.0, top5 81.2",
        "images": 10,
        "date": "2026-11-21 01:37",
        "commit": "cccccccccc + changes",
        "device": "a CPU",
        "seconds": 1.5,
    }
    assert row.values.keys() == record_list.KINDS.keys()
    assert row.command == "make it"
    assert all(str(value) in row.words for value in (row.model, *row.values.values()))
    (clean,) = record_list.listed(saved(tmp_path, record()), [""])
    assert clean.values["commit"] == "cccccccccc"
