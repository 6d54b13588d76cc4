"""The pictures that lie beside records, made small: models of a family with and without registers side by side."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from benchmarks.report import cells as kept
from benchmarks.report.cells import Cell
from benchmarks.report.markup import Html, tag

QUALITY = 78  # of WebP, where labels of 8 px are still read


def gallery(cells: Sequence[Cell], width: int) -> tuple[list[Html], list[str]]:
    """A section per task with the pictures of every model, the first seed of each; numbers of registers rise.

    Args:
        width: largest number of pixels of a picture, across.

    Returns:
        the sections, and a line for each picture that cannot be read.
    """
    tasks: dict[str, dict[str, list[Html]]] = {}
    skipped, shown = [], set()
    for place, cell in enumerate(cells):
        record, file = cell.record, cell.file.with_suffix(".png")
        if (record.model, record.task) in shown or not file.exists():
            continue
        try:
            source, size = small(file, width)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            skipped.append(f"{file}: unreadable picture ({error}); remove it and evaluate the cell again")
            continue
        shown.add((record.model, record.task))
        text = f"{record.task} of {record.model}, seed {record.seed}"
        image = tag("img", src=source, alt=text, width=size[0], height=size[1])
        enlarge = tag("button", image, type="button", class_="enlarge", title="enlarge")
        opener = tag("button", record.model, type="button", data_cells=place, class_="open")
        figure = tag("figure", tag("figcaption", opener), enlarge, data_filter=record.model)
        tasks.setdefault(record.task, {}).setdefault(kept.family(record.model), []).append(figure)
    return [_section(task, families) for task, families in sorted(tasks.items())], skipped


def _section(task: str, families: dict[str, list[Html]]) -> Html:
    rows = [tag("div", figures, class_="twins") for figures in families.values()]
    return tag("section", tag("h3", task), rows, data_task=task, class_="pictures")


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
