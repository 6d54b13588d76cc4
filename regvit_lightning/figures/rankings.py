"""Rankings of retrieval: a query, and the images that are found first, framed by what they are to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from regvit_lightning.figures.grids import shrunk_image
from regvit_lightning.figures.style import GREEN, GREY, INK, NORMAL, OUTLIER, PAPER, SMALL, TITLE, bare

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OTHER = "another"  # an image that does not show the query's landmark
FRAMES = {"easy": (NORMAL, "-"), "hard": (GREEN, "-"), "junk": (GREY, ":"), OTHER: (OUTLIER, "--")}
SIDE, GAP, HEAD, FOOT, MARGIN = 1.25, 0.12, 0.28, 0.22, 0.12  # inches


@dataclass(frozen=True, eq=False)
class Row:
    """One query.

    Attributes:
        title: text above it.
        query: (H, W, 3), its part that is searched for.
        found: images (H, W, 3), the most similar first.
        grades: what each of them is, a key of `FRAMES`.
    """

    title: str
    query: npt.NDArray[np.uint8]
    found: Sequence[npt.NDArray[np.uint8]]
    grades: Sequence[str]


def rankings(rows: Sequence[Row]) -> Figure:
    """One row per query: the query, then what is found, each with its rank and grade; wrong ones have dashed frames.

    Raises:
        ValueError: no rows.
    """
    from matplotlib.figure import Figure

    if not rows:
        raise ValueError("no query to show: expected at least one")
    columns = 1 + max(len(row.found) for row in rows)
    step = SIDE + HEAD + FOOT
    size = columns * (SIDE + GAP) + 2 * MARGIN, len(rows) * step + 0.05
    figure = Figure(figsize=size, dpi=100, facecolor=PAPER)
    for number, row in enumerate(rows):
        top = size[1] - number * step
        figure.text(MARGIN / size[0], (top - 0.2) / size[1], row.title, fontsize=TITLE, weight="bold", color=INK)
        _panel(figure, row.query, "query", (INK, "-"), MARGIN, top - HEAD - SIDE)
        for rank, (image, grade) in enumerate(zip(row.found, row.grades, strict=True), 1):
            left = MARGIN + rank * (SIDE + GAP)
            _panel(figure, image, f"{rank}: {grade}", FRAMES[grade], left, top - HEAD - SIDE)
    return figure


def _panel(
    figure: Figure, image: npt.NDArray[np.uint8], text: str, frame: tuple[str, str], left: float, bottom: float
) -> None:
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, bottom / height, SIDE / width, SIDE / height))
    axes.imshow(shrunk_image(image), interpolation="antialiased")
    bare(axes)
    axes.spines[:].set(visible=True, edgecolor=frame[0], linestyle=frame[1], linewidth=2.0)
    axes.set_xlabel(text, fontsize=SMALL, color=INK, labelpad=2)
