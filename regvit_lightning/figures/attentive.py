"""Attention of attentive probes: where the heads that classify an image look, beside the norms of its patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from regvit_lightning.figures.grids import (
    ABOVE,
    PANEL,
    column_title,
    rows_of_panels,
    same_titles,
    shrunk_image,
    write_score,
)
from regvit_lightning.figures.style import INK, OUTLIER, PAPER, SMALL, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOTE = 0.14  # inches: a line in small print below the title of a column


@dataclass(frozen=True, eq=False)
class HeadMap:
    """What one head attends to in an image.

    Attributes:
        title: title of the column.
        shares: (h, w), share of attention of each patch.
        outliers: attention on outliers in percent.
        registers: attention on registers in percent, None for a head that reads none.
        right: whether the head predicts the class.
    """

    title: str
    shares: npt.NDArray[np.floating]
    outliers: float
    registers: float | None
    right: bool

    @property
    def score(self) -> str:
        """Text on the map: whether the head is right, and the masses."""
        on_registers = "" if self.registers is None else f", registers {self.registers:.0f} %"
        return f"{'right' if self.right else 'wrong'}: outliers {self.outliers:.0f} %{on_registers}"


@dataclass(frozen=True, eq=False)
class Row:
    """One image.

    Attributes:
        image: (H, W, 3).
        norms: (h, w), norms of the patches.
        outliers: (h, w), bool.
        maps: one for each head; the same titles in every row.
    """

    image: npt.NDArray[np.uint8]
    norms: npt.NDArray[np.floating]
    outliers: npt.NDArray[np.bool_]
    maps: Sequence[HeadMap]


def attention_examples(rows: Sequence[Row]) -> Figure:
    """One row per image: image, norms, and the attention of each head; outliers have an orange frame in all maps.

    Raises:
        ValueError: no rows, or rows with maps of different titles.
    """
    titles = same_titles([[one.title for one in row.maps] for row in rows], "maps")
    count = 2 + len(titles)
    figure, grid = rows_of_panels([row.image for row in rows], [PANEL] * count, above=ABOVE + NOTE)
    for number, row in enumerate(rows):
        panels = [figure.add_subplot(grid[number, column]) for column in range(count)]
        panels[0].imshow(shrunk_image(row.image), interpolation="antialiased")
        bare(panels[0])
        _map(panels[1], row.norms, row.outliers, float(row.norms.min()))
        write_score(panels[1], f"{row.norms.min():.3g} to {row.norms.max():.3g}")
        for axes, one in zip(panels[2:], row.maps, strict=True):
            _map(axes, one.shares, row.outliers, 0.0)
            write_score(axes, one.score)
        if number == 0:
            notes = ["", "orange: outliers", *["0 (dark) to its largest share"] * len(titles)]
            for axes, title, note in zip(panels, ["image", "norm", *titles], notes, strict=True):
                column_title(figure, axes, title)
                axes.set_title(note, loc="left", fontsize=SMALL, color=INK, pad=3)
    return figure


def _map(axes: Axes, values: npt.NDArray[np.floating], outliers: npt.NDArray[np.bool_], low: float) -> None:
    """Show values from `low` to their largest, with a frame around outliers."""
    from matplotlib.patches import Rectangle

    axes.imshow(values, cmap="viridis", interpolation="nearest", vmin=low, vmax=max(float(values.max()), 1e-12))
    bare(axes)
    for y, x in np.argwhere(outliers):
        for colour, width in ((PAPER, 2.2), (OUTLIER, 1.2)):
            style: dict[str, Any] = {"fill": False, "edgecolor": colour, "linewidth": width}
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, **style))
