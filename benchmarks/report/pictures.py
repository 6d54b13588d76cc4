"""Thumbnails of the images stored with records: models of a family with and without registers side by side."""

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from benchmarks.tables.model_names import plain_family
from benchmarks.tables.scored_records import ScoredRecord

QUALITY = 72  # JPEG quality at which labels of 8 px are still legible
BUDGET = 2_100_000  # bytes of all thumbnails: the page, and what a browser prints of it, stay below 3 MB
NARROWEST = 160  # pixels to which thumbnails shrink at most
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
        file: address of the full-size image, relative to the folder of the page.
    """

    model: str
    cell: int
    text: str
    source: str
    width: int
    height: int
    file: str


Families = dict[str, list[Picture]]


def gallery(cells: Sequence[ScoredRecord], width: int, budget: int = BUDGET) -> tuple[dict[str, Families], list[str]]:
    """Images of every task by model family, for the first seed of each model, by ascending number of registers.

    Args:
        cells: records in the order of the page's list.
        width: maximum width of an image in pixels; all become narrower where they would exceed the budget.
        budget: bytes of all images.

    Returns:
        Images by task, then by model family; and one warning for each unreadable image.
    """
    shown, skipped = _thumbnails(cells, width)
    while (total := sum(len(content) for content, _ in shown.values())) > budget and width > NARROWEST:
        width = max(NARROWEST, int(width * min(0.9, (budget / total) ** 0.6)))  # bytes grow by about width ** 1.6
        shown, _ = _thumbnails([cells[index] for index in shown], width, list(shown))
    tasks: dict[str, Families] = {}
    for index, (content, size) in shown.items():
        record = cells[index].record
        text = f"{record.task} of {record.model}, seed {record.seed}"
        file = address(cells[index].file.with_suffix(".png"))
        picture = Picture(record.model, index, text, data_uri(content), *size, file)
        tasks.setdefault(record.task, {}).setdefault(plain_family(record.model), []).append(picture)
    return dict(sorted(tasks.items())), skipped


Thumbnails = dict[int, tuple[bytes, tuple[int, int]]]  # contents and sizes by the index of the record


def _thumbnails(
    cells: Sequence[ScoredRecord], width: int, indices: Sequence[int] | None = None
) -> tuple[Thumbnails, list[str]]:
    """Thumbnails of the first seed of each model and task that has an image, and warnings."""
    thumbnails: Thumbnails = {}
    skipped, shown = [], set()
    for index, cell in zip(indices or range(len(cells)), cells, strict=True):
        record, file = cell.record, cell.file.with_suffix(".png")
        if (record.model, record.task) in shown or not os.path.exists(file):
            continue
        try:
            thumbnails[index] = small(file, width)
        except UNREADABLE as error:
            skipped.append(f"{file}: unreadable picture ({error}); remove it and evaluate the cell again")
        else:
            shown.add((record.model, record.task))
    return thumbnails, skipped


def address(file: Path) -> str:
    """Address of a file two folders below that of the page: `cells/<model>/<file>`."""
    return "/".join(quote(part, safe="") for part in file.parts[-3:])


def data_uri(jpeg: bytes) -> str:
    """Data URI of the content of a JPEG file."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def small(file: Path, width: int) -> tuple[bytes, tuple[int, int]]:
    """Downscale an image to at most `width` pixels across; returns it as a JPEG file, and its size.

    JPEG, since browsers copy it as it is into what they print; any other format becomes ten times as large there.

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: the image is unreadable (raised by Pillow).
    """
    with Image.open(file, formats=("PNG",)) as image:  # not EPS, for which Pillow starts a program
        shown = image.convert("RGB")
    if shown.width > width:
        size = width, max(1, round(shown.height * width / shown.width))
        shown = shown.resize(size, Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    shown.save(packed, "JPEG", quality=QUALITY, optimize=True)
    return packed.getvalue(), shown.size
