"""The pictures that lie beside records, made small: models of a family with and without registers side by side."""

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.tables.model_names import family
from benchmarks.tables.scored_records import ScoredRecord

QUALITY = 78  # of WebP, where labels of 8 px are still read
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what Pillow raises


@dataclass(frozen=True)
class Picture:
    """One picture, ready to be shown.

    Attributes:
        model: of its record.
        cell: index of the record in the page's list.
        text: what it is, in place of the picture.
        source: data URI.
        width, height: in pixels.
    """

    model: str
    cell: int
    text: str
    source: str
    width: int
    height: int


Families = dict[str, list[Picture]]


def gallery(cells: Sequence[ScoredRecord], width: int) -> tuple[dict[str, Families], list[str]]:
    """The pictures of every task by family, the first seed of each model; numbers of registers rise.

    Args:
        cells: in the order of the page's list.
        width: largest number of pixels of a picture, across.

    Returns:
        pictures by task, then by family; and a line for each picture that cannot be read.
    """
    tasks: dict[str, Families] = {}
    skipped, shown = [], set()
    for index, cell in enumerate(cells):
        record, file = cell.record, cell.file.with_suffix(".png")
        if (record.model, record.task) in shown or not os.path.exists(file):
            continue
        try:
            source, size = small(file, width)
        except UNREADABLE as error:
            skipped.append(f"{file}: unreadable picture ({error}); remove it and evaluate the cell again")
            continue
        shown.add((record.model, record.task))
        text = f"{record.task} of {record.model}, seed {record.seed}"
        picture = Picture(record.model, index, text, source, *size)
        tasks.setdefault(record.task, {}).setdefault(family(record.model), []).append(picture)
    return dict(sorted(tasks.items())), skipped


def small(file: Path, width: int) -> tuple[str, tuple[int, int]]:
    """A picture as a data URI in WebP, no wider than `width`, and its size.

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: not a picture (what Pillow raises).
    """
    with Image.open(file) as image:
        shown = image.convert("RGB")
    if shown.width > width:
        size = width, max(1, round(shown.height * width / shown.width))
        shown = shown.resize(size, Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    shown.save(packed, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}", shown.size
