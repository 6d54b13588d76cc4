"""Thumbnails of the images stored with records: models of a family with and without registers side by side."""

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.tables.model_names import family
from benchmarks.tables.scored_records import ScoredRecord

QUALITY = 78  # WebP quality at which labels of 8 px are still legible
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # errors raised by Pillow


@dataclass(frozen=True)
class Picture:
    """One image as shown on the page.

    Attributes:
        model: model of its record.
        cell: index of the record in the page's list.
        text: alternative text.
        source: the image as a data URI.
        width, height: size in pixels.
    """

    model: str
    cell: int
    text: str
    source: str
    width: int
    height: int


Families = dict[str, list[Picture]]


def gallery(cells: Sequence[ScoredRecord], width: int) -> tuple[dict[str, Families], list[str]]:
    """Images of every task by model family, for the first seed of each model, by ascending number of registers.

    Args:
        cells: records in the order of the page's list.
        width: maximum width of an image in pixels.

    Returns:
        Images by task, then by model family; and one warning for each unreadable image.
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
    """Downscale an image to at most `width` pixels across; returns it as a WebP data URI, and its size.

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: the image is unreadable (raised by Pillow).
    """
    with Image.open(file, formats=("PNG",)) as image:  # not EPS, for which Pillow starts a program
        shown = image.convert("RGB")
    if shown.width > width:
        size = width, max(1, round(shown.height * width / shown.width))
        shown = shown.resize(size, Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    shown.save(packed, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}", shown.size
