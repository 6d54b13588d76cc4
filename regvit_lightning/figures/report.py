"""Figures of the artifact report: one for each measurement, and a page that composes them all."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from regvit_lightning.analysis.report import ArtifactReport
from regvit_lightning.figures import artifacts, contents, positions, registers, sinks
from regvit_lightning.figures.style import INK, PAPER, axes_in, size_of
from regvit_lightning.figures.tokens import attention_maps, component_maps, head_maps, mean_attention, norm_maps, size
from regvit_lightning.frozen import dense

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

WIDTH = 16.0  # inches: width of the page
CHART = (4.0, 3.6)  # inches: size of a chart
PAGE_DPI = 80  # of the page, which is kept with every record
STAGES = 7  # blocks with norm maps, evenly spread, including the last

Draw = Callable[["Figure | SubFigure"], None]


@dataclass(frozen=True)
class Panel:
    """One figure: its size in inches and its drawing function."""

    size: tuple[float, float]
    draw: Draw

    def figure(self) -> Figure:
        """The panel as a figure of its own."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=self.size, facecolor=PAPER)
        self.draw(figure)
        return figure


def panels(report: ArtifactReport) -> dict[str, Panel]:
    """All figures of a report by the name of their files, charts first; a name says the paper's figure or table."""
    return {**_charts(report), **_maps(report)}


def page(report: ArtifactReport) -> Figure:
    """Compose all panels below the verdict, in order, side by side where they fit."""
    return composed(report.verdict, panels(report))


def composed(verdict: str, panels: Mapping[str, Panel]) -> Figure:
    """Compose panels below a sentence, in order, side by side where they fit."""
    from matplotlib.figure import Figure

    rows = _rows([_verdict(verdict), *panels.values()])
    heights = [max(panel.size[1] for panel in row) for row in rows]
    figure = Figure(figsize=(WIDTH, sum(heights)), dpi=PAGE_DPI, facecolor=PAPER)
    parts: Any = figure.subfigures(len(rows), 1, height_ratios=heights, hspace=0)
    for part, row, height in zip(parts, rows, heights, strict=True):
        _compose(part, row, height)
    return figure


def _compose(part: SubFigure, row: Sequence[Panel], height: float) -> None:
    """Draw panels side by side at their own sizes, at the top of a part of the page; the last pane stays empty."""
    widths = [panel.size[0] for panel in row]
    panes: Any = part.subfigures(1, len(row) + 1, width_ratios=[*widths, max(WIDTH - sum(widths), 0.01)], wspace=0)
    for pane, panel in zip(panes, row, strict=False):
        below = height - panel.size[1]
        inner = pane.subfigures(2, 1, height_ratios=[panel.size[1], below], hspace=0)[0] if below > 0.01 else pane
        panel.draw(inner)


def _rows(sections: Sequence[Panel]) -> list[list[Panel]]:
    """Arrange panels in order, side by side where they fit."""
    rows: list[list[Panel]] = []
    for section in sections:
        if rows and sum(other.size[0] for other in rows[-1]) + section.size[0] <= WIDTH + 1e-6:
            rows[-1].append(section)
        else:
            rows.append([section])
    return rows


def _verdict(text: str) -> Panel:
    lines = textwrap.wrap(text, 190)
    height = 0.25 + 0.2 * len(lines)

    def draw(figure: Figure | SubFigure) -> None:
        figure.text(0.12 / WIDTH, 1 - 0.18 / height, "\n".join(lines), fontsize=11, color=INK, va="top")

    return Panel((WIDTH, height), draw)


def _chart(draw: Callable[[Axes], None], **margins: float) -> Panel:
    return Panel(CHART, lambda figure: draw(axes_in(figure, **margins)))


