"""Scores of single tokens: everything that is written lies within the picture, whatever the measure is called."""

import pytest

from regvit_lightning.data.classified_set import MEASURES
from regvit_lightning.figures.token_scores import scores_of_tokens


@pytest.mark.parametrize("kinds", [1, 6])
@pytest.mark.parametrize("measure", MEASURES.values(), ids=list(MEASURES))
def test_what_is_written_is_not_cut(measure, kinds):
    rows = {f"register {number}": (40.0, (30.0, 50.0), 80) for number in range(kinds)}
    figure = scores_of_tokens(rows, measure, 20.0)
    figure.draw_without_rendering()
    width, height = figure.bbox.size
    (axes,) = figure.axes
    for text in (axes.xaxis.label, *axes.get_yticklabels()):
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
