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

from benchmarks.speed.memory import peak_memory
from regvit_lightning import settings
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.models import sources
from regvit_lightning.neighbours import search
from regvit_lightning.settings import SettingsError
from regvit_lightning.statistics import accuracy
from regvit_lightning.tasks import knn
from tests.tasks import planted_features


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
    np.testing.assert_allclose(accuracy(predictions, labels).numpy(), expected, rtol=1e-5)


def mini_settings(*words, precision="32-true"):
    defaults = {"workers": "0", "neighbours": "[1,5]", "precision": precision}
    words = [f"{key}={value}" for key, value in {**defaults, **dict(w.split("=", 1) for w in words)}.items()]
    return settings.load_settings("tasks", "imagenet_knn", "mini", words)[1]


def test_features_are_the_normalised_cls(tiny):
    backbone = sources.load_backbone("random-vitn_reg4", "runs", image_size=64)
    module = knn.KNN(backbone, mini_settings(), 16, 96)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    normalised = (images / 255 - torch.tensor(backbone.mean).view(3, 1, 1)) / torch.tensor(backbone.std).view(3, 1, 1)
    cls = backbone.model.forward_features(normalised)[:, 0]
    torch.testing.assert_close(module.features(images), F.normalize(cls, dim=1))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_train_image_finds_itself(tiny, precision):
    # With train as test and k = 1, an exact search must be right every time, whatever the features were computed in.
    backbone = sources.load_backbone("random-vitn_reg0", "runs", image_size=64)
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
    backbone = sources.load_backbone("random-vitn_reg4", "runs", image_size=64)
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
    backbone = sources.load_backbone("random-vitn_reg4", "runs", image_size=64)
    small, large = (knn.run(backbone, tiny, mini_settings(f"device_batch={n}")) for n in (7, 64))
    assert small.metrics == large.metrics


def test_more_neighbours_than_images(tiny):
    backbone = sources.load_backbone("random-vitn_reg4", "runs", image_size=64)
    with pytest.raises(SettingsError, match="k=200 is above the 86 of 96 train images"):
        knn.run(backbone, tiny, settings.load_settings("tasks", "imagenet_knn", "mini", ["workers=0"])[1])


# --------------------------------------------------------------------------------------- what is chosen, and on what

COUNT = 24  # groups of planted points


def planted(*words):
    words = [f"resize={planted_features.SIDE}", f"crop={planted_features.SIDE}", "temperature=100", *words]
    return mini_settings(*words)


def two_against_three():
    """Groups of two points of one class beside three of the other: alone, each is nearest to its own class."""
    offsets = torch.tensor([[0, 0.05, 0, 0], [0, 0, 0.05, 0], [0.4, 0.05, 0, 0], [0.4, 0, 0.05, 0], [0.4, 0, 0, 0.05]])
    few = torch.arange(COUNT) % 2
    labels = torch.stack([few, few, 1 - few, 1 - few, 1 - few], dim=1).flatten()
    return planted_features.groups(COUNT, offsets), labels


def test_k_is_chosen_on_held_out_train_even_where_test_says_otherwise(tmp_path):
    # Held out, k = 1 is always right and k = 5 often wrong. The test images are the two of each group, labelled as the
    # three: k = 1 is always wrong, and k = 5, two against three, always right.
    points, labels = two_against_three()
    planted_features.write(tmp_path, "train", points, labels)
    few = torch.arange(len(points)) % 5 < 2
    data = planted_features.write(tmp_path, "val", points[few], 1 - labels[few])
    outcome = knn.run(planted_features.pixels(), data, planted("held_out=0.15"))
    assert outcome.protocol["k"] == 1
    assert outcome.metrics["top1"] == outcome.scores["top1"].mean() == 0
    assert outcome.metrics["top1_best_on_test"] == outcome.metrics["top1_k5"] == 100
    assert outcome.scores["top1_best_on_test"].mean() == 100


def test_held_out_images_are_not_their_own_neighbours(tmp_path):
    # Each point's nearest other point is of the other class, the next two are of its own: left out of the bank, k = 3
    # is right and k = 1 wrong. With the queries in the bank, k = 1 would always be right.
    pair, spread = torch.tensor([0.0, 0.16]).repeat(3), torch.eye(3).repeat_interleave(2, 0) * 0.24
    points = planted_features.groups(COUNT, torch.cat([pair[:, None], spread], dim=1))
    data = planted_features.write(tmp_path, "train", points, torch.arange(len(points)) % 2)
    planted_features.write(tmp_path, "val", points[:2], [0, 1])
    chosen = planted("neighbours=[1,3]", "held_out=0.1")
    assert knn.run(planted_features.pixels(), data, chosen).protocol["k"] == 3


