"""Charts as SVG: ticks, scales and positions, and no style but the page's."""

from itertools import pairwise

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.report import drawing
from tests.benchmarks.report.pages_by_hand import numbers, paths, svg


def ticks_drawn(low, high, log=False):
    """Vertical positions and labels of the ticks of a vertical axis, the lowest first."""
    with drawing.axes("") as axes:
        drawing.logarithmic(axes, "y", low, high) if log else drawing.linear_y(axes, low, high)
        axes.set_xticks([])
        ends = [drawing.position(axes, 0, end)[1] for end in (low, high)]
        drawn = svg(drawing.shapes(axes))
    lines = [numbers(path.get("d"))[1] for path in drawn.iter("path")]
    return lines, [text.text for text in drawn.iter("text")], ends


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
@hypothesis.settings(deadline=None)
def test_ticks_are_round_even_and_inside(low, span):
    lines, labels, (bottom, top) = ticks_drawn(low, low + span)
    places = [low + span * (bottom - line) / (bottom - top) for line in lines]
    assert 2 <= len(labels) <= 6
    assert all(low - 1e-3 * span <= place <= low + span * (1 + 1e-3) for place in places)
    found = [float(label) for label in labels]
    assert found == pytest.approx(places, abs=1e-3 * span)
    assert all(low - 1e-6 * span <= place <= low + span * (1 + 1e-6) for place in found)
    steps = {round((b - a) / span, 6) for a, b in pairwise(found)}
    assert len(steps) == 1
    assert f"{found[1] - found[0]:.0e}"[0] in "125"


def test_logarithmic_ticks():
    assert ticks_drawn(0.3, 30, log=True)[1] == ["0.5", "1", "2", "5", "10", "20"]
    assert ticks_drawn(0.9, 20000, log=True)[1] == ["1", "10", "100", "1000", "10000"]


def test_equal_ratios_are_equal_distances_on_a_logarithmic_axis():
    with drawing.axes("") as axes:
        drawing.logarithmic(axes, "y", 1.0, 100.0)
        one, ten, hundred = (drawing.position(axes, 0, value)[1] for value in (1, 10, 100))
    assert one - ten == pytest.approx(ten - hundred)
    assert one > hundred


@pytest.mark.filterwarnings("error")  # matplotlib warns of an axis without a length
def test_a_single_value_is_drawn_in_the_middle():
    with drawing.axes("") as axes:
        drawing.linear_x(axes, [4.0], ["4"])
        drawing.linear_y(axes, 7.0, 7.0)
        x, y = drawing.position(axes, 4, 7)
    assert y == pytest.approx((drawing.TOP + drawing.HEIGHT - drawing.BOTTOM) / 2)
    assert x == pytest.approx((drawing.LEFT + drawing.WIDTH - drawing.RIGHT) / 2)


def test_shapes_are_where_positions_are_and_bring_no_style_of_their_own():
    made = []
    for _ in range(2):
        with drawing.axes("below") as axes:
            drawing.linear_x(axes, [0.0, 1.0], ["a<b", "&"])
            drawing.linear_y(axes, 0.0, 10.0)
            axes.plot([0, 1], [2, 7], gid="line c3")
            ends = [drawing.position(axes, *point) for point in ((0, 2), (1, 7))]
            made.append(drawing.shapes(axes))
    assert made[0] == made[1]
    (line,) = paths(made[0], "line c3")
    assert line == pytest.approx([end for point in ends for end in point], abs=0.051)
    assert {name for shape in svg(made[0]) for name in shape.attrib} == {"class", "d", "text-anchor", "x", "y"}
    assert {"a<b", "&", "below"} < {text.text for text in svg(made[0]).iter("text")}
