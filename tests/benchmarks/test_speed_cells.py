"""Rows of whole cells: a part of the data that the tasks can read, with boxes where they were."""

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.speed import cells
from regvit_lightning.data import discovery, imagenet, nyu
from regvit_lightning.data.ade20k import masked_pairs


def test_a_part_of_the_data_can_be_read(tiny, tmp_path):
    part = cells.a_part(tiny, tmp_path)
    train, test = imagenet.train_files(part), imagenet.test_files(part)
    assert np.bincount(train.labels).max() <= cells.PER_CLASS[0]
    assert np.bincount(test.labels).max() <= cells.PER_CLASS[1]
    assert train.classes == imagenet.train_files(tiny).classes
    for number, count in enumerate(cells.MASKED):
        assert 0 < len(masked_pairs(part, "segmentation", number)) <= count
    assert 0 < len(nyu.train_pairs(part)) <= cells.DEEP[0]
    assert 0 < len(nyu.test_pairs(part)) <= cells.DEEP[1]


def test_images_with_boxes_are_enlarged_with_their_boxes(tiny, tmp_path):
    small, large = (discovery.boxed_images(data, "voc07") for data in (tiny, cells.a_part(tiny, tmp_path)))
    assert 0 < len(large.sizes) <= cells.BOXED
    names = [Path(small.path(index)).name for index in range(len(small.sizes))]
    for index in range(len(large.sizes)):
        other = names.index(Path(large.path(index)).name)
        assert (large.sizes[index] == cells.LARGER * small.sizes[other]).all()
        assert Image.open(large.path(index)).size == tuple(large.sizes[index])
        assert np.array_equal(large.boxes[index], cells.LARGER * small.boxes[other])


def test_every_cell_has_a_row(tiny):
    few = [cell for cell in cells.CELLS if cell.task == "lost_voc07"]
    row = next(cells.rows(tiny, tuple(few), "vitn_reg0"))
    assert row.value > 0  # no bound: other processes may slow either side
    assert "forward of 4 images" in row.parts
    assert row.target == "≤ 1.15"
    for cell in cells.CELLS:  # words of every cell are settings of its task
        assert cells.settings.load_settings("tasks", cell.task, words=list(cell.words))[1].workers == 1
