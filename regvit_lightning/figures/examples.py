"""Images with their class and the class that a model predicts, in rows, drawn from arrays without data loading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from regvit_lightning.figures.grids import show, shrunk_image
from regvit_lightning.figures.style import INK, PAPER, SMALL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL = 1.7  # inches
TITLE, NAMES = 0.3, 0.36  # inches above a row, and below each image for two lines
LONGEST_NAME = 24  # characters


@dataclass(frozen=True, eq=False)
class Classified:
    """One image.

    Attributes:
        image: (H, W, 3), uint8.
        truth: name of its class.
        predicted: name of the predicted class.
        confidence: of the prediction, in 0..1.
    """

    image: npt.NDArray[np.uint8]
    truth: str
    predicted: str
    confidence: float


def classified(rows: Mapping[str, Sequence[Classified]]) -> Figure:
    """Rows of images under their titles; a title without images says that there are none.

    Args:
        rows: images by title, from left to right.
    """
    from matplotlib.figure import Figure

    columns = max([len(row) for row in rows.values()] + [1])
    across, down = columns * PANEL, PANEL + TITLE + NAMES
    figure = Figure(figsize=(across + 0.2, len(rows) * down), dpi=100, facecolor=PAPER)
    width, height = across + 0.2, len(rows) * down
    for number, (title, row) in enumerate(rows.items()):
        top = height - number * down
        text = title if row else f"{title}: none"
        figure.text(0.1 / width, (top - 0.2) / height, text, fontsize=10.5, weight="bold", color=INK)
        for column, one in enumerate(row):
            box = (0.1 + column * PANEL) / width, (top - TITLE - PANEL) / height, 0.95 * PANEL / width, PANEL / height
            axes = figure.add_axes(box)
            show(axes, shrunk_image(one.image), interpolation="antialiased")
            names = f"is {_short(one.truth)}\n→ {_short(one.predicted)}, {100 * one.confidence:.0f} %"
            axes.set_xlabel(names, fontsize=SMALL, color=INK, loc="left", labelpad=3)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
