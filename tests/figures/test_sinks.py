"""Charts of sinks, locality and singular direction by block, on values made by hand."""

import pytest
import torch
from matplotlib.figure import Figure

from regvit_lightning.analysis.defects import Defects
from regvit_lightning.analysis.locality import Locality
from regvit_lightning.figures import sinks
from tests.analysis.test_questions import sinks as made


def drawn(draw, *arguments):
    axes = Figure().subplots()
    draw(axes, *arguments)
    return axes


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def words(axes):
    return [text.get_text() for text in axes.texts]


def test_bars_are_sinks_per_image_by_kind_and_block():
    axes = drawn(sinks.sinks_by_block, made(("NOP", "broadcast", "NOP"), with_one=5))
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers[:3]]
    assert heights == [[0, 0.5], [0, 0.25], [0, 0]]
    assert axes.containers[1][1].get_y() == 0.5
    assert legend(axes) == ["NOP: 0.50 per image", "broadcast: 0.25 per image", "other: 0 per image"]
    assert axes.get_title("left") == "attention sinks (n = 20 images)"
    assert axes.get_ylabel() == "sinks per image, of 4 heads"


def test_no_sink_and_none_measured_are_said():
    assert words(drawn(sinks.sinks_by_block, made(()))) == ["no sink in any head"]
    assert words(drawn(sinks.sinks_by_block, None)) == ["not measured for this model"]
    high = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    assert words(drawn(sinks.singular_direction, None, high)) == ["not measured for this model"]


def locality(cls=True):
    cosine = torch.tensor([[0.2, 0.4, 0.6]] * 2)
    position, image = torch.tensor([[0.1], [0.2], [0.3]]), torch.tensor([[0.5], [0.5], [0.5]])
    return Locality(cosine, -cosine if cls else None, position, image, torch.ones(3, 1))


def test_shares_and_cosines_are_those_of_the_stages():
    axes = drawn(sinks.variance_by_block, locality())
    assert legend(axes) == ["its own 20 %", "the image 50 %", "the position 30 %"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "F"]
    axes = drawn(sinks.cosines_by_block, locality())
    assert [bars.lines[0].get_ydata().tolist() for bars in axes.containers] == [
        pytest.approx([0.2, 0.4, 0.6]),
        pytest.approx([-0.2, -0.4, -0.6]),
    ]
    assert len(drawn(sinks.cosines_by_block, locality(cls=False)).containers) == 1


def test_the_singular_direction_has_high_norms_apart():
    cosines = torch.full((3, 2, 2, 2), 0.1)
    high = torch.zeros(3, 2, 2, 2, dtype=torch.bool)
    assert legend(drawn(sinks.singular_direction, Defects(cosines), high))[1] == "high norms: none"
    high[:, 1, 0, 0] = True
    cosines[:, 1, 0, 0] = 0.9
    axes = drawn(sinks.singular_direction, Defects(cosines), high)
    others, inside, shares = (line.get_ydata().tolist() for line in axes.lines)
    assert others == pytest.approx([0.1, 0.1])
    assert inside == pytest.approx([float("nan"), 0.9], nan_ok=True)
    assert shares == [0, 0]  # of four patches none is 4 standard deviations away
    assert legend(axes) == ["other patches", "high norms", "share of defects"]
