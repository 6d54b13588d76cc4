"""In-context segmentation: planted labels come back, and noise agrees with the protocol written out in numpy."""

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional as F

from regvit_lightning import settings
from regvit_lightning.errors import UserError
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.models import sources
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks.patches import hummingbird
from tests.tasks.patches import planted


def chosen(*words):
    defaults = {"workers": "0", "size": "16", "scale": "[]", "precision": "32-true", "neighbours": "3"}
    words = [f"{key}={value}" for key, value in {**defaults, **dict(w.split("=", 1) for w in words)}.items()]
    return settings.load_settings("tasks", "hummingbird_ade20k", "mini", words)[1]


def run(data, *words, seed=0):
    return hummingbird.run(planted.pixels(), data, chosen(*words), RunOptions(seed=seed))


def test_planted_stripes_come_back(tmp_path):
    outcome = run(planted.write(tmp_path, planted.stripes(6, 0), planted.stripes(3, 1), 3))
    assert outcome.metrics["miou"] == outcome.metrics["miou_resized"] == 100
    assert outcome.metrics["ceiling"] == outcome.metrics["ceiling_resized"] == 100
    assert outcome.images == 3
    assert outcome.protocol["memory_patches"] == 6 * 16
    assert outcome.picture is not None


def reference(train, test, classes, k, temperature):
    """mIoU in percent by numpy, scikit-learn and one upsampling of all classes."""

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    bank, pixels = unit(planted.features(train)), planted.labels(train)
    counts = np.stack([(pixels == number).sum(axis=1) for number in range(classes)], axis=1)
    known = counts.sum(axis=1) > 0
    bank, shares = bank[known], (counts[known] / counts[known].sum(axis=1, keepdims=True))
    search = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(bank)
    distance, index = search.kneighbors(unit(planted.features(test)))
    weights = np.exp((1 - distance) / temperature)
    weights /= weights.sum(axis=1, keepdims=True)
    maps = torch.from_numpy((weights[..., None] * shares[index]).sum(axis=1)).view(len(test), 4, 4, classes)
    upsampled = F.interpolate(maps.permute(0, 3, 1, 2), (16, 16), mode="bilinear").argmax(dim=1).numpy()
    truth = np.stack([labels for _, labels in test])
    return 100 * jaccard_score(truth[truth != 255], upsampled[truth != 255], average="macro")


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.02), (5, 0.02), (30, 0.3)])
def test_noise_agrees_with_the_protocol_written_out(tmp_path, k, temperature):
    train, test = planted.noise(6, 4, 0), planted.noise(4, 4, 1)
    train[0][1][:8] = 255  # patches without a label are not in the memory
    outcome = run(planted.write(tmp_path, train, test, 4), f"neighbours={k}", f"temperature={temperature}")
    assert outcome.metrics["miou_resized"] == pytest.approx(reference(train, test, 4, k, temperature), abs=1e-6)
    assert outcome.metrics["miou"] == outcome.metrics["miou_resized"]  # the masks have the size of the input
    assert outcome.protocol["memory_patches"] == 6 * 16 - 8


def test_the_ceiling_is_the_score_of_a_memory_of_the_test_images(tmp_path):
    test = planted.noise(4, 4, 1)
    outcome = run(planted.write(tmp_path, test, test, 4), "neighbours=1")
    assert outcome.metrics["miou"] == outcome.metrics["ceiling"] < 70  # noise within a patch cannot be told
    assert outcome.metrics["ceiling_resized"] == outcome.metrics["miou_resized"]


def test_both_sizes_are_scored(tmp_path):
    # At twice the size of the input every second row has another class, which nearest resizing does not see.
    ((image, labels),) = planted.stripes(1, 3)
    large, twice = np.kron(labels, np.ones((2, 2), np.uint8)), np.kron(image, np.ones((2, 2, 1), np.uint8))
    truth = large.copy()
    truth[::2] = 2 - truth[::2]
    outcome = run(planted.write(tmp_path, [(image, labels)], [(twice, truth)], 3), "neighbours=1")
    assert outcome.metrics["miou_resized"] == 100
    expected = 100 * jaccard_score(truth.ravel(), large.ravel(), average="macro")
    assert outcome.metrics["miou"] == pytest.approx(expected)
    assert outcome.metrics["ceiling"] == pytest.approx(expected)


def test_floor_is_the_most_frequent_class_of_train(tmp_path):
    labels = np.zeros((16, 16), np.uint8)
    other = labels.copy()
    other[:4] = 1
    image = planted.noise(1, 2, 0)[0][0]
    outcome = run(planted.write(tmp_path, [(image, labels)], [(image, other)], 2))
    assert outcome.floors["most frequent class"]["miou"] == pytest.approx(75 / 2)
    assert outcome.per_class == {"class 0": 75.0, "class 1": 0.0}


def test_the_memory_is_bounded_and_spread_over_the_images(tmp_path):
    data = planted.write(tmp_path, planted.noise(6, 4, 0), planted.noise(2, 4, 1), 4)
    assert run(data, "memory=35").protocol["memory_patches"] == 6 * 5
    assert run(data, "memory=35", "epochs=2").protocol["memory_patches"] == 12 * 2
    with pytest.raises(SettingsError, match="memory=5: below one patch for each of 6 train views"):
        run(data, "memory=5")
    with pytest.raises(SettingsError, match="neighbours=31: above the 30 labelled patches of the memory"):
        run(data, "memory=35", "neighbours=31")


def test_crops_are_drawn_from_the_seed_and_batches_do_not_matter(tmp_path):
    data = planted.write(tmp_path, planted.noise(6, 4, 0, side=24), planted.noise(3, 4, 1), 4)
    words = "scale=[0.5,2.0]", "memory=48"
    first, again = run(data, *words, "device_batch=4"), run(data, *words, "device_batch=1")
    assert (first.metrics, first.intervals, first.protocol) == (again.metrics, again.intervals, again.protocol)
    assert run(data, *words, seed=1).metrics["miou"] != first.metrics["miou"]
    low, high = first.intervals["miou"]
    assert low < first.metrics["miou"] < high


def test_settings_and_data_that_do_not_fit(tmp_path):
    with pytest.raises(SettingsError, match=r"scale=\[0\.5\]: expected two numbers"):
        chosen("scale=[0.5]")
    void = [(image, np.full_like(labels, 255)) for image, labels in planted.noise(1, 4, 0)]
    with pytest.raises(UserError, match="miou is undefined: no pixel of the 1 test masks has a label"):
        run(planted.write(tmp_path, planted.noise(1, 4, 0), void, 4))


def test_a_vit_on_rendered_images(tiny):
    backbone = sources.load_backbone("random-vitn_reg4", "runs", image_size=64)
    outcome = hummingbird.run(backbone, tiny, chosen("size=60"))
    assert outcome.protocol["view"].startswith("squashed to 64 × 64")  # the nearest multiple of a patch of 8 px
    assert set(hummingbird.METRICS) <= set(outcome.metrics)
    assert outcome.metrics["miou"] <= outcome.metrics["ceiling"]
