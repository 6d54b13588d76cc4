"""Label propagation against a plain version of the published formulas, and on features whose matches are known."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from regvit_lightning.tasks.video import label_propagation
from regvit_lightning.tasks.video.label_propagation import Frame, Propagation, Rule, propagate, to_patches, to_pixels

DINO = Rule(context=7, radius=12, shape="square", neighbours=5, temperature=0.1)


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def shares(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).softmax(dim=-1)


def plain(rule, queries, keys):
    """Labels (h, w, C), patch by patch: exp of the cosines over the temperature, the largest kept and normalised."""
    height, width = queries.shape[:2]
    result = torch.zeros(height, width, keys[0].labels.shape[-1])
    for row, column in np.ndindex(height, width):
        affinities, labels = [], []
        for key in keys:
            for other_row, other_column in np.ndindex(height, width):
                down, across = abs(other_row - row), abs(other_column - column)
                distance = max(down, across) if rule.shape == "square" else np.hypot(down, across)
                cosine = float(queries[row, column] @ key.features[other_row, other_column])
                affinities.append(np.exp(cosine / rule.temperature) if distance <= rule.radius else 0.0)
                labels.append(key.labels[other_row, other_column])
        affinities = torch.tensor(affinities).float()
        affinities[affinities < affinities.topk(min(rule.neighbours, len(affinities))).values[-1]] = 0
        result[row, column] = (affinities / affinities.sum()) @ torch.stack(labels)
    return result


@pytest.mark.parametrize(
    "rule", [Rule(3, 2, "square", 5, 0.1), Rule(3, 2, "circle", 4, 0.2), Rule(1, 9, "square", 99, 1)]
)
@pytest.mark.parametrize("at_once", [1, 10**6])
def test_labels_are_those_of_the_formulas(rule, at_once, monkeypatch):
    monkeypatch.setattr(label_propagation, "AFFINITIES", at_once)  # 1: a row of patches at a time
    keys = [Frame(number, unit(4, 5, 6, seed=number), shares(4, 5, 3, seed=number)) for number in range(3)]
    queries = unit(4, 5, 6, seed=9)
    result = propagate(rule, queries, keys)
    torch.testing.assert_close(result.labels, plain(rule, queries, keys), rtol=1e-4, atol=1e-5)


def test_the_keys_are_named_by_frame_and_patch():
    features = unit(6, 11, 128)
    keys = [Frame(number, features.roll(2 * number, dims=1), shares(6, 11, 2, seed=number)) for number in (0, 3, 4)]
    result = propagate(Rule(7, 1, "square", 1, 0.1), features.roll(8, dims=1), keys)
    rows, columns = np.indices((6, 11))
    assert (result.frames == 4).all()
    assert (result.patches[..., 0].numpy() == rows * 11 + columns).all()
    assert (result.weights == 1).all()


def test_labels_move_with_features_that_move_by_whole_patches():
    features, labels = unit(8, 20, 256), F.one_hot((torch.arange(160) % 3).view(8, 20)).float()
    propagation = Propagation(Rule(7, 12, "square", 5, 0.02), features, labels)
    for step in range(1, 5):
        moved = propagation(features.roll((step, 2 * step), dims=(0, 1)))
        expected = labels.roll((step, 2 * step), dims=(0, 1))
        inner = slice(step, None), slice(2 * step, None)  # what came in over the edge is not near
        assert (moved.labels[inner].argmax(-1) == expected[inner].argmax(-1)).all()


@pytest.mark.parametrize(("shape", "found"), [("square", True), ("circle", False)])
def test_a_match_beyond_the_radius_is_not_seen(shape, found):
    features = torch.zeros(7, 7, 2)
    features[..., 0] = 1
    features[1, 1] = torch.tensor([0.0, 1.0])
    labels = F.one_hot(features[..., 1].long(), 2).float()
    moved = features.roll((3, 3), dims=(0, 1))  # 3 rows and 3 columns away: 4.2 as the crow flies
    result = propagate(Rule(0, 3, shape, 1, 0.01), moved, [Frame(0, features, labels)])
    assert bool(result.labels[4, 4, 1] == 1) == found


def test_the_first_frame_and_the_last_ones_are_the_keys():
    features = unit(3, 3, 64)
    propagation = Propagation(Rule(2, 9, "square", 9 * 9, 1.0), features, shares(3, 3, 2))
    used = [set(propagation(unit(3, 3, 64, seed=step)).frames.unique().tolist()) for step in range(1, 6)]
    assert used == [{0}, {0, 1}, {0, 1, 2}, {0, 2, 3}, {0, 3, 4}]


def test_no_context_takes_the_first_frame_alone():
    propagation = Propagation(Rule(0, 9, "square", 5, 1.0), unit(3, 3, 8), shares(3, 3, 2))
    assert [set(propagation(unit(3, 3, 8, seed=s)).frames.unique().tolist()) for s in (1, 2)] == [{0}, {0}]


def test_a_patch_with_fewer_neighbours_than_asked_for_takes_those():
    result = propagate(Rule(0, 1, "square", 5, 0.1), unit(1, 9, 8), [Frame(0, unit(1, 9, 8, seed=2), shares(1, 9, 2))])
    assert (result.weights[0, 0] > 0).sum() == 2  # itself and its neighbour
    torch.testing.assert_close(result.weights.sum(-1), torch.ones(1, 9))


def test_first_masks_are_reduced_as_pillow_does():
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 3, (37, 53)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(mask).resize((8, 5), Image.Resampling.NEAREST))
    assert (to_patches(torch.from_numpy(mask), 3, "bilinear", (5, 8)).argmax(-1).numpy() == expected).all()


def test_a_class_is_scaled_to_its_own_range_before_the_largest_is_taken():
    labels = torch.tensor(
        [[[0.9, 0.1], [0.6, 0.4]]]
    )  # background is larger everywhere, but least where object 1 is most
    for upsampling in label_propagation.UPSAMPLING:
        classes = to_pixels(labels, upsampling, (4, 8), (4, 8))
        assert classes.dtype == torch.uint8
        assert (classes[:, :2] == 0).all()
        assert (classes[:, 6:] == 1).all()


def test_a_class_without_any_difference_is_nowhere():
    labels = torch.zeros(2, 2, 3)
    labels[..., 0], labels[..., 2] = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), 0.5
    assert not (to_pixels(labels, "nearest", (4, 4), (8, 8)) == 2).any()


def test_bilinear_decides_at_the_size_that_the_model_saw():
    labels = torch.zeros(1, 2, 2)
    labels[0, 0, 0] = labels[0, 1, 1] = 1
    classes = to_pixels(labels, "bilinear", (4, 8), (3, 6))
    assert classes.shape == (3, 6)
    assert classes[0].tolist() == [0, 0, 0, 1, 1, 1]
