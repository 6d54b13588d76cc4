"""Ordered passes on two devices: every image once, in the order of the data, with the numbers of one device.

Two devices are two processes here, which share the same batches; whatever a task does with them, what it keeps and
scores has the same bits.
"""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from open_clip.model import CLIP
from torch.utils.data import BatchSampler

from regvit_lightning import evaluation, settings
from regvit_lightning.data import layout
from regvit_lightning.data.device_batches import DeviceBatches, DeviceSequences
from regvit_lightning.data.mini import writer as mini
from regvit_lightning.frozen import devices as device_passes
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.models import sources
from regvit_lightning.runtime import hardware, together
from tests.forked import Forked
from tests.tasks.test_zeroshot import TEXT, VISION

SMALL = ["workers=0", "precision=32-true", "device_batch=2"]
TASKS = {
    "imagenet_knn": ["neighbours=[1,3]"],
    "lost_voc07": [],
    "lost_sweep_voc07": [],
    "tokencut_voc07": [],
    "register_discovery_voc07": ["random_boxes=16"],
    "saliency_scenes": ["held_out=0.5"],
    "hummingbird_ade20k": ["memory=400", "size=64", "neighbours=5"],
    "patch_knn_ade20k": ["memory=400", "size=64", "neighbours=[1,3]"],
    "overclustering_ade20k": ["clusters=8", "points=200", "size=64"],
    "davis2017": ["short_side=64"],
    "spair71k": ["side=64"],
    "logistic_rendered": ["tokens.draws=1", "tokens.exponents=[0]", "tokens.iterations=5", "norm_images=5"],
    "artifact_report": [
        *("figures=false", "images=6", "detailed=4", "shown=1", "probes.train_images=32", "probes.local_images=5"),
        *("probes.tokens.draws=1", "probes.tokens.exponents=[0]", "probes.tokens.iterations=5"),
    ],
}


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A rendered set with several batches of every kind of image, with all sets of the data `mini`."""
    root = tmp_path_factory.mktemp("several")
    one = dict.fromkeys(("nyu_train", "nyu_test", "voc2012", "coco", "shards_train", "shards_val", "scans"), 1)
    images = {"imagenet_train": 2, "imagenet_val": 1, "ade_train": 3, "ade_val": 6, "voc2007": 9, "films": 3}
    for _ in mini.write(root, mini.MiniSettings(**one, **images, keypoints=6), workers=0):
        pass
    return replace(layout.resolve("mini"), root=str(root), name="several", rendered=False, counts={})


def evaluated(data, task, words, devices, file, model):
    """Save what a task finds on so many devices."""
    hardware.choose_accelerator("cpu", devices)
    device_passes.ROUNDS = 2  # so that a few images need several exchanges
    cell = evaluation.prepare(task, data, "mini", 0, [*SMALL, *words])
    backbone = sources.load_backbone(model, Path("runs"), image_size=64)
    with together.helped():
        outcome = cell.task.run(backbone, cell.data, cell.settings, RunOptions(devices=devices))
    assert int(os.environ.get("LOCAL_RANK", 0)) == 0, "only the first process goes on"
    found = {name: getattr(outcome, name) for name in ("metrics", "images", "per_class", "floors", "scores")}
    torch.save(found | {"protocol": repr(outcome.protocol)}, file)


TRAINED = {  # heads, whose weights differ by rounding
    "imagenet_linear": ["steps=2", "batch_size=8", "learning_rates=[0.1]", "blocks=[1]"],
    "imagenet_attentive": ["steps=2", "batch_size=8", "learning_rates=[1e-3]", "weight_decays=[0]", "warmup_steps=1"],
    "ade20k_linear": ["steps=2", "batch_size=4", "warmup_steps=1"],
    "nyud_linear1": ["steps=2", "batch_size=4", "loss_images=2", "warmup_steps=1"],
}


def same(one, other):
    """Equal to the bit, with NaN where the other has NaN."""
    if isinstance(one, torch.Tensor):
        return one.shape == other.shape and torch.equal(one.nan_to_num(-7), other.nan_to_num(-7))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return one == other or (one != one and other != other)


def on_one_and_two(data, place, task, words, model="random-vitn_reg4"):
    """What a task finds on one device and on two."""
    files = [place / "one.pt", place / "two.pt"]
    processes = [Forked(evaluated, data, task, words, number, file, model) for number, file in enumerate(files, 1)]
    for process in processes:
        errors = process.communicate(timeout=300)[1]
        assert process.returncode == 0, errors
    return [torch.load(file, weights_only=False) for file in files]


@pytest.mark.parametrize("task", TASKS)
def test_two_devices_find_what_one_finds(several, tmp_path, task):
    one, two = on_one_and_two(several, tmp_path, task, TASKS[task])
    for name in one:
        assert same(one[name], two[name]), name


def test_two_devices_rank_classes_by_their_texts_as_one_does(several, tmp_path):
    torch.manual_seed(0)
    torch.save(CLIP(embed_dim=32, vision_cfg=VISION, text_cfg=TEXT).state_dict(), tmp_path / "m.pt")
    words = ["resize=64", "crop=64", "class_names=folders", "templates=rendered"]
    one, two = on_one_and_two(several, tmp_path, "imagenet_zeroshot", words, str(tmp_path / "m.pt"))
    assert one["images"] == 16
    assert all(same(one[name], two[name]) for name in one)


@pytest.mark.parametrize("task", TRAINED)
def test_heads_are_trained_and_tested_on_two_devices(several, tmp_path, task):
    one, two = on_one_and_two(several, tmp_path, task, TRAINED[task])
    assert one["images"] == two["images"] > 0
    assert one["metrics"].keys() == two["metrics"].keys()
    assert one["metrics"] == pytest.approx(two["metrics"], rel=0.02, abs=0.02, nan_ok=True)
    for name, scores in one["scores"].items():
        ours, theirs = scores.double(), two["scores"][name].double()
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().nanmean() <= 0.02 * ours.abs().nanmean()


# ---------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("images", [1, 7, 8, 9, 24])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_every_image_is_in_one_batch_of_one_device(images, world):
    every = BatchSampler(range(images), 3, drop_last=False)
    parts = [DeviceBatches(every, rank, world) for rank in range(world)]
    batches = [list(part) for part in parts]
    assert [len(part) for part in parts] == [len(own) for own in batches]
    assert {part.rounds for part in parts} == {max(map(len, batches))}
    in_order = sorted((part.number(place), batch) for part in parts for place, batch in enumerate(part))
    assert [batch for _, batch in in_order] == list(every)


def test_sequences_stay_whole():
    sequences = [[[0, 1], [2]], [[3]], [[4], [5], [6]]]
    first, second = (list(DeviceSequences(sequences, rank, 2)) for rank in (0, 1))
    assert first == [[0, 1], [2], [4], [5], [6]]
    assert second == [[3]]
    assert [DeviceSequences(sequences, rank, 2).rounds for rank in (0, 1)] == [5, 5]


# ----------------------------------------------------------------------------------------------------------- errors


def broken(tiny, image):
    """A program whose test images on two devices have one that cannot be read."""
    from benchmarks import command

    def body(options, words):
        hardware.choose_accelerator("cpu", 2)
        cell = evaluation.prepare("imagenet_knn", tiny, "mini", 0, [*SMALL, "neighbours=[1]"])
        backbone = sources.load_backbone("random-vitn_reg4", "runs", image_size=64)
        cell.run(backbone, RunOptions(devices=2))

    sys.argv[1:] = []
    command.run("evaluate", "", _Nothing, body)


@dataclass
class _Nothing:
    """No settings."""


@pytest.mark.parametrize("place", [0, 5])
def test_an_image_that_one_device_cannot_read_stops_both_with_one_line(tiny, tmp_path, place):
    images = sorted(Path(tiny.root, "imagenet", "val").rglob("*.*"))
    copy = tmp_path / "imagenet"
    for split in ("train", "val"):
        for image in sorted(Path(tiny.root, "imagenet", split).rglob("*.*")):
            link = copy / split / image.parent.name / image.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(image)
    bad = copy / images[place].relative_to(Path(tiny.root, "imagenet"))
    bad.unlink()
    bad.write_bytes(b"no image")
    process = Forked(broken, layout.resolve(str(copy)), bad)
    errors = process.communicate(timeout=200)[1]
    assert process.returncode == 2, errors
    lines = [line for line in errors.splitlines() if line.startswith("evaluate: ")]
    assert len(lines) == 1, errors
    assert bad.name in lines[0]
    assert "unreadable image" in lines[0]
    assert "Traceback" not in errors


def test_which_tasks_share_their_passes():
    """Every task with a pass of its own over images, but one whose sums are as large as its tokens."""
    from regvit_lightning.frozen.module import FrozenModule

    for name in settings.names("tasks"):
        settings.load_settings("tasks", name, "mini")
    kinds, pending = set(), [FrozenModule]
    while pending:
        kinds |= set(found := pending.pop().__subclasses__())
        pending += found
    steps = {
        kind.__name__: kind.shares_passes
        for kind in kinds
        if kind.__module__.startswith("regvit_lightning.tasks") and {"test_step", "validation_step"} & vars(kind).keys()
    }
    assert len(steps) > 10
    assert [name for name, shares in steps.items() if not shares] == ["PositionPass"]
