"""Figures of the artifact report of a convolutional or hierarchical model, by stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from regvit_lightning.analysis.stage_report import StageReport
from regvit_lightning.analysis.stages import WindowProfile, ring_profile
from regvit_lightning.figures import artifacts, contents, positions
from regvit_lightning.figures.report import CHART, STAGES, Panel, composed
from regvit_lightning.figures.style import GREY, LEGEND, LINES, MARKERS, NORMAL, SMALL, axes_in, bare, colour_bar, label
from regvit_lightning.figures.tokens import norm_maps, size
from regvit_lightning.frozen import dense

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

WIDE = (5.2, CHART[1])  # inches: a chart whose legend has the numbers of all rules in two columns


def panels(report: StageReport) -> dict[str, Panel]:
    """All figures of a report by the name of their files."""
    columns = _columns(report)
    figures = {
        "norm_maps": Panel(size(len(report.shown), 1 + len(columns)), lambda pane: _norm_maps(pane, report, columns)),
        "norms_by_stage": _chart(lambda axes: norms_by_stage(axes, report)),
        "outliers_by_stage": _chart(lambda axes: outliers_by_stage(axes, report), left=0.72, bottom=1.3),
        "distance_from_border": _chart(lambda axes: rings(axes, report), bottom=1.0),
        "neighbours": _chart(lambda axes: _neighbours(axes, report)),
        "histogram": Panel(WIDE, lambda figure: _histogram(axes_in(figure, bottom=1.3), report)),
    }
    for index, profile in enumerate(report.windows):
        if profile is not None:
            figures[f"windows_stage_{index + 1}"] = _windows(profile, index + 1)
    if report.contents:
        figures["single_cells"] = _chart(lambda axes: contents.single_tokens(axes, report.contents))
    return figures


def page(report: StageReport) -> Figure:
    """Compose all panels below the verdict."""
    return composed(report.verdict, panels(report))


def _chart(draw: Callable[[Axes], None], **margins: float) -> Panel:
    return Panel(CHART, lambda figure: draw(axes_in(figure, **margins)))


def _columns(report: StageReport) -> dict[str, Any]:
    """Norms of the shown images by title: the stages, evenly spread where there are many, and after the last norm."""
    stages, last = report.stages, len(report.stages) - 1
    columns: dict[str, Any] = {}
    for index in sorted({*dense.examples(len(stages), STAGES), last}):
        columns[f"stage {index + 1}"] = stages[index].before[report.shown].numpy()
        after = stages[index].after
        if after is not None and (index == last or len(stages) <= 4):
            columns[f"{index + 1}, normed"] = after[report.shown].numpy()
    return columns


def _norm_maps(pane: Figure | SubFigure, report: StageReport, columns: dict[str, Any]) -> None:
    pictures = [image.permute(1, 2, 0).numpy() for image in report.images]
    norm_maps(pane, pictures, columns, "norms of cells, as each stage leaves them and after the norm that follows")


def norms_by_stage(axes: Axes, report: StageReport) -> None:
    """Norms of the cells of every stage relative to the median of the stage, on a log axis."""
    groups = {str(number): stage.before / stage.before.median() for number, stage in enumerate(report.stages, 1)}
    artifacts.strips(axes, groups, dict.fromkeys(groups, report.rules.factor))
    axes.axhline(report.rules.factor, color=GREY, linewidth=0.8, linestyle=(0, (3, 2)))
    title = f"norms by stage (n = {len(report.stages[0]):,} images)"
    label(axes, title, "stage; ▲ above the dashed cutoff", "norm / median")


def outliers_by_stage(axes: Axes, report: StageReport) -> None:
    """Share of outliers against stage for every rule, starting at the stem (0)."""
    artifacts.shares_by_block(axes, report.findings, report.rules.least_share, len(report.stages[0]))
    label(axes, f"outliers by stage (n = {len(report.stages[0]):,} images)", "stage (0: stem)", "share of cells")


def rings(axes: Axes, report: StageReport) -> None:
    """Mean norm against the distance from the border, in cells, by stage; dashed with replicate padding.

    With replicate padding both lines are of the same images.
    """
    border = report.border
    for index, stage in enumerate(report.stages):
        values = ring_profile(stage.before) if border is None else border.zeros[index]
        across = (np.arange(len(values)) + 0.5) / len(values)
        line: dict[str, Any] = {"color": LINES[index % len(LINES)], "markersize": 3.5, "linewidth": 1.3}
        marker = MARKERS[index % len(MARKERS)]
        axes.plot(across, values, marker=marker, label=f"stage {index + 1}", **line)
        if border is not None:
            axes.plot(across, border.replicate[index], marker=marker, linestyle="--", markerfacecolor="white", **line)
    axes.axhline(1, color=GREY, linewidth=0.6)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["border", "halfway", "centre"])
    axes.legend(**LEGEND, loc="upper center", bbox_to_anchor=(0.45, -0.17), ncols=4, columnspacing=1.0)
    note = "no convolution pads" if border is None else "solid: zero padding, dashed: replicate"
    label(axes, "norms from the border", f"distance from the border; {note}", "mean norm / median")


def _neighbours(axes: Axes, report: StageReport) -> None:
    worst = report.worst
    positions.neighbour_densities(axes, report.stages[worst].neighbours, report.masks[worst])
    label(axes, f"neighbours in the stem, cells of stage {worst + 1}", "cosine, mean within the cell", "density")


def _histogram(axes: Axes, report: StageReport) -> None:
    worst = report.worst
    artifacts.norm_histogram(axes, report.stages[worst].before, report.rules)
    label(axes, f"norms of cells, stage {worst + 1}", "L2 norm", "cells")


def _windows(profile: WindowProfile, stage: int) -> Panel:
    def draw(figure: Figure | SubFigure) -> None:
        panes: Any = figure.subfigures(1, 2, width_ratios=[1, 1], wspace=0)
        left, right = panes
        axes = axes_in(left, left=0.35, right=0.95)
        picture = axes.imshow(100 * (profile.profile.numpy() - 1), cmap="viridis")
        colour_bar(axes, picture, "norm above the mean of all, %")
        label(axes, f"norms within windows, stage {stage}", "", "")
        bare(axes)
        steps(axes_in(right, left=0.72), profile, stage)

    return Panel((2 * CHART[0], CHART[1]), draw)


def steps(axes: Axes, profile: WindowProfile, stage: int) -> None:
    """Steps of the norm across lines of each phase with 95 % intervals over images; phase 0 are the window seams."""
    phases, values = np.arange(profile.size), np.array(profile.contrast)
    ends = np.array(profile.intervals)
    bars = [np.maximum(values - ends[:, 0], 0), np.maximum(ends[:, 1] - values, 0)]
    axes.bar(phases, values, 0.7, yerr=bars, color=NORMAL, error_kw={"linewidth": 0.8}, capsize=2)
    axes.axhline(0, color=GREY, linewidth=0.6)
    axes.set_xticks(phases, ["seam" if phase == 0 else str(phase) for phase in phases], fontsize=SMALL)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    shifted = f"; {profile.shift}: of shifted windows" if profile.shift else ""
    label(axes, f"steps of the norm, stage {stage}", f"cells from a window's start{shifted}", "step")
