"""What the page lists of a record."""

from benchmarks.report import record_list
from tests.benchmarks.report.pages_by_hand import record


def test_logs_that_are_here_are_named(tmp_path):
    head = tmp_path / "mini" / "deit3-vitn_reg4" / "seed0" / "imagenet_knn" / "log"
    assert record_list.logs(record(), tmp_path) == f"{head} (not here)"
    head.mkdir(parents=True)
    assert record_list.logs(record(), tmp_path) == str(head)
