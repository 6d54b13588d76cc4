"""Labels of patches against numpy, scipy and the upsampling of all classes at once."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from regvit_lightning.tasks.patches import label_maps
from tests.tasks.patches.planted import of_patches, torch_seed


def test_pixels_of_patches_and_back():
    labels = torch.randint(256, (2, 16, 16), generator=torch_seed(0), dtype=torch.uint8)
    parts = label_maps.pixels_of_patches(labels, 4)
    assert parts.shape == (2, 4, 4, 16)
    assert np.array_equal(parts[1].flatten(0, 1).numpy(), of_patches(labels[1].numpy())[..., 0])
    assert torch.equal(label_maps.labels_of_pixels(parts), labels)


def test_shares_are_of_the_labelled_pixels():
    pixels = torch.tensor([[0, 0, 2, 255], [255, 255, 255, 255], [1, 1, 1, 255]], dtype=torch.uint8)
    expected = torch.tensor([[2 / 3, 0, 1 / 3], [0, 0, 0], [0, 1, 0]])
    torch.testing.assert_close(label_maps.class_shares(pixels, 3), expected)
    assert label_maps.class_counts(pixels, 3).tolist() == [[2, 0, 1], [0, 0, 0], [0, 3, 0]]


@pytest.mark.parametrize("size", [(16, 16), (13, 29), (3, 2)])
def test_one_class_at_a_time_is_all_at_once(size):
    scores = torch.rand(5, 4, 7, generator=torch_seed(1))
    scores[..., 2] = 0
    whole = F.interpolate(scores.permute(2, 0, 1)[None], size, mode="bilinear")[0].argmax(dim=0)
    assert torch.equal(label_maps.upsampled(scores, *size).long(), whole)


def test_of_equal_scores_the_lowest_class():
    scores = torch.zeros(2, 2, 4)
    scores[..., 1] = scores[..., 3] = 0.5
    assert (label_maps.upsampled(scores, 5, 5) == 1).all()


def test_resizing_takes_the_nearest_centre():
    labels = torch.arange(4, dtype=torch.uint8)[None].expand(4, 4)
    assert label_maps.resized(labels, 1, 2).tolist() == [[1, 3]]  # centres at 1 and 3 of four pixels
    assert label_maps.resized(labels, 4, 8)[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_mode_is_scipys():
    pixels = torch.randint(4, (30, 5, 9), generator=torch_seed(2), dtype=torch.uint8)
    expected = stats.mode(pixels.numpy(), axis=1).mode
    assert np.array_equal(label_maps.modes(pixels, 0).numpy(), expected)


def test_unlabelled_pixels_do_not_vote():
    pixels = torch.tensor([[[255, 255], [255, 255], [255, 3], [7, 255]]], dtype=torch.uint8)
    assert label_maps.modes(pixels, 5).tolist() == [[7, 3]]
    assert label_maps.modes(pixels[:, :2], 5).tolist() == [[5, 5]]


@pytest.mark.parametrize("size", [(17, 23), (40, 31), (3, 2), (5, 4)])
def test_ids_are_upsampled_as_their_indicators_are(size):
    ids = torch.randint(6, (5, 4), generator=torch_seed(3))
    indicators = F.one_hot(ids, 6).double().permute(2, 0, 1)[None]
    whole = F.interpolate(indicators, size, mode="bilinear")[0]
    best, second = whole.topk(2, dim=0).values
    clear = best - second > 1e-5  # elsewhere ids are equally near
    upsampled = label_maps.upsampled_ids(ids, *size)
    assert torch.equal(upsampled[clear], whole.argmax(dim=0)[clear])
    assert clear.double().mean() >= 0.5


def test_of_equally_near_ids_the_lowest():
    assert label_maps.upsampled_ids(torch.tensor([[7, 3]]), 1, 3).tolist() == [[7, 3, 3]]