def _charts(report: ArtifactReport) -> Mapping[str, Panel]:
    norms, rules, n = report.norms, report.rules, len(report.norms)
    legend, bar, matrix = {"bottom": 1.3}, {"right": 0.88}, {"right": 0.75, "bottom": 0.65}
    return {
        "fig3_norms": Panel((2 * CHART[0], CHART[1]), lambda figure: _norm_map_and_histogram(figure, report)),
        "fig4a_norms_by_block": _chart(lambda axes: artifacts.norms_by_block(axes, norms.raw), **bar),
        "outliers_by_block": _chart(
            lambda axes: artifacts.shares_by_block(axes, report.findings, rules.least_share, n), left=0.72, **legend
        ),
        "fig15_kinds_of_tokens": _chart(lambda axes: artifacts.token_types(axes, norms, norms.depth), bottom=0.95),
        "fig10_positions": _chart(
            lambda axes: positions.share_map(axes, report.placement.share, n), left=0.25, right=1.0, bottom=0.48
        ),
        "distance_from_border": _chart(
            lambda axes: positions.ring_profile(axes, report.placement, report.masks), left=0.75
        ),
        "fig5a_neighbours": _chart(lambda axes: positions.neighbour_densities(axes, norms.neighbours, report.masks)),
        "kurtosis": _chart(lambda axes: artifacts.kurtosis_by_block(axes, norms), right=0.75),
        "sinks": _chart(lambda axes: sinks.sinks_by_block(axes, report.sinks.sinks)),
        "variance_shares": _chart(lambda axes: sinks.variance_by_block(axes, report.locality), bottom=0.75),
        "cosines_by_block": _chart(lambda axes: sinks.cosines_by_block(axes, report.locality), bottom=0.75),
        "singular_direction": _chart(
            lambda axes: sinks.singular_direction(axes, report.defects.defects(), report.high_masks), bottom=0.75
        ),
        "table1_single_tokens": _chart(lambda axes: contents.single_tokens(axes, report.contents.tokens)),
        "fig5b_position_and_pixels": _chart(lambda axes: contents.local_probes(axes, report.contents), bottom=0.85),
        "registers_replaced": _chart(lambda axes: contents.replacements(axes, report.effects, n), bottom=0.85),
        "register_cosines": _chart(lambda axes: registers.cosine_matrix(axes, report.diversity), **matrix),
        "register_divergences": _chart(
            lambda axes: registers.divergence_matrix(
                axes, report.inside.divergences, report.inside.scores.get("register_divergence")
            ),
            **matrix,
        ),
        "fig12_cost": _chart(lambda axes: contents.costs(axes, report.costs), left=0.72),
    }


def _norm_map_and_histogram(figure: Figure | SubFigure, report: ArtifactReport) -> None:
    """Fig. 3: image and norm map of the shown image with most outliers, and the histogram of all images."""
    most = int(np.argmax([int(report.masks[index].sum()) for index in report.shown]))
    index, (width, height) = report.shown[most], size_of(figure)
    side, bottom = 2.02, height - 0.34 - 2.02  # inches

    def axes(left: float, across: float) -> Axes:
        return figure.add_axes((left / width, bottom / height, across / width, side / height))

    picture = report.inside.images[most].permute(1, 2, 0).numpy()
    positions.norm_map(
        (axes(0.12, side), axes(0.24 + side, side)), picture, report.last[index].numpy(), report.masks[index].numpy()
    )
    below = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.01), "bbox_transform": figure.transSubfigure, "ncols": 3}
    artifacts.norm_histogram(axes(5.6, width - 5.75), report.last, report.rules, below)


def _maps(report: ArtifactReport) -> Mapping[str, Panel]:
    """Norms by block, attention by head, attention and its mean, components."""
    inside, norms, shown = report.inside, report.norms, report.shown
    pictures: list[npt.NDArray[np.uint8]] = [image.permute(1, 2, 0).numpy() for image in inside.images]
    stages = sorted({*dense.examples(norms.depth, STAGES), norms.depth - 1})
    columns = {f"block {stage + 1}": norms.raw[shown, stage].numpy() for stage in stages}
    columns["final norm"] = norms.patches[shown, -1].numpy()
    every = {name: values.numpy() for name, values in inside.maps.items()}
    maps = {name: values[inside.shown] for name, values in every.items()}
    count, component, attention = len(pictures), np.nan_to_num(inside.component.numpy()), "attention, last block"
    figures = {
        "fig21_norm_maps": Panel(
            size(count, 1 + len(columns)), lambda pane: norm_maps(pane, pictures, columns, "norms of patches")
        )
    }
    if inside.heads is not None:
        heads = inside.heads.numpy()
        figures["fig18_heads"] = Panel(
            size(count, 1 + heads.shape[1]), lambda pane: head_maps(pane, pictures, heads, f"{attention}: CLS by head")
        )
    return figures | {
        "fig9_attention": Panel(
            size(count, 1 + len(maps)), lambda pane: attention_maps(pane, pictures, maps, f"{attention}: mean of heads")
        ),
        "fig20_components": Panel(
            size(2, count, bar=True),
            lambda pane: component_maps(pane, pictures, component, "first principal component"),
        ),
        "fig16_mean_attention": Panel(
            size(1, len(every)), lambda pane: mean_attention(pane, every, f"{attention}: mean of {len(inside)} images")
        ),
    }
