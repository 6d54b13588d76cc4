"""Pictures of attentive probes: what is written on the maps, where outliers are framed, and what is refused."""

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from regvit_lightning.figures.attentive import HeadMap, Row, attention_examples


def row(titles=("CAPI", "EP")):
    shares = np.arange(6.0).reshape(2, 3) / 15
    outliers = np.zeros((2, 3), bool)
    outliers[1, 2] = True
    maps = [HeadMap(title, shares, 33.3, 12.4 if title == "EP" else None, title == "EP") for title in titles]
    return Row(np.zeros((20, 30, 3), np.uint8), 1 + shares, outliers, maps)


def test_maps_carry_masses_and_frames():
    figure = attention_examples([row(), row()])
    assert len(figure.axes) == 2 * 4
    image, norm, capi, ep = figure.axes[:4]
    assert [text.get_text() for text in capi.texts] == ["wrong: outliers 33 %"]
    assert [text.get_text() for text in ep.texts] == ["right: outliers 33 %, registers 12 %"]
    assert [text.get_text() for text in norm.texts] == ["1 to 1.33"]
    for axes, frames in ((image, 0), (norm, 2), (capi, 2)):  # a light line below an orange one
        corners = [patch.get_xy() for patch in axes.patches if isinstance(patch, Rectangle)]
        assert corners == [(1.5, 0.5)] * frames
    assert capi.images[0].get_clim() == (0, pytest.approx(1 / 3))


def test_rows_of_different_heads_are_refused():
    with pytest.raises(ValueError, match="the same titles in all"):
        attention_examples([row(), row(("CAPI",))])
    with pytest.raises(ValueError, match="at least one"):
        attention_examples([])
