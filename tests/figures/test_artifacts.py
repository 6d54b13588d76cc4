"""Pictures of norms: what is drawn equals what was given, also where there is no outlier or no spread."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from regvit_lightning.analysis.norms import measure
from regvit_lightning.analysis.outliers import Rules, find
from regvit_lightning.analysis.positions import placement
from regvit_lightning.figures import artifacts as figures
from regvit_lightning.figures import positions
from tests.analysis.planted import planted


@pytest.fixture(scope="module")
def case():
    return planted()


@pytest.fixture(scope="module")
def norms(case):
    return measure(case.backbone, case.normalised())


@pytest.fixture
def axes():
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    yield (drawn := figure.subplots())
    figure.canvas.draw()  # formatters and layout
    assert drawn.get_title(loc="left")


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_histogram_counts_every_patch_and_names_the_cutoffs_among_them(axes, norms):
    figures.norm_histogram(axes, norms.raw[:, -1], Rules())
    assert sum(bar.get_height() for bar in axes.patches) == norms.raw[:, -1].numel()
    assert axes.get_yscale() == "log"
    assert "norm > 150" in legend(axes)
    assert [line.get_xdata()[0] for line in axes.lines if line.get_label() == "norm > 150"] == [150]
    assert axes.get_xlabel() == "L2 norm; n = 1,024 patches"


def test_cutoffs_beyond_the_norms_are_left_out(axes, case, recwarn):
    figures.norm_histogram(axes, measure(case.clean, case.normalised()).raw[:, -1], Rules())
    assert axes.get_legend() is None
    assert [text.get_text() for text in axes.texts] == ["cutoffs: none within the norms"]
    assert not recwarn.list


def test_heatmap_has_a_share_of_one_in_each_block(axes, norms):
    figures.norms_by_block(axes, norms.raw)
    shares = axes.collections[0].get_array().filled(0).reshape(80, 4)
    np.testing.assert_allclose(shares.sum(axis=0), 1)
    edges = axes.collections[0].get_coordinates()[:, 0, 1]
    above = [shares[edges[:-1] > 100, block].sum() for block in range(4)]
    assert above == pytest.approx([0, 0, 1 / 32, 1 / 32])


def test_shares_of_every_rule(axes, norms):
    findings = find(norms, Rules())
    figures.shares_by_block(axes, findings, 0.005, 4)
    assert legend(axes) == list(Rules().words().values())
    lines = [line for line in axes.lines if line.get_label() in Rules().words().values()]
    for line, finding in zip(lines, findings.values(), strict=True):
        assert list(line.get_xdata()) == [0, 1, 2, 3, 4]
        assert list(line.get_ydata()) == [finding.embedded, *finding.shares]


def test_strips_keep_the_highest_and_show_the_median(axes):
    values = torch.rand(5, 64, 64, generator=torch.Generator().manual_seed(0)) + 1
    values[2, 3, 4] = 50
    figures.strips(axes, {"without": values, "with": values[:1]})
    heights = axes.collections[0].get_offsets()[:, 1]
    assert len(heights) <= figures.POINTS
    assert heights.max() == 50
    assert [line.get_ydata()[0] for line in axes.lines] == pytest.approx(
        [float(values.median()), float(values[0].median())]
    )
    assert [label.get_text() for label in axes.get_xticklabels()] == ["without", "with"]


def test_token_types(axes, norms):
    figures.token_types(axes, norms, 3)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["CLS", "patches", "reg 0", "reg 1", "reg 2", "reg 3"]
    for points, values in zip(axes.collections, (norms.cls[:, 2], norms.patches[:, 2]), strict=False):
        np.testing.assert_allclose(points.get_offsets()[:, 1], values.flatten().sort().values, rtol=1e-6)


def test_no_cls_and_no_registers(axes):
    bare = planted(registers=0)
    figures.token_types(axes, measure(bare.backbone, bare.normalised()), 1)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["CLS", "patches"]


def test_share_map_and_rings(case):
    figure = Figure()
    left, right = figure.subplots(1, 2)
    found = placement(case.flat)
    positions.share_map(left, found.share, len(case.flat))
    positions.ring_profile(right, found, case.flat)
    np.testing.assert_array_equal(left.get_images()[0].get_array(), case.flat.double().mean(0))
    np.testing.assert_array_equal(right.lines[0].get_ydata(), found.rings)
    shown = [right.yaxis.get_major_formatter()(value, 0) for value in (0, 0.0005, 0.05)]
    assert shown == ["0 %", "0.05 %", "5 %"]


def test_densities_have_an_area_of_one_and_lie_where_the_values_are(axes):
    similarity = torch.full((4, 8, 8), 0.3)
    mask = torch.zeros(4, 8, 8, dtype=torch.bool)
    mask[:, 0], similarity[:, 0] = True, 1.0
    positions.neighbour_densities(axes, similarity, mask)
    for line, peak in zip(axes.lines, (0.3, 1.0), strict=True):
        cosine, density = line.get_data()
        assert density.sum() * (cosine[1] - cosine[0]) == pytest.approx(1, abs=1e-6)
        assert cosine[density.argmax()] == pytest.approx(peak, abs=0.005)
    assert legend(axes) == ["normal (n = 224)", "outliers (n = 32)"]


def test_nothing_to_see_is_drawn_without_a_warning(recwarn):
    figure = Figure(layout="constrained")
    axes = figure.subplots(2, 3).flat
    same, none = torch.ones(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool)
    figures.norm_histogram(axes[0], same[:, 0], Rules())
    figures.norms_by_block(axes[1], same)
    figures.strips(axes[2], {"a": same})
    positions.share_map(axes[3], placement(none).share, 2)
    positions.ring_profile(axes[4], placement(none), none)
    positions.neighbour_densities(axes[5], same[:, 0], none)
    FigureCanvasAgg(figure).draw()
    assert not recwarn.list
