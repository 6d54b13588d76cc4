"""Completeness checks of a data set, which every reader runs before it returns an image."""

import os
from collections.abc import Sequence
from pathlib import Path

from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.listing import Spellings
from regvit_lightning.data.mini import writer as mini
from regvit_lightning.errors import one_line


def check_rendered(data: DataSettings) -> None:
    """Raise `DataError` if data that is rendered on this machine is missing or incomplete."""
    if data.rendered and not mini.is_complete(Path(data.root)):
        raise DataError(f"data set '{data.name}' in {data.root} is missing or half-written; {data.get}")


def check_count(data: DataSettings, name: str, split: int, count: int, counted: str, unit: str = "images") -> None:
    """Raise `DataError` if `count` differs from the number of images known from the settings.

    Args:
        data: settings whose `counts` hold the known numbers.
        name: name of the data set, a key of `counts`.
        split: 0 for the first split of that key, 1 for the second.
        count: number of images present.
        counted: start of the message, such as `list.txt has`.
        unit: what is counted.
    """
    expected = data.counts.get(name)
    if expected is not None and count != expected[split]:
        raise DataError(f"{counted} {count:,} {unit}, expected {expected[split]:,}; {data.get}")


def read_list(source: Path, expected: str, get: str) -> list[str]:
    """Read the non-empty lines of a list of images.

    Args:
        source: path of the list.
        expected: format of a line, for the message.
        get: how to get the data; appended to the message.

    Raises:
        DataError: no such file, or no line in it.
    """
    if not source.is_file():
        raise DataError(f"no list {source}: expected {expected} a line; {get}")
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source}: not a list in UTF-8 ({one_line(error)}); convert it") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{source} names no image; {get}")
    return lines


def find_files(source: Path, files: Sequence[str], get: str) -> list[str]:
    """Find the files named in `source`; a name may be spelt in another way than on disk, see `Spellings`.

    Raises:
        DataError: some are missing; gives their number and the first five names.
    """
    spellings = Spellings()
    there = [spellings.find(file) for file in files]
    missing = [file for file in there if not os.path.isfile(file)]
    if missing:
        first = ", ".join(missing[:5])
        raise DataError(f"{source}: {len(missing):,} of {len(files):,} files are missing: {first}; {get}")
    return there
