"""Tables of image-text pairs as spreadsheets, pandas and open_clip's users write them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regvit_lightning.data.caption_tables import from_table
from regvit_lightning.errors import Notice
from tests.data.one_line import complaint
from tests.data.test_pairs import jpeg


def table(folder, text, name="pairs.csv", encoding="utf-8"):
    for value in (10, 50):
        (folder / f"{value}.jpg").write_bytes(jpeg(value))
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def captions(path):
    found = from_table(path)
    return [found.caption(place) for place in range(len(found))]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pairs.csv", 'filepath,title\n50.jpg,"fifty, or so"\n10.jpg,ten\n50.jpg,again\n'),
        ("pairs.tsv", "caption\tother\tfilepath\nfifty, or so\t\t50.jpg\nten\t\t10.jpg\nagain\t\t50.jpg\n"),
        ("pairs.csv", "filepath\ttitle\n50.jpg\tfifty, or so\n10.jpg\tten\n50.jpg\tagain\n"),
        ("pairs.csv", "\ufefffilepath,title\r\n50.jpg,fifty, or so\r\n10.jpg,ten\r\n\r\n50.jpg,again\r\n"),
        ("pairs.csv", "filepath;title\n50.jpg;fifty, or so\n10.jpg;ten\n50.jpg;again\n"),
        ("pairs.txt", '"filepath","title"\n"50.jpg","fifty, or so"\n"10.jpg","ten"\n"50.jpg","again"\n'),
    ],
)
def test_a_table(tmp_path, name, text):
    path = table(tmp_path, text, name)
    assert captions(path) == ["fifty, or so", "ten", "again"]
    found = from_table(path)
    assert [np.asarray(found.open(place)).mean() for place in range(3)] == pytest.approx([50, 10, 50], abs=1)
    assert found.path(1) == str(tmp_path / "10.jpg")


def test_quotation_marks_in_a_table_with_tabs_are_text(tmp_path):
    """One at the start of a caption swallowed all rows up to the next one."""
    rows = ['"Hello" he said', '"and then', 'a 3" pipe', '"she said ""no"""', '""']
    text = "filepath\ttitle\n" + "".join(f"10.jpg\t{row}\n" for row in rows)
    with pytest.warns(Notice, match="1 with an empty caption"):
        assert captions(table(tmp_path, text, "x.tsv")) == [
            '"Hello" he said',
            '"and then',
            'a 3" pipe',
            'she said "no"',
        ]


def test_a_caption_keeps_its_commas_without_quotation_marks(tmp_path):
    assert captions(table(tmp_path, "filepath,title\n10.jpg,a cat, asleep, at home\n")) == ["a cat, asleep, at home"]


def test_rows_that_cannot_be_used_are_left_out_and_counted(tmp_path):
    text = "filepath,title\n10.jpg\n10.jpg,  \n11.jpg,eleven\n,none\n10.jpg,ten\n"
    with pytest.warns(Notice) as caught:
        assert captions(table(tmp_path, text)) == ["ten"]
    assert "2 with an empty caption (row 2: 10.jpg, row 3: 10.jpg)" in str(caught[0].message)
    assert "2 captions without image (row 4: 11.jpg, row 5: )" in str(caught[0].message)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "expected a first line with filepath and title"),
        ("filepath,text\n10.jpg,ten\n", "expected a first line with filepath and title"),
        ("filepath,title\n11.jpg,eleven\n", "holds no pair: expected a pair of an image"),
        ("title,filepath\na cat, asleep,10.jpg\n", "row 2: 3 columns where the header has 2; put a caption that holds"),
        ('filepath,title\n10.jpg,"open\n50.jpg,fifty\n', "line 3: unexpected end of data; double the quotation marks"),
        ('filepath,title\n10.jpg,"a" b\n', "line 2: ',' expected after '\"'; double the quotation marks"),
        (f"filepath,title\n10.jpg,{'x' * 200_000}\n", "line 2: field larger than field limit"),
    ],
)
def test_broken_tables_in_one_line(tmp_path, text, line):
    assert line in complaint(from_table, table(tmp_path, text))


def test_a_table_in_another_encoding_is_told(tmp_path):
    for encoding in ("utf-16", "latin-1"):
        path = table(tmp_path, "filepath,title\n10.jpg,zehn für dich\n", encoding=encoding)
        assert "not a table of image-text pairs" in complaint(from_table, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@given(
    header=st.sampled_from(["filepath,title", "filepath\ttitle", "title;filepath", "caption\tx\tfilepath"]),
    rows=st.lists(st.text(alphabet='10.jpg,;\t"\n\r \0é\u2028', max_size=30), max_size=6),
)
def test_any_rows_are_read_or_told_in_a_line(folder, header, rows):
    complaint(from_table, table(folder, "\n".join([header, *rows])))


@given(st.lists(st.text(min_size=1).filter(lambda text: text.strip()), min_size=1, max_size=5))
def test_captions_written_by_pythons_csv_come_back(folder, texts):
    import csv
    import io

    kept = [text for text in texts if "\0" not in text]
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([("filepath", "title"), *(("10.jpg", text) for text in kept)])
    path = table(folder, buffer.getvalue())
    if kept:
        assert captions(path) == [text.strip() for text in kept]
