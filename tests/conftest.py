"""What all tests share: one thread for tiny models, a tiny rendered data set, the real photographs where they are."""

import gc
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import settings as hypothesis_settings

from regvit_lightning import settings
from regvit_lightning.data import layout
from regvit_lightning.data.image_sets import Segmentation
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.mini import writer as mini

# Tiny models spend their time waking threads up; with one each, the suite is several times faster.
torch.set_num_threads(1)

# No test is judged by its time: the first example of many imports what takes seconds on a busy machine. Every run draws
# the same examples, so that a failure comes from a change of the code; --hypothesis-profile=explore draws others.
hypothesis_settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis_settings.register_profile("explore", deadline=None)
hypothesis_settings.load_profile("suite")

HANDS = Path(__file__).resolve().parents[2] / "shared" / "data" / "hands"

TINY = mini.MiniSettings(
    imagenet_train=6,
    imagenet_val=2,
    ade_train=2,
    ade_val=1,
    nyu_train=1,
    nyu_test=1,
    voc2007=2,
    voc2012=2,
    coco=2,
    shards_train=4,
    shards_val=2,
    films=2,
    keypoints=2,
    scans=1,
    shifted=1,
    landmarks=2,
)


def pytest_collection_modifyitems(items):
    """Tests marked `gpu` are skipped on a machine without one."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(scope="session", autouse=True)
def _imported_modules_are_no_garbage():
    """mmengine collects garbage for each data set it opens: half a second where it looks through all of torch."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> DataSettings:
    """A rendered data set of 16 classes with 6 train and 2 test images each."""
    root = tmp_path_factory.mktemp("data") / "tiny"
    for _ in mini.write(root, TINY, workers=0):
        pass
    (root / "imagenet" / "pairs").symlink_to("../shards")  # so that the folder alone serves every recipe
    return DataSettings(
        name="tiny",
        root=str(root),
        variant="mini",
        imagenet22k="imagenet",
        pairs="shards/train-*.tar",
        segmentation=Segmentation(vocabulary="rendered"),
    )


@pytest.fixture(scope="module")
def norms_undrawn():
    """Trainings leave out the figure of norms at their end, which takes longer than their steps."""
    from regvit_lightning.pretrain import norms_callback

    with mock.patch.object(norms_callback, "draw"):
        yield


@pytest.fixture
def configs(tmp_path, monkeypatch) -> Path:
    """A copy of the shipped `configs/`, which stands in for it: files may be added."""
    folder = Path(shutil.copytree(settings.CONFIGS, tmp_path / "configs"))
    monkeypatch.setattr(settings, "CONFIGS", folder)
    return folder


@pytest.fixture(scope="session")
def hands() -> DataSettings:
    """Real photographs in ImageNet's layout, outside the repository."""
    if not HANDS.is_dir():
        pytest.skip("the real photographs are not here")
    return layout.resolve(str(HANDS))
