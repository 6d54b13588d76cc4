"""Scores without labels, whole runs: against numpy on features that are the pixels, and what the record says."""

import numpy as np
import pytest
import torch
from PIL import Image

from regvit_lightning import settings
from regvit_lightning.data.imagenet import test_files as files_of
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.models.foreign import ForeignBackbone
from regvit_lightning.runtime.store import Store
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks.unlabelled import label_free
from tests.tasks.test_correspondence import Pixels

SIDE, IMAGES = 32, 96
WORDS = [
    *("workers=0", "precision=32-true", f"resize={SIDE}", f"crop={SIDE}", "window=[3,40]", f"images={IMAGES}"),
    *("objects=12", "views=3", "dense_images=88"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Smooth noise of 96 test images in two classes."""
    root = tmp_path_factory.mktemp("label_free")
    for number in range(IMAGES):
        folder = root / "imagenet" / "val" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        cells = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(cells).resize((SIDE, SIDE), Image.Resampling.NEAREST).save(folder / f"{number:03d}.png")
    return DataSettings(name="noise", root=str(root))


def run(data, *words, seed=0):
    given = {word.partition("=")[0] for word in words}
    kept = [word for word in WORDS if word.partition("=")[0] not in given]
    chosen = settings.load_settings("tasks", "label_free", "mini", [*kept, *words])[1]
    return label_free.run(ForeignBackbone(Pixels(), "pixels"), data, chosen, RunOptions(seed=seed))


def test_scores_are_those_of_numpy_on_the_pixels(data):
    outcome = run(data, "window=[1,3]")
    files = files_of(data)
    images = np.stack([np.asarray(files.open(index), np.float64) / 255 - 0.5 for index in range(IMAGES)])
    cells = images.reshape(IMAGES, 8, 4, 8, 4, 3).transpose(0, 1, 3, 5, 2, 4).reshape(IMAGES, 64, 48)
    cls = cells.mean(axis=1)
    values = np.linalg.svd(cls, compute_uv=False)
    values = values[values > 1e-6 * values[0]]  # all 16 pixels of a cell are equal: 3 directions
    share = values / values.sum()
    assert outcome.metrics["rankme"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-3)


def test_the_record_warns_and_says_what_was_fitted(data):
    outcome = run(data, "window=[1,3]")
    assert set(label_free.METRICS) <= set(outcome.metrics)
    assert "fall as dense quality rises" in outcome.protocol["warning"]
    assert outcome.remarks == [outcome.protocol["warning"]]
    assert "warning" in label_free.FOOTNOTE
    assert outcome.protocol["window"] == "alpha-ReQ fitted to eigenvalues 1 to 3"
    assert outcome.protocol["dse_images"] == 88
    assert outcome.images == IMAGES
    for name, (low, high) in outcome.intervals.items():
        assert low <= outcome.metrics[name] <= high
    assert outcome.picture is not None
    assert all(metric.better == 0 for metric in label_free.METRICS.values())  # none of them is won or lost


def test_vectors_of_images_are_shared_with_knn(data, tmp_path):
    chosen = settings.load_settings(
        "tasks", "label_free", "mini", [*(word for word in WORDS if not word.startswith("window")), "window=[1,3]"]
    )[1]
    backbone, passed = ForeignBackbone(Pixels(), "pixels"), []
    backbone.model.register_forward_pre_hook(lambda _, arguments: passed.append(len(arguments[0])))
    plain, filling, reading = (
        label_free.run(backbone, data, chosen, RunOptions(store=store))
        for store in (None, *[Store(tmp_path / "features", 10**8)] * 2)
    )
    assert plain.metrics == filling.metrics == reading.metrics
    views = 12 * 3 + 88
    assert sum(passed) == 2 * (IMAGES + views) + views  # the vectors are read the last time


def test_noise_scores_high(data):
    outcome = run(data, "window=[1,3]")
    floor = outcome.floors["Gaussian noise"]
    assert floor["rankme"] > 40  # of 48 directions, though it holds nothing
    assert floor["rankme"] > outcome.metrics["rankme"]
    assert set(floor) == set(label_free.METRICS)
    noise, drawn = label_free.StructureSums(5), np.random.default_rng(0)
    for _ in range(88 // 8):
        noise.add(torch.from_numpy(drawn.normal(size=(8, 64, 48))))
    assert floor["dse"] == pytest.approx(noise.structure().dse(), abs=0.1)


def test_runs_repeat_whatever_the_batch(data):
    first, again = run(data, "window=[1,3]", "device_batch=5"), run(data, "window=[1,3]", "device_batch=64")
    assert first.metrics == pytest.approx(again.metrics, rel=1e-5)
    assert run(data, "window=[1,3]", seed=1).metrics["lidar"] != first.metrics["lidar"]


def test_views_of_an_image_are_its_own_and_stay(data):
    files = files_of(data)
    views = label_free.Augmented(files, 16, 3, seed=4)
    assert len(views) == 3 * IMAGES
    assert [views[index][1] for index in (0, 2, 3, 287)] == [0, 0, 1, 95]
    assert torch.equal(views[4][0], views[4][0])
    assert not torch.equal(views[3][0], views[4][0])
    assert not torch.equal(views[4][0], label_free.Augmented(files, 16, 3, seed=5)[4][0])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["window=[10,11]"], r"window=\[10, 11\]: expected the first and the last of three ranks or more"),
        (["window=[1]"], "expected the first and the last"),
        (["window=[5,40]"], "there are 3 eigenvalues, of which three are needed"),
        (["resize=4", "crop=4", "window=[1,3]"], "crop=4: 1 patches are too few for 3 clusters"),
    ],
)
def test_settings_that_do_not_fit(data, words, told):
    with pytest.raises(SettingsError, match=told):
        run(data, *words)


def test_too_few_images(tiny):
    with pytest.raises(SettingsError, match="label_free needs 80 test images, there are 32"):
        run(tiny)


def test_work_counts_views():
    chosen = settings.load_settings("tasks", "label_free", "mini", WORDS)[1]
    (one,) = label_free.work(chosen, {"imagenet": [10, 1000]}).passes
    assert (one.images, one.height) == (96 + 12 * 3 + 88, SIDE)
