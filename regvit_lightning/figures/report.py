"""Page of the artifact report: charts at the top, then maps of some images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from regvit_lightning.analysis.report import ArtifactReport
from regvit_lightning.figures import artifacts as figures_artifacts
from regvit_lightning.figures import contents as figures_contents
from regvit_lightning.figures.tokens import attention_maps, component_maps, head_maps, mean_attention, norm_maps, size
from regvit_lightning.frozen import dense

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

WIDTH, CHARTS = 16.0, 13.0  # inches: width of the page and height of the charts
STAGES = 7  # blocks with norm maps, evenly spread, including the last

Draw = Callable[["SubFigure"], None]


@dataclass(frozen=True)
class Section:
    """A part of the page: its size in inches and its drawing function."""

    size: tuple[float, float]
    draw: Draw


def page(report: ArtifactReport) -> Figure:
    """Draw the page: norms, outliers, probes and costs above; norms, attention and components of some images below."""
    from matplotlib.figure import Figure

    charts = Section((WIDTH, CHARTS), lambda figure: _charts(figure, report))
    rows = _rows([charts, *_maps(report)])
    heights = [max(section.size[1] for section in row) for row in rows]
    figure = Figure(figsize=(WIDTH, sum(heights)), dpi=80, facecolor="white")
    parts: Any = figure.subfigures(len(rows), 1, height_ratios=heights, hspace=0)
    for part, row in zip(parts, rows, strict=True):
        widths = [section.size[0] for section in row]
        panes = part.subfigures(1, len(row) + 1, width_ratios=[*widths, max(WIDTH - sum(widths), 0.01)], wspace=0)
        for pane, section in zip(panes, row, strict=False):  # the last pane stays empty
            section.draw(pane)
    return figure


def _rows(sections: Sequence[Section]) -> list[list[Section]]:
    """Arrange sections in order, side by side where they fit."""
    rows: list[list[Section]] = []
    for section in sections:
        if rows and sum(other.size[0] for other in rows[-1]) + section.size[0] <= WIDTH:
            rows[-1].append(section)
        else:
            rows.append([section])
    return rows


def _charts(figure: SubFigure, report: ArtifactReport) -> None:
    margins = {"left": 0.045, "right": 0.975, "top": 0.92, "bottom": 0.05, "wspace": 0.36, "hspace": 0.34}
    axes = figure.subplots(3, 4, gridspec_kw=margins).flatten()
    figure.suptitle(report.verdict, fontsize=10, wrap=True)
    norms, rules = report.norms, report.rules
    figures_artifacts.norm_histogram(axes[0], report.last, rules)
    figures_artifacts.norms_by_block(axes[1], norms.raw)
    figures_artifacts.shares_by_block(axes[2], report.findings, rules.least_share)
    figures_artifacts.token_types(axes[3], norms, norms.depth)
    figures_artifacts.share_map(axes[4], report.placed.share)
    figures_artifacts.ring_profile(axes[5], report.placed)
    figures_artifacts.neighbour_densities(axes[6], norms.neighbours, report.masks)
    figures_artifacts.kurtosis_by_block(axes[7], norms)
    figures_contents.single_tokens(axes[8], report.contents.tokens)
    figures_contents.local_probes(axes[9], report.contents)
    figures_contents.replacements(axes[10], report.effects)
    figures_contents.costs(axes[11], report.costs)


def _maps(report: ArtifactReport) -> list[Section]:
    """Sections of maps: norms and attention by head, attention and components, mean attention."""
    inside, norms, shown = report.inside, report.norms, report.shown
    pictures: list[npt.NDArray[np.uint8]] = [image.permute(1, 2, 0).numpy() for image in inside.images]
    stages = sorted({*dense.examples(norms.depth, STAGES), norms.depth - 1})
    columns = {f"block {stage + 1}": norms.raw[shown, stage].numpy() for stage in stages}
    columns["after the norm"] = norms.patches[shown, -1].numpy()
    every = {name: values.numpy() for name, values in inside.maps.items()}
    maps = {name: values[inside.shown] for name, values in every.items()}
    count, component, attention = len(pictures), np.nan_to_num(inside.component.numpy()), "attention of the last block"
    panels = [
        Section(
            size(count, 1 + len(columns)), lambda pane: norm_maps(pane, pictures, columns, "norms of patches, by block")
        ),
        Section(
            size(count, 1 + len(maps)),
            lambda pane: attention_maps(pane, pictures, maps, f"{attention}, mean over heads"),
        ),
        Section(
            size(2, count, bar=True),
            lambda pane: component_maps(pane, pictures, component, "first principal component of the patches"),
        ),
        Section(
            size(1, len(every)), lambda pane: mean_attention(pane, every, f"mean {attention}, {len(inside)} images")
        ),
    ]
    if inside.heads is not None:
        heads = inside.heads.numpy()
        of_heads = Section(
            size(count, 1 + heads.shape[1]),
            lambda pane: head_maps(pane, pictures, heads, f"{attention}, CLS by head"),
        )
        panels.insert(1, of_heads)
    return panels
