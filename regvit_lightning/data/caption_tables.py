"""Tables of image-text pairs: a CSV or TSV file whose header names the columns of the image and of the caption."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from regvit_lightning.data.captioned import (
    NO_IMAGE,
    WHOLE_FILE,
    CaptionedImage,
    CaptionedImages,
    arrays_of,
    check_any,
    joined,
    usable,
)
from regvit_lightning.data.layout import DataError
from regvit_lightning.data.listing import LeftOut, Spellings, report
from regvit_lightning.errors import one_line

FILE, TEXTS = "filepath", ("title", "caption")  # open_clip's names, and the usual name of the text
DELIMITERS = ("\t", ",", ";")  # open_clip's default, the format's, and that of spreadsheets in much of Europe


class Header(NamedTuple):
    """First line of a table.

    Attributes:
        delimiter: between the columns, whatever the suffix of the file.
        columns: number of columns.
        file, text: numbers of the columns with the path and the caption, from 0.
    """

    delimiter: str
    columns: int
    file: int
    text: int


def from_table(table: Path) -> CaptionedImages:
    """Index the images listed in a CSV or TSV file in UTF-8, with or without byte order mark.

    A row without caption or whose image is missing is left out, and a `Notice` counts them.

    Raises:
        DataError: not such a table, no pair in it, or a row that does not fit its header.
    """
    left_out, spellings = LeftOut(), Spellings()
    files, pairs = list[Path](), list[CaptionedImage]()
    for number, name, caption in _rows(table):
        file = Path(spellings.find(str(table.parent / name)))
        if not name or not file.is_file():
            left_out.add(NO_IMAGE, f"row {number}: {name}")
        elif text := usable(caption, f"row {number}: {name}", left_out):
            pairs.append(CaptionedImage(len(files), 0, WHOLE_FILE, text))
            files.append(file)
    check_any(len(pairs), table, left_out)
    report(table, left_out)
    return joined(files, [arrays_of(pairs)])


def _rows(table: Path) -> Iterator[tuple[int, str, str]]:
    """Number from 2, path and caption of each row."""
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{table}: not a table of image-text pairs ({one_line(error)})") from None
    header = _header(table, text)
    rows = _tabbed(text) if header.delimiter == "\t" else _quoted(table, text, header.delimiter)
    for number, row in enumerate(rows, start=1):
        if number == 1 or not row:
            continue
        if len(row) > header.columns and header.text == header.columns - 1:
            row[header.text :] = [header.delimiter.join(row[header.text :])]  # a caption with commas, not quoted
        if len(row) > header.columns:
            fault = f"{len(row)} columns where the header has {header.columns}"
            raise DataError(f"{table}, row {number}: {fault}; put a caption that holds '{header.delimiter}' in quotes")
        row += [""] * (header.columns - len(row))
        yield number, row[header.file], row[header.text]


def _header(table: Path, text: str) -> Header:
    line = re.split(r"\r?\n|\r", text, maxsplit=1)[0]
    for delimiter in DELIMITERS:
        names = [name.strip().strip('"') for name in line.split(delimiter)]
        captions = [name for name in TEXTS if name in names]
        if FILE in names and captions:
            return Header(delimiter, len(names), names.index(FILE), names.index(captions[0]))
    raise DataError(f"{table}: expected a first line with filepath and title (or caption), then a row for each pair")


def _tabbed(text: str) -> Iterator[list[str]]:
    """Rows of a table with tabs: a line each, so that a quotation mark at the start of a caption is a part of it."""
    for line in re.split(r"\r?\n|\r", text):
        yield [_unquoted(value) for value in line.split("\t")] if line else []


def _unquoted(value: str) -> str:
    """A value without the quotation marks that a writer of tables put around it and doubled in it."""
    inner = value[1:-1]
    quoted = len(value) >= 2 and value[0] == value[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if quoted else value


def _quoted(table: Path, text: str, delimiter: str) -> Iterator[list[str]]:
    """Rows of a table in the CSV format (RFC 4180), in which a value in quotation marks may hold any character."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        yield from reader
    except csv.Error as error:
        advice = "double the quotation marks in a value and put it in quotation marks"
        raise DataError(f"{table}, line {reader.line_num}: {one_line(error)}; {advice}") from None
