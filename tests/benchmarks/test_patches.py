"""Rows of labels from nearest patches at small sizes; `make bench` measures the real ones."""

from benchmarks.speed import patches


def test_a_row_of_seconds_for_each_protocol():
    rows = patches.times(patches=1000, width=16)
    assert [row.name.split(",")[1].strip() for row in rows] == ["hummingbird", "patch_knn"]
    assert all(0 < row.value < 10 and row.target == "≤ 1" for row in rows)
