"""Patches that evaluations share: the same bits with a store and without, one pass for all, nothing stale or large."""

import os

import pytest
import torch

from regvit_lightning import settings
from regvit_lightning.frozen import shared_patches
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.models import sources
from regvit_lightning.runtime.store import Store
from regvit_lightning.tasks.patches import hummingbird, overclustering, patch_knn
from tests.tasks.patches import planted

TASKS = {
    "hummingbird": (hummingbird, "neighbours=3"),
    "patch_knn": (patch_knn, "neighbours=[1,3]"),
    "overclustering": (overclustering, "clusters=4", "kmeans_seeds=2"),
}
TRAIN, TEST = 4, 3  # images


@pytest.fixture
def data(tmp_path):
    return planted.write(tmp_path, planted.noise(TRAIN, 3, 0), planted.noise(TEST, 3, 1), 3)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "features", 10**8)


def run(task, data, store):
    """Outcome of a task, and how many images went through the backbone."""
    module, *words = TASKS[task]
    words = [*words, "workers=0", f"size={planted.SIDE}", "precision=32-true", "device_batch=2"]
    chosen = settings.load_settings("tasks", f"{task}_ade20k", "mini", words)[1]
    backbone, seen = sources.load_backbone("random-vitn_reg4", "runs", 0, image_size=planted.SIDE), []
    backbone.model.patch_embed.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    return module.run(backbone, data, chosen, RunOptions(store=store)), sum(seen)


@pytest.mark.parametrize("task", TASKS)
def test_numbers_are_the_same_bits_with_a_store_and_without(data, store, task):
    plain, all_passes = run(task, data, None)
    filling, first = run(task, data, store)
    reading, second = run(task, data, store)
    for other in (filling, reading):
        assert (plain.metrics, plain.intervals, plain.per_class) == (other.metrics, other.intervals, other.per_class)
        assert all(torch.equal(scores, other.scores[name]) for name, scores in plain.scores.items())
    again = TEST if task == "overclustering" else 0  # which reads the test images twice
    assert (all_passes - first, first - second) == (again, TEST)


def test_the_test_images_go_through_the_backbone_once_for_all_tasks(data, store):
    run("hummingbird", data, store)
    assert (store.computed, store.read) == (TEST, 0)
    run("patch_knn", data, store)
    run("overclustering", data, store)
    assert (store.computed, store.read) == (TEST, 2 * TEST)


def test_a_changed_image_misses_and_many_bytes_are_not_shared(data, store, monkeypatch):
    run("hummingbird", data, store)
    image = f"{data.root}/test/images/000.png"
    os.utime(image, ns=(0, 0))
    run("hummingbird", data, store)
    assert (store.computed, store.read) == (2 * TEST, 0)
    files = len(list(store.folder.glob("*.rows")))
    size = 4 * TEST * (planted.SIDE // 8) ** 2 * 96  # patches of 8 px, 96 wide
    monkeypatch.setattr(shared_patches, "MOST_BYTES", size - 1)
    os.utime(image, ns=(1, 1))
    run("hummingbird", data, store)
    assert len(list(store.folder.glob("*.rows"))) == files
    monkeypatch.setattr(shared_patches, "MOST_BYTES", size)
    run("hummingbird", data, store)
    assert len(list(store.folder.glob("*.rows"))) == files + 1