@pytest.mark.parametrize(("share", "limit", "images"), [(0.5, 10000, 48), (0.5, 7, 7), (0.001, 7, 1)])
def test_as_many_queries_as_the_settings_say(tiny, share, limit, images):
    backbone = sources.load_backbone("random-vitn_reg0", "runs", image_size=64)
    chosen = mini_settings(f"held_out={share}", f"held_out_limit={limit}")
    outcome = knn.run(backbone, tiny, chosen)
    assert outcome.protocol["held_out_images"] == images
    assert (
        outcome.protocol["k_chosen_on"]
        == f"{share:.0%} of train, held out: {images} images, ±{98 / images**0.5:.1f} points"
    )
    assert outcome.protocol["caveat"].startswith(f"one of 2 values of k is chosen on {images} held-out images")


def test_a_choice_on_many_images_needs_no_caveat():
    # 10,000 images: 1.96 × sqrt(0.25 / 10,000) is 0.98 points.
    chosen = mini_settings()
    assert chosen.caveat("4 values of k", 10_000) == ""
    assert "±1.0 points" in chosen.chosen_on(10_000)
    assert "±12.7 points" in chosen.caveat("52 heads", 60)


# ---------------------------------------------------------------------------------------------------------- ties


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    different=st.integers(1, 6),
    rows=st.integers(6, 80),
    k=st.integers(1, 6),
    chunks=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    width=st.sampled_from([3, 8, 33, 96]),
    seed=st.integers(0, 99),
)
def test_of_equals_the_first_whatever_the_chunk_and_the_batch(different, rows, k, chunks, width, seed):
    # A bank of few different rows: nearly everything is tied. The truth: sorted by similarity, then by index.
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(different, (rows,), generator=generator)
    bank, queries = unit(different, width, seed)[which], unit(5, width, seed + 500)
    exact = (queries.double() @ unit(different, width, seed).double().T).float().numpy()[:, which.numpy()]
    expected = np.lexsort((np.broadcast_to(np.arange(rows), exact.shape), -exact))[:, :k]
    for chunk in chunks:
        similarity, index = search(queries, bank, k, chunk)
        np.testing.assert_array_equal(index, expected)
        np.testing.assert_array_equal(similarity, np.take_along_axis(exact, expected, 1))
        alone = torch.cat([search(query[None], bank, k, chunk)[1] for query in queries])
        assert torch.equal(alone, index)


def test_excluded_rows_are_no_ones_neighbours():
    queries, bank = unit(6, 8, 0), unit(40, 8, 1)
    excluded = torch.arange(40) % 3 == 0
    kept = (~excluded).nonzero()[:, 0]
    similarity, index = search(queries, bank, 20, 7, excluded)  # of 26, so that some are below 0
    expected, place = search(queries, bank[kept], 20, 100)
    assert torch.equal(similarity, expected)
    assert torch.equal(index, kept[place])


def test_ties_are_counted(tmp_path):
    # Four copies of one train image: to a test image like them, the second neighbour and the third are equally near.
    point = torch.eye(4)
    train = torch.cat(
        [point[:1].repeat(4, 1), point[1:].repeat_interleave(3, 0) * torch.tensor([0.5, 0.7, 0.9] * 3)[:, None]]
    )
    planted_features.write(tmp_path, "train", train, torch.tensor([0, 0, 1, 1, *[0, 1, 0] * 3]))
    data = planted_features.write(tmp_path, "val", point[:1].repeat(5, 1), [0, 0, 0, 0, 1])
    outcome = knn.run(planted_features.pixels(), data, planted("neighbours=[2]"))
    assert outcome.protocol["tied_images"] == 5
    assert outcome.metrics["top1"] == 80.0  # the first two of the four copies are of class 0
    assert outcome.floors == {"most frequent class": {"top1": 80.0, "top1_best_on_test": 80.0}}
    assert knn.run(planted_features.pixels(), data, planted("neighbours=[4]")).protocol["tied_images"] == 0


def test_a_collapsed_model_scores_chance_and_says_that_all_is_tied(tmp_path):
    planted_features.write(tmp_path, "train", torch.ones(20, 3), torch.arange(20) % 4)
    data = planted_features.write(tmp_path, "val", torch.ones(8, 3), torch.arange(8) % 4)
    outcome = knn.run(planted_features.pixels(), data, planted("neighbours=[1,5]"))
    assert outcome.metrics["top1"] == 25.0
    assert outcome.protocol["tied_images"] == 8


def test_the_bank_is_held_once():
    """At 65,536 × 512: the bank is 128 MiB, and the choice of k may add a chunk of it but no copy."""
    module = knn.KNN(wide(512), mini_settings("bank_chunk=2048"), 16, 1 << 16)
    with peak_memory() as peak:
        module.on_validation_start()
        for first in range(0, 1 << 16, 1 << 10):  # as the loader would
            module.bank[first : first + (1 << 10)] = F.normalize(torch.randn(1 << 10, 512), dim=1)
        module.bank_labels.random_(16)
        module.held_out_accuracy(torch.arange(4))
    assert peak.bytes < 1.5 * module.bank.nbytes


def wide(width):
    backbone = sources.load_backbone("random-vitn_reg0", "runs", image_size=64)
    backbone.embed_dim = width
    return backbone
