"""Figures that compare models: points, error bars and families are those of the records."""

import numpy as np
import pytest

from benchmarks.tables import __main__ as program
from benchmarks.tables import paper_figures
from tests.by_hand import cell, report

FACTS = {"columns": {"top1": {"better": 1, "unit": "%", "decimals": 1}}}


def linear(model, top1, seed=0):
    return cell(model, "imagenet_linear", seed, top1, **FACTS)


def figures(cells):
    return dict(paper_figures.figures(cells, list(program.tables(cells))))


def test_registers_against_a_metric_with_the_deviation_over_seeds():
    several = [linear("deit3-vitn_reg0", value, seed) for seed, value in enumerate((40.0, 42.0, 44.0))]
    one = [linear("deit3-vitn_reg4", 50.0), linear("dinov2-vitn_reg0", 20.0), linear("dinov2-vitn_reg8", 30.0)]
    figure = figures([*several, *one])["fig8"]
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "4", "8"]
    bars = [[segment[:, 1].tolist() for segment in lines.get_segments()] for lines in axes.collections]
    assert bars == [[[40.0, 44.0], [49.0, 51.0]], [[19.0, 21.0], [29.0, 31.0]]]  # standard deviation 2; interval ±1
    markers = {line.get_marker() for line in axes.lines if line.get_linestyle() != "None"}
    assert len(markers) == 2


def test_floors_are_lines_across_the_panel_and_named():
    cells = [linear("deit3-vitn_reg0", 40.0), linear("deit3-vitn_reg4", 50.0), linear("random-vitn_reg4", 9.0)]
    tables = {table.name: table for table in program.tables(cells)}
    assert [row.model for row in tables["fig8"].rows if row.floor] == ["random-vitn_reg4"]
    figure = figures(cells)["fig8"]
    (axes,) = figure.axes
    (floor,) = [line for line in axes.lines if list(line.get_ydata()) == [9, 9]]
    assert list(floor.get_xdata()) == [0, 1]  # across the axes
    assert axes.get_ylim()[0] < 9
    (legend,) = [part.legends[0] for part in figure.subfigs if part.legends]
    assert [text.get_text() for text in legend.get_texts()] == ["deit3-vitn", "floor: random-vitn_reg4"]
    assert "fig8" not in figures([linear("deit3-vitn_reg0", 40.0), linear("random-vitn_reg4", 9.0)])


def test_norms_of_models_mark_what_is_above_three_medians():
    figure = figures([report("deit3-vitn_reg0"), report("deit3-vitn_reg4", 0.5)])["fig7"]
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["deit3-vitn_reg0", "deit3-vitn_reg4"]
    assert axes.get_title("left").endswith("above 3 × median: none")  # 0 to 200 by ones
    outlying = report("deit3-vitn_reg0")
    outlying.record.protocol["norms_of_last_block"][-1] = 301.0
    (axes,) = figures([outlying])["fig7"].axes
    assert axes.collections[1].get_offsets()[:, 1].tolist() == [301.0]
    assert "one of 201 quantiles of the patches of 960 images" in axes.get_legend().get_texts()[0].get_text()


def test_costs_of_models_of_one_size_are_one_line():
    figure = figures([report("deit3-vitn_reg0"), report("dinov2-vitn_reg4"), report("random-vitn_reg4")])["fig12"]
    (axes,) = figure.axes
    named = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}
    assert named["deit3-vitn, dinov2-vitn: multiply-adds"] == pytest.approx([0, 0.4])
    assert named["deit3-vitn, dinov2-vitn: parameters"] == pytest.approx([0, 0.1])
    assert len(named) == 2


def test_no_records_no_figures():
    assert figures([cell()]) == {}
