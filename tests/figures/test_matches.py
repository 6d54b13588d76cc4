"""Matches between two images: which lines are drawn where."""

import numpy as np
import pytest

from regvit_lightning.figures.matches import Row, matches
from regvit_lightning.figures.style import NORMAL, OUTLIER


def row(height=40):
    images = np.zeros((height, 60, 3), np.uint8), np.zeros((80, 60, 3), np.uint8)
    points = np.array([[[5, 6], [7, 8]], [[15, 16], [17, 18]]], float)
    return Row("cat: PCK 50", *images, points, np.array([[15, 16], [40, 50]], float), np.array([True, False]))


def test_right_and_wrong_matches_are_lines_of_their_own_kind():
    figure = matches([row()])
    lines = [(tuple(line.xy1), tuple(line.xy2)) for line in figure.artists]
    assert lines == [((5, 6), (15, 16)), ((7, 8), (40, 50))]
    assert [line.get_linestyle() for line in figure.artists] == ["-", "--"]
    _, true, right, wrong = (line for axes in figure.axes for line in axes.lines)
    assert true.get_xydata().tolist() == [[15, 16], [17, 18]]
    assert (right.get_xydata().tolist(), right.get_color()) == ([[15, 16]], NORMAL)
    assert (wrong.get_xydata().tolist(), wrong.get_color()) == ([[40, 50]], OUTLIER)


def test_images_keep_their_shapes():
    figure = matches([row(), row(20)])
    for axes in figure.axes:
        width, height = axes.get_position().size * figure.get_size_inches()
        shape = axes.get_xlim()[1], axes.get_ylim()[0]
        assert width / height == pytest.approx(shape[0] / shape[1])


def test_no_pair_is_refused():
    with pytest.raises(ValueError, match="expected at least one"):
        matches([])
