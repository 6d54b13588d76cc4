"""Segmentation by clusters: planted groups come back, and the score is that of scikit-learn on the same clusters."""

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from regvit_lightning import settings
from regvit_lightning.errors import UserError
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.settings import SettingsError
from regvit_lightning.statistics import miou
from regvit_lightning.tasks.patches import kmeans, overclustering
from tests.tasks.patches import planted


def chosen(*words, task="overclustering"):
    defaults = {"workers": "0", "size": "16", "precision": "32-true"}
    words = [f"{key}={value}" for key, value in {**defaults, **dict(w.split("=", 1) for w in words)}.items()]
    return settings.load_settings("tasks", f"{task}_ade20k", "mini", words)[1]


def run(data, *words, seed=0, task="overclustering"):
    return overclustering.run(planted.pixels(), data, chosen(*words, task=task), RunOptions(seed=seed))


@pytest.mark.parametrize("task", ["overclustering", "kmeans_segmentation"])
def test_as_many_clusters_as_planted_colours_give_all_labels_back(tmp_path, task):
    data = planted.write(tmp_path, planted.stripes(1, 0), planted.stripes(6, 1), 3)
    outcome = run(data, "clusters=3" if task == "overclustering" else "clusters=0", task=task)
    assert (outcome.metrics["miou"], outcome.metrics["miou_sd"], outcome.metrics["ceiling"]) == (100, 0, 100)
    assert outcome.protocol["clusters"] == 3
    assert outcome.protocol["miou_of_runs"] == [100] * 5
    assert outcome.images == 6
    assert outcome.picture is not None


@pytest.mark.parametrize("matching", ["many_to_one", "hungarian"])
def test_the_score_is_that_of_scikit_learn_on_the_same_clusters(tmp_path, matching):
    test = planted.noise(8, 4, 1)
    for number, (image, labels) in enumerate(test):  # labels that pixels tell something of
        labels[:, :4] = (image[:, :4, 0] > 128) + 2 * (number % 2)
    data = planted.write(tmp_path, planted.noise(1, 4, 0), test, 4)
    with_seeds = "kmeans_seeds=2", "clusters=4", f"matching={matching}"
    module_runs, own = [], overclustering.Clusters.match

    def kept(module):
        areas = own(module)
        module_runs.append((module.centres, module.matched))
        return areas

    overclustering.Clusters.match = kept
    try:
        outcome = run(data, *with_seeds)
    finally:
        overclustering.Clusters.match = own
    ((centres, matched),) = module_runs
    truth = np.concatenate([labels.ravel() for _, labels in test])
    scores = []
    for one, classes in zip(centres, matched, strict=True):
        maps = []
        for image, _ in test:
            parts = torch.from_numpy(image / 255 - 0.5).float().permute(2, 0, 1).unfold(1, 4, 4).unfold(2, 4, 4)
            ids = kmeans.assigned(parts.permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1), one).view(4, 4)
            maps.append(overclustering.upsampled_ids(ids, 16, 16).flatten())
        clusters = torch.cat(maps).numpy()
        predicted = classes.numpy()[clusters]
        known = truth != 255
        scores.append(100 * jaccard_score(truth[known], predicted[known], labels=range(4), average="macro"))
        if matching == "many_to_one":
            for cluster in np.unique(clusters):
                inside = truth[(clusters == cluster) & known]
                assert classes[cluster] == np.bincount(inside, minlength=4).argmax()
    assert outcome.metrics["miou"] == pytest.approx(np.mean(scores))
    assert outcome.metrics["miou_sd"] == pytest.approx(np.std(scores, ddof=1), abs=1e-9)
    stored = outcome.scores["miou"].double().mean(dim=0).numpy()
    assert miou(stored) == pytest.approx(outcome.metrics["miou"])  # what tables and comparisons compute


def test_more_clusters_score_higher_and_the_ceiling_bounds_hard_labels(tmp_path):
    data = planted.write(tmp_path, planted.noise(1, 4, 0), planted.noise(5, 4, 1), 4)
    few, many = run(data, "clusters=4"), run(data, "clusters=80")
    assert few.metrics["miou"] < many.metrics["miou"]
    assert many.metrics["miou"] == pytest.approx(many.metrics["ceiling"], abs=0.5)  # a cluster for each patch
    assert few.floors["most frequent class"]["miou"] < few.metrics["miou"]
    assert few.metrics["miou_sd"] > 0


def test_runs_and_patches_depend_on_the_seed_not_on_the_batch(tmp_path):
    data = planted.write(tmp_path, planted.noise(1, 4, 0), planted.noise(6, 4, 1), 4)
    words = "clusters=5", "points=48"
    first, again = run(data, *words, "device_batch=4"), run(data, *words, "device_batch=1")
    assert (first.metrics, first.intervals) == (again.metrics, again.intervals)
    assert len(set(first.protocol["miou_of_runs"])) > 1
    assert run(data, *words, seed=1).metrics["miou"] != first.metrics["miou"]
    assert first.protocol["patches_clustered"] == "at most 8 of each test image"
    low, high = first.intervals["miou"]
    assert low < high


def test_settings_and_data_that_do_not_fit(tmp_path):
    with pytest.raises(SettingsError, match="matching=best: expected one of many_to_one, hungarian"):
        chosen("matching=best")
    void = [(image, np.full_like(labels, 255)) for image, labels in planted.noise(2, 4, 0)]
    data = planted.write(tmp_path, planted.noise(1, 4, 0), void, 4)
    with pytest.raises(SettingsError, match="clusters=33: above the 32 patches that k-means sees of 2 images"):
        run(data, "clusters=33")
    with pytest.raises(SettingsError, match="points=1: below one patch for each of 2 images"):
        run(data, "points=1")
    with pytest.raises(UserError, match="miou is undefined: no pixel of the 2 test masks has a label"):
        run(data, "clusters=2")
