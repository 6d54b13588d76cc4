"""Parquet files as img2dataset and the Hugging Face hub write them."""

import sys

import numpy as np
import pytest

from regvit_lightning.data.layout import DataError
from regvit_lightning.data.parquet import _opened
from regvit_lightning.data.shards import from_shards
from regvit_lightning.errors import Notice, UserError
from tests.data.test_pairs import jpeg


def write(path, columns, group=2):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path, row_group_size=group)
    return path


def test_rows_of_img2dataset(tmp_path):
    """Five rows in three groups, the third without image and the fourth without caption."""
    images = [jpeg(10), jpeg(20), None, jpeg(40), jpeg(50)]
    columns = {"key": list("abcde"), "jpg": images, "caption": ["ten", " twenty", "x", None, "fünfzig"]}
    paths = [write(tmp_path / "0.parquet", columns), write(tmp_path / "1.parquet", {**columns, "jpg": [jpeg(90)] * 5})]
    with pytest.warns(Notice, match=r"1 captions without image \(0\.parquet: row 2\); 2 with an empty caption"):
        found = from_shards(paths, tmp_path)
    assert [found.caption(place) for place in range(3)] == ["ten", "twenty", "fünfzig"]
    means = [np.asarray(found.open(place)).mean() for place in range(len(found))]
    assert means == pytest.approx([10, 20, 50, 90, 90, 90, 90], abs=1)
    assert found.path(2) == f"{tmp_path / '0.parquet'}: row 4"


def test_structs_of_the_hub(tmp_path):
    columns = {"image": [{"bytes": jpeg(30), "path": "a.jpg"}, {"bytes": None, "path": "b"}], "text": ["thirty", "no"]}
    with pytest.warns(Notice, match="1 captions without image"):
        found = from_shards([write(tmp_path / "0.parquet", columns)], tmp_path)
    assert np.asarray(found.open(0)).mean() == pytest.approx(30, abs=1)


def test_a_table_of_addresses_is_told_to_hold_no_images(tmp_path):
    path = write(tmp_path / "0.parquet", {"url": ["http"], "caption": ["c"]})
    with pytest.raises(DataError, match=r"0\.parquet: expected a column of encoded images .* got url, caption"):
        from_shards([path], path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"0\.parquet: truncated, empty or not a Parquet file") as error:
        from_shards([path], path)
    assert "\n" not in str(error.value)


def test_without_pyarrow_it_is_said_what_to_install(tmp_path, monkeypatch):
    _opened.cache_clear()
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "0.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"Parquet needs pyarrow: install pyarrow .*, or write the pairs as tar shards"):
        from_shards([tmp_path / "0.parquet"], tmp_path)
