"""A run of DINOv2: interruption, images in parts, what is logged, and golden losses."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from regvit_lightning import settings
from regvit_lightning.analysis.outliers import Rules
from regvit_lightning.models import sources
from regvit_lightning.pretrain import fit
from regvit_lightning.pretrain.dinov2.collapse_monitor import CollapseWarning, Health
from regvit_lightning.pretrain.norms_callback import NormsDuringTraining
from regvit_lightning.runtime.checkpoints import TrainingStopped
from regvit_lightning.settings import SettingsError
from tests.pretrain.dinov2.test_recipe import SMALL, recipe
from tests.pretrain.golden import first_losses
from tests.pretrain.test_fit import PoisonAt, die_at, same_bits

WORDS = [
    *SMALL,
    "workers=0",
    "device_batch=8",
    "epochs=1",
    "checkpoint_every=3",
    "log_every=2",
    "monitor_every=6",
    "monitor_images=40",
]


def merged(*words):
    return [*[w for w in WORDS if w.partition("=")[0] not in {o.partition("=")[0] for o in words}], *words]


def prepare(data, folder, *words):
    chosen = settings.load_settings("recipes", "dinov2", "mini", merged("drop_path=0.3", *words))[1]
    return fit.Run("vitn_reg2", "dinov2", chosen, data, 0, Path(folder))


@pytest.fixture(scope="module", params=["sinkhorn", "moving_average"])
def whole(request, tiny, tmp_path_factory):
    """An uninterrupted run of 12 steps, and the words that made it."""
    published = request.param == "sinkhorn"
    words = [f"centring={request.param}", f"separate_heads={published}", f"swiglu={published}"]
    folder = tmp_path_factory.mktemp("runs") / request.param
    fit.fit(prepare(tiny, folder, *words))
    return folder, words


def test_an_interrupted_run_ends_with_the_same_bits(tiny, whole, tmp_path):
    folder, words = whole
    run = prepare(tiny, tmp_path / "run", *words)
    die_at(run, 7)  # after a checkpoint; where there is none yet, all recipes begin anew alike, see tests of `fit`
    assert not (run.folder / "backbone.safetensors").exists()
    fit.fit(run)
    assert same_bits(run.folder, folder)
    assert same_bits(run.folder, folder, "backbone_student")
    ours, theirs = (torch.load(place / "last.ckpt", weights_only=True)["state_dict"] for place in (run.folder, folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)  # heads and centres too


class PoisonAfter(Callback):
    """Puts a NaN into a weight of the student and of the teacher right after an update, whose loss was finite."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step == self.step:
            for part in (module.backbone, module.student["backbone"]):
                part.norm.weight.data[0] = float("nan")


@pytest.mark.parametrize(
    ("poison", "message"),
    [
        (PoisonAt(4), r"the loss of step 5 is nan; the last good checkpoint is kept"),
        (PoisonAfter(4), r"a weight is not finite after step 4; the last good checkpoint is kept"),
    ],
)
@pytest.mark.parametrize("watching", ["monitor_every=1", "norms_every=1"])
def test_a_nan_is_told_before_a_monitor_meets_it(tiny, tmp_path, poison, message, watching):
    """Losses are read every 50 steps here, and the monitors look after each."""
    run = prepare(tiny, tmp_path / "run", "log_every=50", "checkpoint_every=50", watching)
    norms = (
        []
        if watching == "monitor_every=1"
        else [NormsDuringTraining(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), run.folder, 1, Rules())]
    )
    with pytest.raises(TrainingStopped, match=message):
        fit.fit(run, [poison, *norms])


def test_looking_at_the_run_changes_no_bit(tiny, whole, tmp_path):
    folder, words = whole
    run = prepare(tiny, tmp_path / "run", *words, "monitor_every=1", "workers=1")
    fit.fit(run)
    assert same_bits(run.folder, folder)


def test_the_checkpoint_and_the_export_hold_the_teacher(whole):
    folder, words = whole
    exported = sources.load_backbone(str(folder / "backbone.safetensors"), Path())
    assert exported.model.blocks[0].mlp.fc1.out_features == (512 if "swiglu=True" in words else 384)
    assert (exported.name, exported.num_registers, exported.image_size) == ("dinov2-vitn_reg2", 2, 32)
    assert sources.load_backbone(str(folder / "last.ckpt"), Path()).fingerprint == exported.fingerprint
    teacher, student = (load_file(folder / f"{name}.safetensors") for name in ("backbone", "backbone_student"))
    assert teacher.keys() == student.keys()
    assert any((teacher[name] != student[name]).any() for name in teacher)


