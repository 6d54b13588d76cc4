"""kNN while a backbone is pretrained: the votes of scikit-learn, and no trace in the run that is watched."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F

from regvit_lightning.data.imagenet import train_files
from regvit_lightning.data.transforms import centre_crop
from regvit_lightning.pretrain import fit
from regvit_lightning.pretrain.deit3 import DeiT3
from regvit_lightning.pretrain.knn_callback import HeldOutKnn, knn_top1
from regvit_lightning.runtime import seeds
from regvit_lightning.settings import SettingsError
from tests.pretrain import test_openclip
from tests.pretrain.test_deit3 import recipe
from tests.pretrain.test_fit import die_at, prepare, same_bits

WATCHED = ["monitor_every=5", "monitor_images=40", "drop_path=0.5"]


def curve(folder):
    events = EventAccumulator(str(folder / "log")).Reload()
    return [(event.step, event.value) for event in events.Scalars("monitor/knn_top1")]


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """The same run of 12 steps twice: measured at every fifth step, and never."""
    folder = tmp_path_factory.mktemp("runs")
    watched = prepare(tiny, folder / "watched", *WATCHED, "workers=1")
    alone = prepare(tiny, folder / "alone", "drop_path=0.5", "monitor_every=0")
    fit.fit(watched)
    fit.fit(alone)
    return watched, alone


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_votes_are_those_of_scikit_learn(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(6, (83,), generator=generator)
    features = F.one_hot(labels, 6) + 0.5 * torch.randn(83, 6, generator=generator)
    features = F.normalize(features, dim=1)
    held = np.arange(83) % 5 == 0
    theirs = KNeighborsClassifier(10, weights=lambda distance: np.exp((1 - distance) / 0.07), metric="cosine")
    theirs.fit(features[~held].numpy(), labels[~held].numpy())
    expected = 100 * theirs.score(features[held].numpy(), labels[held].numpy())
    assert 30 < expected < 100
    assert knn_top1(features, labels, 6) == pytest.approx(expected)


def test_separate_classes_are_told_apart_also_among_ten_images():
    labels = torch.tensor([0, 1] * 5)
    assert knn_top1(F.one_hot(labels, 2).float(), labels, 2) == 100
    assert knn_top1(F.one_hot(1 - labels, 2).float(), labels, 2) == 100


def test_being_watched_changes_no_bit(runs):
    watched, alone = runs
    assert same_bits(watched.folder, alone.folder)
    assert same_bits(watched.folder, alone.folder, "backbone_ema")


def test_it_is_measured_at_the_first_every_fifth_and_the_last_step(runs):
    assert [step for step, _ in curve(runs[0].folder)] == [0, 5, 10, 12]
    events = EventAccumulator(str(runs[1].folder / "log")).Reload()
    assert "monitor/knn_top1" not in events.Tags()["scalars"]


def test_the_last_value_is_that_of_the_last_weights_without_stochastic_depth(runs, tiny):
    run = runs[0]
    module = DeiT3.load_from_checkpoint(run.folder / "last.ckpt").eval()
    files, view = train_files(tiny), centre_crop(73, 64)
    drawn = torch.randperm(len(files), generator=seeds.generator(0, "monitor"))[:40].tolist()
    images = torch.stack([view(files.open(index)) for index in drawn])
    with torch.no_grad():
        features = F.normalize(module(images).cls, dim=1)
    expected = knn_top1(features, torch.from_numpy(files.labels[drawn]), 16)
    assert curve(run.folder)[-1][1] == pytest.approx(expected)


def test_a_continued_run_measures_every_step_once(tiny, tmp_path):
    run = prepare(tiny, tmp_path / "run", *WATCHED, "device_batch=8", "checkpoint_every=5")
    die_at(run, 6)
    fit.fit(run)
    assert sorted({step for step, _ in curve(run.folder)}) == [0, 5, 10, 12]
    assert len(curve(run.folder)) == 4


def test_an_image_that_cannot_be_read_is_left_out_as_in_training(tiny, tmp_path, monkeypatch):
    from regvit_lightning.pretrain.unreadable import Unreadable

    monkeypatch.setattr(Unreadable, "LIMIT", 0.02)
    shutil.copytree(Path(tiny.root) / "imagenet", tmp_path / "imagenet")
    next((tmp_path / "imagenet" / "train").rglob("*.JPEG")).write_bytes(b"")
    run = prepare(replace(tiny, root=str(tmp_path)), tmp_path / "run", "monitor_images=96", "epochs=1")
    fit.fit(run)
    assert [step for step, _ in curve(run.folder)] == [0, 6]


def test_nothing_is_measured_of_fewer_than_ten_images(tiny, tmp_path):
    train = tmp_path / "imagenet" / "train"
    for name in sorted(path.name for path in (Path(tiny.root) / "imagenet" / "train").iterdir())[:3]:
        (train / name).mkdir(parents=True)
        for image in sorted((Path(tiny.root) / "imagenet" / "train" / name).iterdir())[:3]:
            (train / name / image.name).symlink_to(image)
    run = prepare(replace(tiny, root=str(tmp_path)), tmp_path / "run", "batch_size=9", "device_batch=9", "epochs=2")
    fit.fit(run)
    assert "monitor/knn_top1" not in EventAccumulator(str(run.folder / "log")).Reload().Tags()["scalars"]


def test_pairs_have_no_labels_and_zero_switches_it_off():
    assert test_openclip.recipe().configure_callbacks() == []
    with pytest.raises(SettingsError, match="monitor_every=5: kNN needs labels, which pairs do not have"):
        test_openclip.load_recipe("monitor_every=5")
    assert recipe("monitor_every=0").configure_callbacks() == []
    (found,) = recipe().configure_callbacks()
    assert isinstance(found, HeldOutKnn)


def test_too_few_images_are_refused():
    with pytest.raises(SettingsError, match="monitor_images=9: kNN on held-out images needs at least 10"):
        HeldOutKnn(5, 9, 8, 0)
