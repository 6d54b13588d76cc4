"""Figures: what is drawn where, by planted pixels; sizes, legends and the depth scale."""

import io
from itertools import combinations, pairwise

import cv2
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from regvit_lightning.data.mini.scenes import SEMANTIC_IDS, render, sample_scene
from regvit_lightning.figures import boxes, contact_sheet, grids, palettes

NAMES = ["sky", "tree", "road", "car"]
COLOURS = np.array([[10, 20, 200], [0, 150, 0], [90, 90, 90], [220, 0, 0]], np.uint8)
WHITE = (255, 255, 255)


def image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def halves(height, width, left, right):
    labels = np.full((height, width), left, np.uint8)
    labels[:, width // 2 :] = right
    return labels


def pictures(figure):
    """Rows of three: the arrays of the panels, without the colour bar's."""
    shown = [axes.get_images() for axes in figure.axes]
    arrays = [images[0].get_array() for images in shown if images]
    return [arrays[i : i + 3] for i in range(0, len(arrays), 3)]


def depth_scales(figure):
    shown = [picture for axes in figure.axes for picture in axes.get_images()]
    return [picture.get_clim() for picture in shown if picture.get_array().ndim == 2]


def legends(figure):
    return [[text.get_text() for text in axes.get_legend().get_texts()] for axes in figure.axes if axes.get_legend()]


def rendered(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def colour_at(figure, pixels, panel, down, across):
    """What stands at a relative position, 0 to 1 from the upper left corner, of the panel with that number."""
    axes = [axes for axes in figure.axes if axes.get_images()][panel]
    box = axes.get_window_extent()
    row, column = len(pixels) - (box.y1 - down * box.height), box.x0 + across * box.width
    return tuple(pixels[int(row), int(column)].tolist())


def lab(colours):
    return cv2.cvtColor(colours[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]


def test_palette_is_distinct_and_never_white():
    colours = palettes.palette(255)
    assert (colours.dtype, colours.shape) == (np.uint8, (255, 3))
    distance = np.linalg.norm(lab(colours)[:, None] - lab(colours), axis=-1) + 1e3 * np.eye(255)
    assert distance.min() > 3.5
    assert distance[:21, :21].min() > 15
    assert np.linalg.norm(lab(colours) - (100, 0, 0), axis=-1).min() > 20
    assert np.array_equal(palettes.palette(21), colours[:21])
    assert palettes.palette(0).shape == (0, 3)


def test_segmentation_row_by_row():
    truths = [halves(30, 40, 0, 255), halves(30, 40, 1, 2)]
    predictions = [halves(30, 40, 0, 3), halves(30, 40, 2, 2)]
    images = [image(30, 40, seed) for seed in range(2)]
    figure = grids.segmentation_examples(images, truths, predictions, NAMES, COLOURS)
    rows = pictures(figure)
    assert [len(row) for row in rows] == [3, 3]
    assert all(np.array_equal(row[0], shown) for row, shown in zip(rows, images, strict=True))
    corners = [[tuple(panel[0, column].tolist()) for panel in row[1:] for column in (0, -1)] for row in rows]
    sky, tree, road, car = map(tuple, COLOURS.tolist())
    assert corners == [[sky, WHITE, sky, car], [tree, road, road, road]]
    pixels = rendered(figure)
    drawn = [colour_at(figure, pixels, panel, 0.5, across) for panel in (1, 2, 4, 5) for across in (0.2, 0.8)]
    assert drawn == [*corners[0], *corners[1]]


def test_legend_has_the_classes_of_both_maps_and_most_pixels_come_first():
    truth, prediction = np.full((2, 10, 10), 2, np.uint8)
    truth[0, :5] = 255
    truth[1] = 0
    prediction[2, :4] = 3
    figure = grids.segmentation_examples([image(10, 10)], [truth], [prediction], NAMES, COLOURS)
    assert legends(figure) == [["road", "sky", "car"]]
    swatches = figure.axes[-1].get_legend().get_patches()
    seen = [tuple(round(255 * part) for part in patch.get_facecolor()[:3]) for patch in swatches]
    assert seen == [tuple(COLOURS[number].tolist()) for number in (2, 0, 3)]


@pytest.mark.parametrize("classes", [1, 12, 13, 40])
def test_a_legend_has_all_names(classes):
    labels = (np.arange(40 * 40) % classes).astype(np.uint8).reshape(40, 40)
    names = [f"class {number}" for number in range(classes)]
    figure = grids.segmentation_examples([image(40, 40)], [labels], [labels], names, palettes.palette(classes))
    (legend,) = legends(figure)
    assert sorted(legend) == sorted(names)


def test_the_score_stands_on_its_image():
    labels, depth = [np.zeros((20, 20), np.uint8)] * 2, [np.ones((20, 20))] * 2
    scores = ["worst of 9: 1 %", "best of 9: 2 %"]
    for figure in (
        grids.segmentation_examples([image(20, 20)] * 2, labels, labels, NAMES, COLOURS, scores),
        grids.depth_examples([image(20, 20)] * 2, depth, depth, 10.0, scores),
    ):
        panels = [axes for axes in figure.axes if axes.get_images()]
        assert [text.get_text() for axes in panels[::3] for text in axes.texts if text.get_text()] == scores
    found = boxes.discovery_examples([discovered(20, 30, score="median of 9: IoU 0.40")])
    assert found.axes[0].texts[0].get_text() == "median of 9: IoU 0.40"


@pytest.mark.parametrize(("height", "width"), [(150, 200), (200, 150), (160, 640), (20, 400), (400, 20), (1, 1)])
def test_texts_stay_in_the_figure_and_legends_in_their_rows(height, width):
    names = [f"{number}: a class that has a long name" for number in range(40)]
    labels = np.random.default_rng(0).integers(0, 40, (height, width)).astype(np.uint8)
    three = [image(height, width)] * 3, [labels] * 3, [labels] * 3
    figure = grids.segmentation_examples(*three, names, palettes.palette(40))
    rendered(figure)
    boxes = [axes.get_legend().get_window_extent() for axes in figure.axes if axes.get_legend()]
    panels = [axes.get_window_extent() for axes in figure.axes if axes.get_images()]
    assert len(boxes) == 3
    assert all(above.y0 >= below.y1 for above, below in pairwise(boxes))
    assert all(box.x0 > max(panel.x1 for panel in panels) for box in boxes)
    assert all(box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)


def test_images_of_different_sizes_keep_their_shape_and_columns():
    sizes = [(150, 200), (200, 150), (64, 320), (960, 1280), (7, 5)]
    images = [image(*size) for size in sizes]
    truths = [np.full(size, 1, np.uint8) for size in sizes]
    figure = grids.segmentation_examples(images, truths, truths, NAMES, COLOURS)
    rendered(figure)
    panels = [axes.get_window_extent() for axes in figure.axes if axes.get_images()]
    for row, (height, width) in enumerate(sizes):
        three = panels[3 * row : 3 * row + 3]
        for column, box in enumerate(three):
            assert box.height / box.width == pytest.approx(height / width, rel=0.02)
            assert box.x0 == pytest.approx(panels[column].x0)
            assert (box.y0, box.y1) == (three[0].y0, three[0].y1)
    assert all(panels[3 * row].y0 > panels[3 * row + 3].y1 for row in range(4))


def test_large_pictures_are_shown_smaller_and_labels_do_not_mix():
    truth = np.zeros((480, 640), np.uint8)
    truth[241:, 321:] = 3  # the middle of shown pixel 120 is where 241 begins
    grey = np.zeros((480, 640, 3), np.uint8)
    grey[::2] = 200
    figure = grids.segmentation_examples([grey], [truth], [truth], NAMES, COLOURS)
    ((shown, labels, _),) = pictures(figure)
    assert shown.shape == labels.shape == (240, 320, 3)
    assert np.unique(shown).tolist() == [100]  # the mean of what a shown pixel covers
    expected = np.where((np.indices((240, 320)) >= np.array([120, 160])[:, None, None]).all(0), 3, 0)
    assert np.array_equal(labels, COLOURS[expected])


def test_depth_has_one_scale_up_to_the_largest_truth():
    truths = [np.full((30, 40), 2.0), np.full((30, 40), 6.2)]
    predictions = [np.full((30, 40), 9.0), np.full((30, 40), 3.1)]
    figure = grids.depth_examples([image(30, 40)] * 2, truths, predictions, 10.0)
    assert [len(row) for row in pictures(figure)] == [3, 3]
    assert depth_scales(figure) == [(0, 7)] * 4
    (bar,) = [child for axes in figure.axes for child in axes.child_axes]
    assert (bar.get_ylim(), bar.get_title()) == ((0, 7), "0–7 m")
    assert [bar.get_yticks()[end] for end in (0, -1)] == [0, 7]


@pytest.mark.parametrize(
    ("truth", "max_depth", "farthest"),
    [(0.4, 10, 1), (7.0, 10, 7), (9.3, 9.5, 9.5), (42.1, 80, 43), (42.1, 10, 10), (0.0, 10, 10), (np.nan, 80, 80)],
)
def test_end_of_the_depth_scale(truth, max_depth, farthest):
    truths, predictions = [np.full((4, 6), truth)], [np.ones((4, 6))]
    figure = grids.depth_examples([image(4, 6)], truths, predictions, max_depth)
    assert depth_scales(figure) == [(0, farthest)] * 2


def test_missing_depth_is_masked_and_grey_in_the_truth_alone():
    truth = np.full((30, 40), 4.0, np.float32)
    truth[:, 20:] = 0
    truth[:5, :5] = np.nan
    prediction = np.full((30, 40), 4.0, np.float32)
    figure = grids.depth_examples([image(30, 40)], [truth], [prediction], 10.0)
    ((_, true, predicted),) = pictures(figure)
    expected = np.zeros((30, 40), bool)
    expected[:, 20:] = expected[:5, :5] = True
    assert np.array_equal(np.ma.getmaskarray(true), expected)
    assert not np.ma.getmaskarray(predicted).any()
    pixels = rendered(figure)
    unmeasured = tuple(bytes.fromhex(grids.UNMEASURED[1:]))
    measured = colour_at(figure, pixels, 1, 0.5, 0.25)
    assert colour_at(figure, pixels, 1, 0.5, 0.75) == colour_at(figure, pixels, 1, 0.06, 0.06) == unmeasured
    assert colour_at(figure, pixels, 2, 0.5, 0.25) == colour_at(figure, pixels, 2, 0.5, 0.75) == measured != unmeasured


def test_the_note_on_white_or_grey_stands_only_where_there_is_any():
    texts = []
    for number in (1, 255):
        truth = np.full((10, 10), number, np.uint8)
        figure = grids.segmentation_examples([image(10, 10)], [truth], [truth], NAMES, COLOURS)
        texts.append([text.get_text() for axes in figure.axes for text in axes.texts])
    for depth in (1.0, 0.0):
        figure = grids.depth_examples([image(10, 10)], [np.full((10, 10), depth)], [np.ones((10, 10))], 10)
        texts.append([text.get_text() for axes in figure.axes for text in axes.texts])
        assert [text.get_text() for text in figure.texts] == ["image", "ground truth", "prediction"]
    assert texts == [[], ["white: unlabelled"], [], ["grey: unmeasured"]]


def test_inputs_are_left_alone():
    truth, labels = np.eye(8), np.eye(8, dtype=np.uint8)
    grids.depth_examples([image(8, 8)], [truth], [truth], 10)
    grids.segmentation_examples([image(8, 8)], [labels], [labels], NAMES, COLOURS)
    assert np.array_equal(truth, np.eye(8))
    assert np.array_equal(labels, np.eye(8))


@pytest.mark.parametrize(
    ("images", "truths", "predictions", "message"),
    [
        ([], [], [], "0 images"),
        ([image(4, 6)] * 2, [halves(4, 6, 0, 1)], [halves(4, 6, 0, 1)] * 2, "2 images, 1 truths and 2 predictions"),
        ([image(4, 6)], [halves(4, 6, 0, 1)], [halves(6, 4, 0, 1)], "row 0: .* (6, 4)"),
        ([image(4, 6)], [halves(4, 6, 0, 4)], [halves(4, 6, 0, 1)], "class number 4 among 4 classes"),
    ],
)
def test_what_does_not_fit_is_told(images, truths, predictions, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        grids.segmentation_examples(images, truths, predictions, NAMES, COLOURS)


def test_six_rows_are_a_page_and_a_small_file():
    scenes = [render(sample_scene(np.random.default_rng([0, index]), 200, 150)) for index in range(6)]
    images, depths = [scene.image for scene in scenes], [scene.depth for scene in scenes]
    labels = [scene.semantic - np.uint8(1) for scene in scenes]  # 0, the unlabelled, becomes 255
    names = [f"class {number}" for number in range(150)]
    coloured = grids.segmentation_examples(images, labels, labels, names, palettes.semantic_palette()[1:151])
    for figure in (coloured, grids.depth_examples(images, depths, depths, 10.0)):
        file = io.BytesIO()
        figure.savefig(file, format="png")
        assert file.tell() < 700_000
        width, height = Image.open(file).size
        assert 700 < width < 1000
        assert 900 < height < 1200


def test_contact_sheet_names_what_is_there_and_has_the_whole_range_in_every_row():
    scenes = [render(sample_scene(np.random.default_rng([0, index]), 80, 60)) for index in range(2)]
    figure = contact_sheet.contact_sheet(scenes)
    for names, scene in zip(legends(figure), scenes, strict=True):
        present = {name for name, number in SEMANTIC_IDS.items() if (scene.semantic == number).any()}
        assert set(names) == present | ({"unlabelled"} if (scene.semantic == 0).any() else set())
    assert depth_scales(figure) == [(0, 10)] * 2


# ------------------------------------------------------------------------------------------------ object discovery


def discovered(height, width, **changes):
    maps = {"degree": np.arange(12).reshape(3, 4), "similarity": np.linspace(-1, 3, 12).reshape(3, 4)}
    parts = {
        "image": np.full((height, width, 3), 90, np.uint8),
        "truths": np.array([[2.0, 2, 20, 18]]),
        "box": np.array([8.0, 8, 24, 24]),
        "seed": (12.0, 12.0),
        "maps": maps,
        "patch": (8.0, 8.0),
    }
    return boxes.Example(**{**parts, **changes})


def test_maps_lie_on_their_pixels_and_what_is_padding_is_not_shown():
    figure = boxes.discovery_examples([discovered(20, 30), discovered(500, 700, patch=(200.0, 200.0))])
    panels = [axes for axes in figure.axes if axes.get_images()]
    assert len(panels) == 6
    for axes in panels[:3]:
        assert axes.get_xlim() == (0, 30)
        assert axes.get_ylim() == (20, 0)
    assert panels[1].get_images()[0].get_extent() == [0, 32, 24, 0]
    assert panels[4].get_images()[0].get_extent() == [0, 800, 600, 0]
    assert panels[3].get_images()[0].get_array().shape[1] == grids.LONGEST
    titles = [text.get_text() for text in figure.texts]
    assert titles == ["image", "degree", "similarity"]


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (200, 600), (60, 600)])
def test_titles_and_notes_of_columns_do_not_overlap(height, width):
    counts, signed = np.arange(12).reshape(3, 4), np.linspace(-1, 3, 12).reshape(3, 4)
    row = discovered(height, width, maps={"degree": counts, "seed similarity": signed, "seed expansion": signed})
    figure = boxes.discovery_examples([row] * 2)
    rendered(figure)
    texts = [*figure.texts, *(axes._left_title for axes in figure.axes)]
    extents = [text.get_window_extent() for text in texts if text.get_text()]
    assert len(extents) == 8
    titles, notes = extents[:4], extents[4:]
    apart = [(title.y0 - note.y1) / figure.dpi for title, note in zip(titles, notes, strict=True)]
    assert max(apart) < 0.1  # inches: a note stays below its title, however flat the image
    assert not any(one.overlaps(two) for one, two in combinations(extents, 2))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in extents)


def test_counts_are_shown_from_0_and_signed_maps_around_it():
    outlier = np.ones((30, 30))
    outlier[0, 0] = -1000  # does not take the scale for itself
    row = discovered(240, 240, maps={"degree": np.arange(900).reshape(30, 30), "similarity": outlier})
    panels = [axes.get_images()[0] for axes in boxes.discovery_examples([row]).axes]
    assert panels[1].get_clim()[0] == 0
    assert panels[2].get_clim() == pytest.approx((-1, 1))


def test_boxes_are_drawn_where_they_are_without_any_object_too():
    for truths, lines in ((np.array([[2.0, 2, 20, 18]]), 4), (np.zeros((0, 4)), 2)):
        axes = boxes.discovery_examples([discovered(20, 30, truths=truths)]).axes[0]
        corners = [(patch.get_xy(), patch.get_width(), patch.get_height()) for patch in axes.patches]
        assert len(corners) == lines  # each with its edge
        assert corners[-1] == ((8.0, 8.0), 16.0, 16.0)


def test_rows_of_other_maps_are_told():
    for rows in (
        [],
        [discovered(9, 9), discovered(9, 9, maps={"other": np.zeros((2, 2))})],
        [discovered(9, 9, maps={})],
    ):
        with pytest.raises(ValueError, match="the same titles in all"):
            boxes.discovery_examples(rows)
