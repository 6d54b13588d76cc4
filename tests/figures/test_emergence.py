"""The figure of a study: what is drawn is what was measured."""

import numpy as np

from regvit_lightning.figures import emergence
from regvit_lightning.figures.emergence import Curve, Panel


def drawn(panels):
    figure = emergence.figure(panels)
    return figure, [axes for axes in figure.axes if axes.get_visible()]


def test_each_run_is_a_line_in_the_panel_of_its_setting():
    first = Panel("base", [Curve(0, [0, 100], [1.5, 4.5]), Curve(4, [0, 100], [1.5, 2.5])])
    second = Panel("blocks 12", [Curve(4, [0, 50, 100], [1.0, 2.0, 7.0])])
    figure, axes = drawn([first, second])
    assert [one.get_title(loc="left") for one in axes] == ["base", "blocks 12"]
    lines = [[line for line in one.lines if len(line.get_xdata()) > 1] for one in axes]
    data = [[line.get_ydata().tolist() for line in of_axes if len(set(line.get_ydata())) > 1] for of_axes in lines]
    assert data == [[[1.5, 4.5], [1.5, 2.5]], [[1.0, 2.0, 7.0]]]
    styles = {line.get_label(): line.get_linestyle() for line in axes[1].lines}
    assert styles["0 registers"] != styles["4 registers"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "3 × the median",
        "0 registers",
        "4 registers",
    ]


def test_a_long_title_takes_several_lines():
    _, (axes,) = drawn([Panel("blocks 12, patches 144, weight_decay 0.3", [Curve(0, [0, 100], [1.0, 2.0])])])
    lines = axes.get_title(loc="left").split("\n")
    assert " ".join(lines) == "blocks 12, patches 144, weight_decay 0.3"
    assert max(map(len, lines)) <= 27


def test_nothing_of_a_single_panel_is_cut():
    figure, (axes,) = drawn([Panel("base", [Curve(count, [0, 399_000], [2.0, 2.5]) for count in (0, 4)])])
    figure.canvas.draw()
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticklabels() if low <= tick.get_position()[0] <= high]
    for box in (part.get_window_extent() for part in (figure.legends[0], *ticks)):
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1


def test_axes_are_common_and_hold_every_value_and_the_threshold():
    panels = [Panel(f"panel {index}", [Curve(0, [0, 100], [1.0, 1.0 + index])]) for index in range(6)]
    _, axes = drawn(panels)
    assert len(axes) == 6
    assert len({one.get_ylim() for one in axes}) == 1
    assert axes[0].get_ylim()[1] > 6.0
    _, (quiet,) = drawn([Panel("quiet", [Curve(0, [0, 100], [1.2, 1.3])])])
    low, high = quiet.get_ylim()
    assert low < 1.2
    assert high > emergence.THRESHOLD
    assert np.isfinite([low, high]).all()
