"""Forest plots: where each mark stands, in which colour, and that all panels have one scale."""

import numpy as np
import pytest
from matplotlib.colors import same_color, to_hex

from regvit_lightning.figures import forest
from regvit_lightning.figures.forest import Panel, Whisker
from regvit_lightning.figures.style import GREY, NORMAL, OUTLIER, PAPER

ROWS = [("class", "cat"), ("class", "dog"), ("size", "small"), ("size", "large")]
FIRST = Panel("a against b", [Whisker(8, 5, 11, 1), Whisker(-4, -6, -2, -1), None, Whisker(1, -2, 4, 0)], 3.0)
SECOND = Panel("c against d", [Whisker(-1, -1, -1, 0), None, None, None], -0.5)


@pytest.fixture(scope="module")
def figure():
    return forest.forest("knn top-1 % ↑", "difference in %", ROWS, [FIRST, SECOND])


def marks(axes):
    """Value, row, colour and face of each point."""
    points = [line for line in axes.lines if line.get_marker() not in ("", "None", None)]
    return [
        (*(float(np.ravel(one)[0]) for one in line.get_data()), line.get_color(), line.get_markerfacecolor())
        for line in points
    ]


def test_each_difference_stands_in_its_row_in_the_colour_of_its_verdict(figure):
    first, second = figure.axes
    assert [(value, row) for value, row, *_ in marks(first)] == [(8, 0), (-4, 1), (1, 3)]
    assert [to_hex(colour) for *_, colour, _ in marks(first)] == [to_hex(one) for one in (NORMAL, OUTLIER, GREY)]
    assert [same_color(face, PAPER) for *_, face in marks(first)] == [False, False, True]  # hollow where unclear
    assert [(value, row) for value, row, *_ in marks(second)] == [(-1, 0)]


def test_marks_point_to_the_side_of_the_difference_and_not_of_the_verdict():
    """Where lower is better, a better model has a negative difference: blue, and pointing left."""
    panel = Panel("", [Whisker(-2, -3, -1, 1), Whisker(2, 1, 3, -1), Whisker(0, -1, 1, 0)], 0.0)
    (axes,) = forest.forest("", "", ROWS[:3], [panel]).axes
    points = [line for line in axes.lines if line.get_marker() in ("<", ">", "o")]
    assert [line.get_marker() for line in points] == ["<", ">", "o"]
    assert [to_hex(line.get_color()) for line in points] == [to_hex(one) for one in (NORMAL, OUTLIER, GREY)]


def test_intervals_are_drawn_from_end_to_end(figure):
    spans = [line.get_xdata() for line in figure.axes[0].lines if line.get_solid_capstyle() == "butt"]
    assert [tuple(map(float, span)) for span in spans] == [(5, 11), (-6, -2), (-2, 4)]


def test_all_panels_share_a_scale_that_holds_every_value(figure):
    turned = forest.forest("", "", ROWS, [SECOND, FIRST])
    limits = [axes.get_xlim() for axes in (*figure.axes, *turned.axes)]
    assert limits == [(-10, 10)] * 4  # 1.25 × 8
    assert all(axes.get_ylim() == (3.5, -0.5) for axes in figure.axes)  # the first row is at the top


def test_the_difference_on_all_images_is_dotted(figure):
    dotted = [line for axes in figure.axes for line in axes.lines if line.get_linestyle() == ":"]
    assert [float(line.get_xdata()[0]) for line in dotted] == [3.0, -0.5]


def test_rows_are_named_once_and_kinds_where_they_begin(figure):
    first, second = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["cat", "dog", "small", "large"]
    assert not any(label.get_text() for label in second.get_yticklabels())
    assert [(text.get_text(), text.xy[1]) for text in first.texts] == [("class", 0), ("size", 2)]
    assert not second.texts
    for axes in figure.axes:
        rules = [line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]]
        assert rules == [1.5]


def test_texts_lie_in_the_figure_and_do_not_cover_each_other(figure):
    figure.canvas.draw()
    inside = figure.bbox
    first, second = figure.axes
    boxes = [text.get_window_extent() for text in (*first.texts, *first.get_yticklabels(), *figure.texts)]
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes)
    names, kinds = first.get_yticklabels(), first.texts
    assert max(kind.get_window_extent().x1 for kind in kinds) < min(name.get_window_extent().x0 for name in names)
    assert first.get_window_extent().x1 < second.get_window_extent().x0


def test_no_difference_at_all_is_drawn():
    (axes,) = forest.forest("", "", ROWS[:1], [Panel("", [Whisker(0, 0, 0, 0)], 0.0)]).axes
    assert axes.get_xlim() == (-1, 1)
    (axes,) = forest.forest("", "", ROWS[:1], [Panel("", [None], 0.0)]).axes
    assert axes.get_xlim() == (-1, 1)
