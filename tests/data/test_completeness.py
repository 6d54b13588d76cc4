"""What every reader asks: each check lets whole data pass and says in one line what is missing of others."""

import pytest

from regvit_lightning.data.completeness import check_count, check_rendered, find_files, read_list
from regvit_lightning.data.layout import DataError, DataSettings


@pytest.mark.parametrize(("name", "split", "count"), [("depth", 0, 7), ("depth", 1, 3), ("voc07", 0, 1_000)])
def test_only_the_published_number_passes(name, split, count):
    data = DataSettings(name="x", root="x", counts={"depth": [7, 3], "voc07": [1000]}, get="fetch it")
    check_count(data, name, split, count, "list has")
    with pytest.raises(DataError, match=rf"^list has {count + 1:,} pairs, expected {count:,}; fetch it$"):
        check_count(data, name, split, count + 1, "list has", "pairs")
    check_count(data, "of unknown number", split, count + 1, "list has")


def test_rendered_data_must_be_complete_and_other_data_need_not(tiny, tmp_path):
    check_rendered(DataSettings(name="x", root=str(tmp_path)))
    check_rendered(DataSettings(name="x", root=tiny.root, rendered=True))
    with pytest.raises(DataError, match=rf"^data set 'x' in {tmp_path} is missing or half-written; render it$"):
        check_rendered(DataSettings(name="x", root=str(tmp_path), rendered=True, get="render it"))


def test_missing_files_are_counted_and_the_first_five_named(tmp_path):
    files = [str(tmp_path / f"{number}.png") for number in range(9)]
    (tmp_path / "1.png").touch()
    with pytest.raises(DataError) as error:
        find_files(tmp_path / "list", files, "fetch them")
    named = ", ".join(files[number] for number in (0, 2, 3, 4, 5))
    assert str(error.value) == f"{tmp_path / 'list'}: 8 of 9 files are missing: {named}; fetch them"
    assert find_files(tmp_path / "list", files[1:2], "") == files[1:2]


def test_a_list_is_its_lines_that_say_something(tmp_path):
    file = tmp_path / "list.txt"
    with pytest.raises(DataError, match=r"no list .*list\.txt: expected a name a line; fetch it"):
        read_list(file, "a name", "fetch it")
    file.write_text("\n  \n")
    with pytest.raises(DataError, match=r"list\.txt names no image; fetch it"):
        read_list(file, "a name", "fetch it")
    file.write_text(" a b\r\n\nc\n")
    assert read_list(file, "a name", "") == ["a b", "c"]