def test_what_is_logged(whole):
    folder, _ = whole
    events = EventAccumulator(str(folder / "log")).Reload()
    losses = {f"train/{name}" for name in ("loss", "dino_local", "dino_global", "ibot", "koleo")}
    rates = {f"train/{name}" for name in ("lr", "weight_decay", "momentum")}
    looks = {f"monitor/{name}" for name in vars(Health(0, 0, 0, 0, 0, 0)) if name != "norms"}
    norms = {f"monitor/norm_{name}" for name in ("cls", "register0", "register1", "patches", "largest_patch")}
    assert losses | rates | looks | norms <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("monitor/knn_top1")] == [0, 6, 12]
    assert events.Tags()["images"] == ["train/augmented"]
    entropy = [event.value for event in events.Scalars("monitor/teacher_entropy")]
    assert all(0 < value <= 1 for value in entropy)


def fit_state(tiny, tmp_path, *words):
    """The weights that a run begins with."""
    from regvit_lightning.pretrain.dinov2 import recipe
    from regvit_lightning.runtime import seeds

    with seeds.drawn_from(0, "initialise"):
        run = prepare(tiny, tmp_path, *words)
        return recipe.DINOv2(run.settings, run.model, 16, 12, 0).state_dict()


def test_a_device_must_hold_whole_groups():
    with pytest.raises(SettingsError, match="12 images of a device are not whole groups of group=8"):
        recipe("group=8", "batch_size=24").groups_of(12)
    with pytest.raises(SettingsError, match="device_batch=4 is below group=8"):
        recipe("group=8", "device_batch=4")


def test_the_images_held_at_once_change_no_weight(tiny, whole, tmp_path):
    # Parts of a step sum up in another order; the tolerance is a hundredth of the way that weights have gone.
    folder, words = whole
    run = prepare(tiny, tmp_path / "run", *words, "device_batch=4")
    fit.fit(run)
    found, expected = (
        torch.load(place / "last.ckpt", weights_only=True)["state_dict"] for place in (run.folder, folder)
    )
    before = fit_state(tiny, tmp_path, *words)
    for name in expected:
        if expected[name].is_floating_point() and name != "student.backbone.mask_token":
            assert (found[name] - expected[name]).norm() <= 0.01 * (expected[name] - before[name]).norm(), name


class CollapseAt(Callback):
    """Makes the teacher's CLS a constant from a step on."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step == self.step:
            module.backbone.norm.weight.data.zero_()
            module.student["backbone"].norm.weight.data.zero_()


def test_a_collapse_warns_in_words(tiny, tmp_path):
    run = prepare(tiny, tmp_path / "run", "monitor_every=2", "warmup=0", "prototypes=256")
    with pytest.warns(
        CollapseWarning, match=r"step 6: CLS is the same for all images \(mean cosine (0\.999.|1\.0000), .*base_lr"
    ):
        fit.fit(run, [CollapseAt(5), StopAfter(6)])


class StopAfter(Callback):
    """Ends a run early."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step == self.step


HEALTHY = Health(50.0, 0.8, 1.0, 0.5, 20.0, 0.3)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, None),
        ({"teacher_entropy": 0.995}, "every prototype the same weight"),
        ({"prototype_usage": 0.005}, "only 0.50% of the prototypes are used"),
        ({"feature_cosine": 0.9999}, "CLS is the same for all images"),
    ],
)
def test_which_numbers_mean_collapse(changed, words):
    found = Health(**{**vars(HEALTHY), **changed}).warnings()
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


# Losses of the first ten steps, one thread: python -m pytest tests/pretrain/dinov2/test_run.py -k golden -s shows them.
GOLDEN = [12.31001, 12.62847, 8.75611, 8.71857, 7.95715, 7.29317, 6.74465, 6.47069, 6.62208, 6.22742]


@pytest.mark.skipif(not torch.__version__.startswith("2.15."), reason="made with the versions of constraints.txt")
def test_golden_losses(tiny, tmp_path):
    assert first_losses(prepare(tiny, tmp_path / "run")) == pytest.approx(GOLDEN, abs=2e-3)
