"""Strips of videos: what is drawn where."""

import numpy as np
import pytest

from regvit_lightning.figures.strips import COLOURS, OPACITY, Panel, Strip, strips


def panel(predicted=True, outliers=()):
    truth = np.zeros((40, 60), np.uint8)
    truth[10:20, 10:30] = 5
    classes = np.zeros_like(truth)
    classes[10:20, 40:50] = 1
    marks = np.zeros((4, 6), bool)
    for row, column in outliers:
        marks[row, column] = True
    return Panel(np.full((40, 60, 3), 200, np.uint8), truth, classes if predicted else None, marks, "frame 1")


def shown(axes):
    return np.asarray(axes.images[0].get_array())


def test_the_given_mask_and_the_predicted_one_are_coloured():
    given, predicted = strips([Strip("a", [panel(predicted=False), panel()])]).axes
    colour = np.array([int(COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)])
    mixed = np.rint((1 - OPACITY) * 200 + OPACITY * colour)
    assert np.abs(shown(given)[15, 20] - mixed).max() <= 1  # the id 5 is the first object
    assert (shown(given)[15, 45] == 200).all()
    assert np.abs(shown(predicted)[15, 45] - mixed).max() <= 1
    assert (shown(predicted)[15, 20] == 200).all()


def test_the_true_contour_is_drawn_on_both():
    for axes in strips([Strip("a", [panel(predicted=False), panel()])]).axes:
        inner = axes.collections[-1]  # above its dark edge
        points = np.concatenate([path.vertices for path in inner.get_paths()])
        assert points.min(axis=0) == pytest.approx([10, 10])
        assert points.max(axis=0) == pytest.approx([30, 20])


def test_outliers_are_squares_in_the_middle_of_their_patches():
    figure = strips([Strip("a", [panel(outliers=[(1, 2), (3, 5)])])])
    (line,) = figure.axes[0].lines
    assert np.stack(line.get_data(), 1).tolist() == [[25, 15], [55, 35]]
    assert "orange squares" in figure.texts[-1].get_text()
    assert "no patch of outlier norm" in strips([Strip("a", [panel()])]).texts[-1].get_text()


def test_rows_have_their_titles_and_frames():
    figure = strips([Strip("a: J&F 1", [panel()] * 3), Strip("b", [panel()] * 2)])
    assert len(figure.axes) == 5
    assert [text.get_text() for text in figure.texts[:2]] == ["a: J&F 1", "b"]
    with pytest.raises(ValueError, match="expected at least one"):
        strips([Strip("a", [])])
