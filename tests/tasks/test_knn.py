"""kNN: exact search and votes against scikit-learn and a sum written out, and the protocol around them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional as F

from regvit_lightning import settings
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.models import sources
from regvit_lightning.settings import SettingsError
from regvit_lightning.statistics import accuracy
from regvit_lightning.tasks import knn


def unit(rows, width, seed):
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


@hypothesis_settings(max_examples=30, deadline=None)
@given(rows=st.integers(5, 60), k=st.integers(1, 5), chunk=st.integers(1, 70), seed=st.integers(0, 9))
def test_search_is_exact_whatever_the_chunk(rows, k, chunk, seed):
    queries, bank = unit(4, 8, seed), unit(rows, 8, seed + 100)
    similarity, place = knn.search(queries, bank, k, chunk)
    distance, expected = NearestNeighbors(n_neighbors=k, metric="cosine").fit(bank).kneighbors(queries)
    assert np.array_equal(place.numpy(), expected)
    np.testing.assert_allclose(similarity.numpy(), 1 - distance, atol=1e-5)


def test_votes_by_hand():
    # Three neighbours at T = 1: weights e^2, e^1, e^0 over their sum; k = 2 leaves the last one out of the vote.
    similarity, labels = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[1, 0, 0]])
    total = np.exp(2) + np.exp(1) + 1
    two = knn.votes(similarity, labels, 2, 3, 1.0)[0].numpy()
    np.testing.assert_allclose(two, [np.exp(1) / total, np.exp(2) / total, 0], rtol=1e-6)
    three = knn.votes(similarity, labels, 3, 3, 1.0)[0].numpy()
    np.testing.assert_allclose(three, [(np.exp(1) + 1) / total, np.exp(2) / total, 0], rtol=1e-6)


def test_the_temperature_decides_between_one_near_and_two_far():
    similarity, labels = torch.tensor([[0.9, 0.8, 0.8]]), torch.tensor([[0, 1, 1]])
    assert knn.votes(similarity, labels, 3, 2, 0.07).argmax() == 0  # e^(0.1 / 0.07) > 2
    assert knn.votes(similarity, labels, 3, 2, 0.3).argmax() == 1  # e^(0.1 / 0.3) < 2


def test_accuracy_agrees_with_scikit_learn():
    predictions, labels = torch.randint(5, (40, 3)), torch.randint(5, (40,))
    expected = [100 * accuracy_score(labels, predictions[:, column]) for column in range(3)]
    np.testing.assert_allclose(accuracy(predictions, labels, 5).numpy(), expected, rtol=1e-5)


def mini_settings(*words, precision="32-true"):
    words = ["workers=0", "neighbours=[1,5]", f"precision={precision}", *words]
    return settings.load_settings("tasks", "imagenet_knn", "mini", words)[1]


def test_features_are_the_normalised_cls(tiny):
    backbone = sources.load_backbone("random-vitn_reg4", None, image_size=64)
    module = knn.KNN(backbone, mini_settings(), 16)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    normalised = (images / 255 - torch.tensor(backbone.mean).view(3, 1, 1)) / torch.tensor(backbone.std).view(3, 1, 1)
    cls = backbone.model.forward_features(normalised)[:, 0]
    torch.testing.assert_close(module.features(images), F.normalize(cls, dim=1))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_train_image_finds_itself(tiny, precision):
    # With train as test and k = 1, an exact search must be right every time, whatever the features were computed in.
    backbone = sources.load_backbone("random-vitn_reg0", None, image_size=64)
    outcome = knn.run(backbone, _train_as_test(tiny), mini_settings(precision=precision))
    assert outcome.metrics["top1_k1"] == 100.0
    assert outcome.metrics["top1_best_on_test"] == 100.0
    assert outcome.images == 96


def _train_as_test(data):
    from pathlib import Path

    folder = Path(data.root) / "mirror"
    folder.mkdir(exist_ok=True)
    for split in ("train", "val"):
        link = folder / split
        if not link.exists():
            link.symlink_to(Path(data.root, "imagenet", "train"), target_is_directory=True)
    return type(data)(name="mirror", root=data.root, imagenet="mirror")


def test_outcome_states_its_protocol_and_repeats(tiny):
    backbone = sources.load_backbone("random-vitn_reg4", None, image_size=64)
    first, again = (knn.run(backbone, tiny, mini_settings(), RunOptions(seed=1)) for _ in range(2))
    assert first == again
    assert first.protocol["k"] in (1, 5)
    for name in knn.METRICS:
        assert torch.equal(first.scores[name], again.scores[name])
        assert first.scores[name].shape == (first.images,)
        assert first.scores[name].mean().item() == pytest.approx(first.metrics[name])
    assert first.metrics["top1"] == first.metrics[f"top1_k{first.protocol['k']}"]
    low, high = first.intervals["top1"]
    assert low <= first.metrics["top1"] <= high
    assert set(knn.METRICS) <= set(first.metrics)


def test_a_result_does_not_depend_on_the_batch(tiny):
    backbone = sources.load_backbone("random-vitn_reg4", None, image_size=64)
    small, large = (knn.run(backbone, tiny, mini_settings(f"device_batch={n}")) for n in (7, 64))
    assert small.metrics == large.metrics


def test_more_neighbours_than_images(tiny):
    backbone = sources.load_backbone("random-vitn_reg4", None, image_size=64)
    with pytest.raises(SettingsError, match="k=200 is above the 86 of 96 train images"):
        knn.run(backbone, tiny, settings.load_settings("tasks", "imagenet_knn", "mini", ["workers=0"])[1])
