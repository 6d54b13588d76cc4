"""Pictures of tokens: what is shown where and on which scale, on a figure and on a part of a page."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from regvit_lightning.figures import tokens as figures_tokens

RANDOM = np.random.default_rng(0)
IMAGES = [RANDOM.integers(0, 256, shape, dtype=np.uint8) for shape in ((16, 16, 3), (12, 20, 3))]
MAPS = {"CLS": RANDOM.random((2, 4, 4)) / 8, "reg_0": RANDOM.random((2, 4, 4)) / 16}


def arrays(figure):
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


def drawn(size, function, *arguments):
    figure = Figure(figsize=size)
    function(figure, *arguments, "title")
    figure.canvas.draw()
    return figure


def test_attention_maps_row_by_row():
    figure = drawn(figures_tokens.size(2, 3), figures_tokens.attention_maps, IMAGES, MAPS)
    expected = [array for n in (0, 1) for array in (IMAGES[n], MAPS["CLS"][n], MAPS["reg_0"][n])]
    assert all(np.array_equal(*pair) for pair in zip(arrays(figure), expected, strict=True))
    assert [axes.get_title() for axes in figure.axes] == ["image", "CLS", "reg_0", "", "", ""]
    first = figure.axes[1]
    assert first.images[0].get_clim() == (0, MAPS["CLS"][0].max())
    assert f"{100 * MAPS['CLS'][0].max():.2g} %" in [text.get_text() for text in first.texts]


def test_a_map_that_is_all_on_one_patch_and_one_of_zeros():
    one, none = np.eye(4)[:1] * np.eye(4)[0][:, None], np.zeros((4, 4))
    maps = {"CLS": np.stack([one, none])}
    figure = drawn(figures_tokens.size(2, 2), figures_tokens.attention_maps, IMAGES, maps)
    assert [figure.axes[n].texts[-1].get_text() for n in (1, 3)] == ["100 %", "0 %"]


def test_weights_that_are_all_negative_are_dark():
    maps = {"CLS": np.full((2, 4, 4), -0.02)}  # as those of the arm `diff` may be
    figure = drawn(figures_tokens.size(2, 2), figures_tokens.attention_maps, IMAGES, maps)
    assert figure.axes[1].images[0].get_clim() == (0, 1)
    assert figure.axes[1].texts[-1].get_text() == "-2 %"


def test_heads_and_means():
    heads = RANDOM.random((2, 5, 4, 4))
    figure = drawn(figures_tokens.size(2, 6), figures_tokens.head_maps, IMAGES, heads)
    assert [axes.get_title() for axes in figure.axes[:6]] == ["image", *(f"head {n}" for n in range(5))]
    assert np.array_equal(arrays(figure)[6 + 3], heads[1, 2])
    figure = drawn(figures_tokens.size(1, 2), figures_tokens.mean_attention, MAPS)
    for found, maps in zip(arrays(figure), MAPS.values(), strict=True):
        np.testing.assert_allclose(found, maps.mean(axis=0))


def test_the_component_has_one_scale_of_three_sigma():
    component = RANDOM.standard_normal((2, 4, 4))
    figure = drawn(figures_tokens.size(2, 2, bar=True), figures_tokens.component_maps, IMAGES, component)
    assert np.array_equal(figure.axes[2].images[0].get_array(), component[0])
    assert {axes.images[0].get_clim() for axes in figure.axes[2:4]} == {(-3.0, 3.0)}


@pytest.mark.parametrize("columns", [1, 3, 17])
def test_panels_are_square_and_on_the_page(columns):
    size = figures_tokens.size(2, columns, bar=True)
    assert size[0] <= figures_tokens.WIDTH + 1e-9
    page = Figure(figsize=(14, 2 * size[1]))
    figures_tokens.component_maps(
        page.subfigures(2, 1, hspace=0)[1], [IMAGES[0]] * columns, np.zeros((columns, 4, 4)), ""
    )
    page.canvas.draw()
    for axes in page.axes[: 2 * columns]:
        box = axes.get_window_extent()
        assert box.width == pytest.approx(box.height)
        assert box.y0 >= 0
        assert box.y1 < page.bbox.height / 2
        assert box.x1 <= figures_tokens.WIDTH * page.dpi


def test_images_and_maps_of_different_number():
    for images in (IMAGES[:1], []):
        with pytest.raises(ValueError, match=f"{len(images)} images and maps of 2"):
            figures_tokens.attention_maps(Figure(), images, {"CLS": MAPS["CLS"]}, "")
