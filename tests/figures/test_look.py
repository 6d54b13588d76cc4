"""The figure of a look: what is drawn is what was measured, nothing is clipped, overlaps or is smaller than 8 pt."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from regvit_lightning.analysis.token_maps import Discovered, ModelMaps, TokenMaps
from regvit_lightning.figures import look as figures
from regvit_lightning.figures import look_panels

RANDOM = np.random.default_rng(0)


def maps(grid=(4, 6), heads=3, registers=2, scale=10.0, region=None, only=False):
    """Random maps with one outlier at (1, 2) and an object of rows 1 to 2 and columns 2 to 4."""
    norms = scale * (1 + RANDOM.random(grid))
    norms[1, 2] = 9 * scale
    share = RANDOM.random((heads, *grid)) / 50
    foreground = RANDOM.random(grid) > 0.5
    return TokenMaps(
        pixels=RANDOM.integers(0, 256, (grid[0] * 8, grid[1] * 8, 3), dtype=np.uint8),
        region=region or (0, 0, grid[1] * 8, grid[0] * 8),
        heads=None if only else share,
        registers=None if only else RANDOM.random((registers, *grid)) / 50,
        norms=norms,
        outliers=norms > 8 * scale,
        similarity=2 * RANDOM.random(grid) - 1,
        patch=(2, 3),
        colours=np.where(foreground[..., None], RANDOM.random((*grid, 3)), np.nan),
        foreground=foreground,
        discovered=None if only else Discovered((1, 2), (2, 1, 5, 3), "LOST, keys"),
    )


def model(*images, name="a"):
    return ModelMaps(name, 12, 11, 12, images[0].heads is None, "3 × median", 30.0, images)


def drawn(figure):
    FigureCanvasAgg(figure).draw()
    return figure


def titled(figure, title):
    return [axes for axes in figure.axes if axes.get_title(loc="left") == title]


def values(axes):
    return np.asarray(axes.images[0].get_array())


def test_a_register_that_was_added_at_test_time_says_so():
    one = replace(maps(registers=3), added=1)
    panels = look_panels.register_panels(one, look_panels.frame_of([model(one)], 0))
    assert [panel.title for panel in panels] == ["reg_0", "reg_1", "reg_2, at test time"]
    assert [panel.name for panel in panels] == ["reg_0", "reg_1", "reg_2"]


def test_each_map_is_drawn_once_for_each_image_and_model():
    models = [model(maps(), maps(), name="a"), model(maps(heads=1, registers=1), maps(heads=1, registers=1), name="b")]
    figure = drawn(figures.overview(models, ["x.jpg", "y.jpg"]))
    every = [models[column].images[row] for row in (0, 1) for column in (0, 1)]
    for title, expected in {
        "CLS": [one.cls for one in every],
        "similarity to ×": [one.similarity for one in every],
        "norms, 1 outlier": [one.norms for one in every],
        "reg_0": [one.registers[0] for one in every],
        "reg_1": [one.registers[1] for one in every if len(one.registers) > 1],
        "2": [one.heads[2] for one in every if len(one.heads) > 2],
    }.items():
        found = [values(axes) for axes in titled(figure, title)]
        assert len(found) == len(expected)
        assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True)), title
    assert np.array_equal(values(titled(figure, "x.jpg")[0]), every[0].pixels)


def test_norms_share_one_scale_and_outliers_object_and_patch_are_marked_where_they_are():
    models = [model(maps(scale=10)), model(maps(scale=100), name="b")]
    figure = drawn(figures.overview(models, ["x.jpg"]))
    norms = titled(figure, "norms, 1 outlier")
    low, high = (extreme([one.images[0].norms for one in models]) for extreme in (np.min, np.max))
    assert {axes.images[0].get_clim() for axes in norms} == {(low, high)}
    (outlier,) = norms[0].patches
    assert outlier.get_bbox().bounds == (16, 8, 8, 8)
    lost = titled(figure, "LOST, keys")[0]
    assert {box.get_bbox().bounds for box in lost.patches} == {(16, 8, 24, 16)}
    assert [list(line.get_xydata()[0]) for line in lost.lines] == [[20, 12]]
    cross = titled(figure, "similarity to ×")[0].lines
    assert {tuple(line.get_xydata()[0]) for line in cross} == {(28, 20)}


def test_the_background_of_the_components_is_grey_and_the_foreground_has_its_colours():
    one = maps()
    figure = drawn(figures.overview([model(one)], ["x.jpg"]))
    shown = values(titled(figure, "components")[0])
    assert np.array_equal(shown[one.foreground], one.colours[one.foreground])
    assert len(np.unique(shown[~one.foreground], axis=0)) == 1


def test_none_is_written_where_there_is_nothing():
    models = [model(maps(registers=0)), model(maps(only=True), name="b")]
    figure = drawn(figures.overview(models, ["x.jpg"]))
    empty = [axes for axes in figure.axes if "none" in [text.get_text() for text in axes.texts]]
    assert [axes.get_title(loc="left") for axes in empty] == ["registers", "CLS", "LOST", "registers"]
    words = [text.get_text() for text in figure.texts]
    assert "CLS by head: none" in words
    assert any("gives tokens only: no attention" in text for text in words)


def test_what_a_model_sees_is_drawn_where_it_is_in_the_image():
    models = [model(maps((4, 8), region=(0, 0, 64, 32))), model(maps((4, 4), region=(16, 0, 48, 32)), name="b")]
    figure = drawn(figures.overview(models, ["x.jpg"]))
    for axes, extent in zip(titled(figure, "CLS"), ([0, 64, 32, 0], [16, 48, 32, 0]), strict=True):
        assert list(axes.images[0].get_extent()) == extent
        assert (axes.get_xlim(), axes.get_ylim()) == ((0, 64), (32, 0))


def within(box, figure):
    """Whether a box lies in the figure, to a hundredth of a pixel."""
    page = figure.bbox
    return min(box.x0 - page.x0, page.x1 - box.x1, box.y0 - page.y0, page.y1 - box.y1) >= -0.01


LONG = "timm-vit_giant_patch14_reg4_dinov2.lvd142m" * 3
SHAPES = {
    "wide": {"grid": (3, 12)},
    "tall": {"grid": (12, 3)},
    "many": {"grid": (4, 6), "heads": 24, "registers": 16},
    "plain": {"registers": 5},
}


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_clipped_overlaps_or_is_small(shape, count):
    others = [model(maps(only=True), name="b"), model(maps(), name="c"), model(maps(), name="d")]
    models = [model(maps(**SHAPES[shape]), name=LONG), *others[: count - 1]]
    figure = drawn(figures.overview(models, ["IMG_with_a_very_long_name_20260101.jpeg"]))
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    assert min(text.get_fontsize() for text in texts) >= 8
    assert [words for words, box in boxes if not within(box, figure)] == []
    overlaps = [(one[0], two[0]) for one, two in combinations(boxes, 2) if one[1].overlaps(two[1])]
    assert not overlaps
    for axes in figure.axes:
        inside = [words for words, box in boxes if axes.images and box.overlaps(axes.get_window_extent())]
        assert all(words == "none" or words.endswith("%") for words in inside), (axes.get_title(loc="left"), inside)


@pytest.mark.parametrize(("count", "in_a_line"), [(1, 5), (2, 3), (3, 2), (4, 2)])
def test_up_to_three_models_fit_on_a_page_in_landscape(count, in_a_line):
    figure = figures.overview([model(maps(), name=str(index)) for index in range(count)], ["x.jpg"])
    assert (figure.get_figwidth() <= 11) == (count < 4)
    large = [axes for axes in figure.axes if axes.get_position().width * figure.get_figwidth() == pytest.approx(1.2)]
    tops = [round(axes.get_position().y1, 6) for axes in large]
    assert len(large) == count * 7  # five maps and two registers
    assert max(tops.count(top) for top in tops) == count * in_a_line


def test_a_map_alone_has_no_title_and_its_own_bar():
    one = maps((4, 8))
    scale = look_panels.norm_scale([model(one)])
    panels = look_panels.main_panels(one, (0, 0, 64, 32), scale)
    for panel in panels:
        figure = drawn(figures.alone(panel, (0, 0, 64, 32)))
        assert len(figure.axes) == 1 + (panel.name in ("cls", "similarity", "norms"))
        box = figure.axes[0].get_position()
        across, down = figure.get_size_inches()
        assert (box.width * across) / (box.height * down) == pytest.approx(2)
        for text in figure.findobj(Text):
            if text.get_text():
                assert text.get_fontsize() >= 8
                assert within(text.get_window_extent(), figure), text.get_text()
    assert [panel.name for panel in panels] == ["cls", "similarity", "norms", "components", "lost"]


def test_weights_that_are_all_negative_are_dark():
    one = replace(maps(), heads=np.full((3, 4, 6), -0.02))  # as those of the arm `diff` may be
    (panel, *_) = look_panels.head_panels(one, look_panels.frame_of([model(one)], 0))
    assert panel.scale is not None
    assert (panel.scale[1].vmin, panel.scale[1].vmax) == (0, 1)


def test_attention_of_zeros_and_equal_norms_are_drawn(recwarn):
    one = maps()
    flat = replace(one, heads=np.zeros_like(one.heads), norms=np.ones_like(one.norms), outliers=np.zeros((4, 6), bool))
    drawn(figures.overview([model(flat)], ["x.jpg"]))
    assert not recwarn.list


def test_images_and_titles_of_different_number():
    with pytest.raises(ValueError, match="2 titles and maps of"):
        figures.overview([model(maps())], ["x.jpg", "y.jpg"])
