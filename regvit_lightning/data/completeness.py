"""Whether a data set is all there: what every reader asks before it hands out an image."""

import os
from collections.abc import Sequence
from pathlib import Path

from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.mini import writer as mini


def check_rendered(data: DataSettings) -> None:
    """Raise `DataError` where data that is rendered on this machine is missing or half-written."""
    if data.rendered and not mini.is_complete(Path(data.root)):
        raise DataError(f"data set '{data.name}' in {data.root} is missing or half-written; {data.get}")


def check_count(data: DataSettings, name: str, split: int, count: int, counted: str, unit: str = "images") -> None:
    """Raise `DataError` where the number of images is known beforehand and `count` is another one.

    Args:
        data: its `counts` are what is known.
        name: of the data set, a key of those.
        split: 0 for the first split of that key, 1 for the second.
        count: how many there are.
        counted: begins the message, such as `list.txt has`.
        unit: what they are.
    """
    expected = data.counts.get(name)
    if expected is not None and count != expected[split]:
        raise DataError(f"{counted} {count:,} {unit}, expected {expected[split]:,}; {data.get}")


def read_list(source: Path, expected: str, get: str) -> list[str]:
    """Lines of a list of images, without those that are empty.

    Args:
        source: the list.
        expected: what a line of it is, for the message.
        get: how to get the data; ends the message.

    Raises:
        DataError: no such file, or no line in it.
    """
    if not source.is_file():
        raise DataError(f"no list {source}: expected {expected} a line; {get}")
    lines = [line.strip() for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{source} names no image; {get}")
    return lines


def check_files(source: Path, files: Sequence[str], get: str) -> None:
    """See that the files that `source` names are there.

    Raises:
        DataError: some are missing; says how many and names the first five.
    """
    missing = [file for file in files if not os.path.exists(file)]
    if missing:
        first = ", ".join(missing[:5])
        raise DataError(f"{source}: {len(missing):,} of {len(files):,} files are missing: {first}; {get}")
