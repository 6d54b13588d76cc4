"""Figures of the artifact report: each by itself and all on a page, with texts that can be read and are whole."""

import re

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from regvit_lightning.figures import report as figures_report
from regvit_lightning.figures import style
from tests.analysis.planted import planted
from tests.tasks import test_artifact_report as of_task
from tests.tasks.test_artifact_report import photographs, truth  # noqa: F401


@pytest.fixture(scope="module")
def reports(truth, photographs):  # noqa: F811
    """The reports behind the figures of three models: with artifacts, without, and without registers too."""
    models = {"planted": truth.backbone, "clean": truth.clean, "bare": planted(registers=0).clean}
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures_report, "page", kept.append)
        for backbone in models.values():
            of_task.report(backbone, photographs, "resize=64")
    return dict(zip(models, kept, strict=True))


def texts(figure):
    """Visible texts with their boxes in pixels."""
    FigureCanvasAgg(figure).draw()
    shown = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    hidden = {id(text) for axes in figure.findobj(Axes) if not axes.axison for text in axes.findobj(Text)}
    return [(text, text.get_window_extent()) for text in shown if id(text) not in hidden]


def ticks_outside(figure):
    """Labels of ticks beyond the limits of their axis, which are not drawn."""
    outside = set()
    for axes in figure.findobj(Axes):
        for axis, (low, high) in ((axes.xaxis, sorted(axes.get_xlim())), (axes.yaxis, sorted(axes.get_ylim()))):
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low <= tick.get_loc() <= high:
                    outside |= {id(tick.label1), id(tick.label2)}
    return outside


@pytest.mark.parametrize("kind", ["planted", "clean", "bare"])
def test_no_text_is_cut_or_small(reports, kind):
    report = reports[kind]
    panels = figures_report.panels(report)
    for name, panel in panels.items():
        figure = panel.figure()
        shown = texts(figure)
        outside = ticks_outside(figure)
        for text, box in shown:
            if id(text) in outside:
                continue
            assert text.get_fontsize() >= style.SMALL, (name, text.get_text())
            inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
            assert inside, (kind, name, text.get_text(), box)
    titles = {axes.get_title("left") for axes in figures_report.page(report).axes}
    assert {"norms, last block", "cost of registers", "where outliers sit", "registers replaced"} <= {
        title.partition(" (")[0] for title in titles
    }


def test_where_there_is_nothing_it_says_none(reports):
    panels = figures_report.panels(reports["bare"])

    def words(name):
        return " ".join(text.get_text() for text, _ in texts(panels[name].figure()))

    assert "outliers in this image: none" in words("fig3_norms")
    assert "no outliers" in words("fig10_positions")
    assert "no outliers" in words("distance_from_border")
    assert "outliers: none" in words("fig5a_neighbours")
    assert "massive activations: none" in words("kurtosis")
    assert "outlier: none" in words("fig5b_position_and_pixels")
    assert "none: no registers" in words("registers_replaced")


@pytest.mark.parametrize("kind", ["planted", "clean", "bare"])
def test_every_chart_of_measurements_says_of_how_many(reports, kind):
    panels = figures_report.panels(reports[kind])
    for name in panels.keys() - {"fig12_cost", "fig21_norm_maps", "fig18_heads", "fig9_attention", "fig20_components"}:
        words = " ".join(text.get_text() for text, _ in texts(panels[name].figure()))
        assert re.search(r"n = (\d|below)|\d images|none: ", words), (name, words)


def test_an_error_bar_is_the_interval_of_a_mean_over_those_that_have_a_value():
    values = torch.tensor([[1.0, 2.0, float("nan")], [2.0, float("nan"), float("nan")], [6.0, float("nan"), 3.0]])
    mean, error = style.mean_and_error(values)
    assert mean.tolist() == [3, 2, 3]
    spread = np.std([1, 2, 6], ddof=1)
    assert error.tolist() == pytest.approx([1.96 * spread / np.sqrt(3), 0, 0])
    assert style.mean_and_deviation(values[:, 0]) == f"3.00 ± {spread:.2f}"


def test_the_map_of_positions_says_how_sure_its_largest_share_is():
    from matplotlib.figure import Figure

    from regvit_lightning.figures import positions

    axes = Figure().subplots()
    share = torch.zeros(2, 3)
    share[1, 2] = 0.3
    positions.share_map(axes, share, 10)
    assert axes.get_title("left") == "where outliers sit (n = 10 images)"
    assert axes.get_xlabel() == "largest share: 30 % [6.7, 65]"  # Clopper-Pearson of 3 of 10


def test_the_same_figure_gives_the_same_files(tmp_path):
    panel = figures_report.Panel((2.0, 1.0), lambda figure: style.axes_in(figure).plot([0, 1]))
    for folder in ("a", "b"):
        style.save(panel.figure(), tmp_path / folder / "line.of.one")
    for kind in style.FORMATS:
        first, second = ((tmp_path / folder / f"line.of.one.{kind}").read_bytes() for folder in "ab")
        assert first == second
    from PIL import Image

    with Image.open(tmp_path / "a" / "line.of.one.png") as image:
        assert image.size == (2 * style.DPI, style.DPI)


def test_error_bars_are_exact_intervals():
    from matplotlib.figure import Figure

    from regvit_lightning.analysis.probes import ProbeScore
    from regvit_lightning.figures import contents

    axes = Figure().subplots()
    right = torch.tensor([[True] * 3 + [False] * 7])
    contents.single_tokens(axes, {"CLS": ProbeScore(right, 1.0, 10), "outlier": None})
    (bar,) = axes.collections
    low, high = bar.get_segments()[0][:, 1]
    np.testing.assert_allclose((low, high), (6.674, 65.245), atol=0.01)  # Clopper-Pearson of 3 of 10
    assert axes.get_title("left") == "class from one token, n = 10 images"
