"""Segmentation by nearest patches: CAPI's protocol against scikit-learn, and the choice on held-out images."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import jaccard_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from regvit_lightning import settings
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks.patches import patch_knn
from tests.tasks.patches import planted


def chosen(*words):
    defaults = {"workers": "0", "size": "16", "precision": "32-true", "neighbours": "[1,5]"}
    words = [f"{key}={value}" for key, value in {**defaults, **dict(w.split("=", 1) for w in words)}.items()]
    return settings.load_settings("tasks", "patch_knn_ade20k", "mini", words)[1]


def run(data, *words, seed=0):
    return patch_knn.run(planted.pixels(), data, chosen(*words), RunOptions(seed=seed))


def test_a_memory_of_the_test_images_gives_all_labels_back(tmp_path):
    test = planted.noise(5, 4, 1, void=0)
    outcome = run(planted.write(tmp_path, test, test, 4), "neighbours=[1]")
    assert outcome.metrics["miou"] == outcome.metrics["miou_resized"] == outcome.metrics["ceiling"] == 100
    assert outcome.images == 5
    assert outcome.picture is not None


def reference(train, test, k, metric):
    """mIoU in percent by scikit-learn and scipy."""
    scaler = StandardScaler().fit(planted.features(train))
    bank, queries = (scaler.transform(planted.features(pairs)) for pairs in (train, test))
    search = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(bank)
    index = search.kneighbors(queries, return_distance=False)
    predicted = stats.mode(planted.labels(train)[index], axis=1).mode
    truth = planted.labels(test)
    return 100 * jaccard_score(truth[truth != 255], predicted[truth != 255], average="macro")


@pytest.mark.parametrize("k", [1, 7])
@pytest.mark.parametrize(("distance", "metric"), [("cosine", "cosine"), ("l2", "euclidean")])
def test_noise_agrees_with_scikit_learn(tmp_path, k, distance, metric):
    train, test = planted.noise(6, 4, 0, void=0), planted.noise(3, 4, 1)
    outcome = run(planted.write(tmp_path, train, test, 4), f"neighbours=[{k}]", f"distances=[{distance}]")
    assert outcome.metrics["miou_resized"] == pytest.approx(reference(train, test, k, metric), abs=1e-9)
    assert outcome.protocol["distance"] == distance
    assert outcome.protocol["memory_patches"] == 6 * 16


def test_the_choice_is_made_on_held_out_images_without_their_own_patches(tmp_path):
    # Labels say nothing about the pixels: only an image's own patches, which must not be neighbours, would be right.
    data = planted.write(tmp_path, planted.noise(10, 4, 0, void=0), planted.noise(2, 4, 1), 4)
    outcome = run(data, "neighbours=[1,5]", "held_out=0.2")
    held = outcome.protocol["miou_held_out"]
    assert list(held) == ["cosine, k=1", "cosine, k=5", "l2, k=1", "l2, k=5"]
    assert max(held.values()) < 40
    assert held[f"{outcome.protocol['distance']}, k={outcome.protocol['k']}"] == max(held.values())
    assert outcome.protocol["k_chosen_on"] == "20% of train, held out: 2 images"
    assert outcome.protocol["memory_patches"] == 160  # all images, for the test


def test_the_candidate_that_is_best_on_held_out_images_is_taken(tmp_path):
    # Ten times as much blue as anything else: one neighbour is right, many neighbours say blue.
    train = planted.stripes(9, 0) + [planted.stripes(1, 7, colours=((20, 20, 250),))[0]] * 21
    train[9:] = [(image, np.full_like(labels, 2)) for image, labels in train[9:]]
    data = planted.write(tmp_path, train, planted.stripes(2, 1), 3)
    outcome = run(data, "neighbours=[300,1]", "held_out=0.3", "distances=[l2]")
    assert outcome.protocol["k"] == 1
    assert outcome.metrics["miou"] == 100
    assert run(data, "neighbours=[300]", "held_out=0.3", "distances=[l2]").metrics["miou"] < 50


def test_held_out_images_depend_on_the_seed_and_are_bounded():
    few = chosen("held_out=0.5", "held_out_limit=7")
    drawn = [patch_knn.held_out_images(100, few, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 7
    assert len(patch_knn.held_out_images(3, chosen("held_out=0.01"), 0)) == 1


def test_a_constant_feature_does_no_harm(tmp_path):
    train = planted.stripes(6, 0)
    for image, _ in train:
        image[::4, ::4, 0] = 77  # the first feature of every patch
    outcome = run(planted.write(tmp_path, train, train, 3), "neighbours=[1]")
    assert outcome.metrics["miou"] == 100


def test_settings_that_do_not_fit(tmp_path):
    with pytest.raises(SettingsError, match=r"distances=\['l1'\]: expected a list of cosine and l2"):
        chosen("distances=[l1]")
    with pytest.raises(SettingsError, match="neighbours: expected a list"):
        chosen("neighbours=[]")
    data = planted.write(tmp_path, planted.noise(3, 4, 0, void=0), planted.noise(1, 4, 1), 4)
    with pytest.raises(SettingsError, match="k=33 is above the 32 labelled patches that are left when 1 images"):
        run(data, "neighbours=[33]")


def test_standardised_features_have_mean_0_and_deviation_1():
    module = patch_knn.PatchKNN(planted.pixels(), chosen("bank_chunk=7"), 3, 10, 16, 0)
    module.on_validation_start()
    features = torch.randn(100, 48, generator=planted.torch_seed(0)) * 3 + 100
    module.memory.add(features, torch.zeros(100, 16, dtype=torch.uint8), 0)
    module.standardise()
    expected = StandardScaler().fit_transform(features.double().numpy())
    np.testing.assert_allclose(module.memory.features.numpy(), expected, rtol=1e-5, atol=1e-5)
