"""fp16 with a gradient scaler: where it is taken, and that neither weights nor followers move on a skipped step."""

import copy

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from regvit_lightning.pretrain import fit
from regvit_lightning.runtime import hardware
from regvit_lightning.settings import SettingsError
from tests.pretrain import test_openclip
from tests.pretrain.dinov2 import test_run
from tests.pretrain.test_fit import prepare

QUIET = ["precision=16-mixed", "logger=none", "norms_every=0", "checkpoint_every=100"]
BROKEN = 2  # step whose gradient overflows


class Overflow(Callback):
    """Makes one gradient infinite before an update, and keeps all weights after each update."""

    def __init__(self):
        self.states, self.steps, self.skipped = [], [], []

    def on_train_start(self, trainer, module):
        self.parameter = next(p for p in module.parameters() if p.requires_grad)
        self.parameter.register_hook(lambda g: g * float("inf") if trainer.global_step == BROKEN else g)
        self.scaler = trainer.precision_plugin.scaler
        self.scaler._init_scale = 8.0  # from 65,536 a first step may overflow by itself

    def on_train_batch_end(self, trainer, module, *_):
        self.states.append(copy.deepcopy({name: p.detach() for name, p in module.named_parameters()}))
        self.steps.append(trainer.global_step)
        self.skipped.append(module.skipped_update)


PARTS = {
    "deit3": (prepare, {"backbone", "ema"}),
    "openclip": (test_openclip.prepare, {"backbone", "space"}),
    "dinov2": (test_run.prepare, {"backbone", "student", "teacher_heads"}),
}


@pytest.mark.parametrize(("make", "parts"), PARTS.values(), ids=PARTS)
def test_a_skipped_step_moves_neither_weights_nor_teacher_nor_average(tiny, tmp_path, make, parts):
    seen = Overflow()
    fit.fit(make(tiny, tmp_path, *QUIET, "trainer.limit_train_batches=5"), [seen])
    assert isinstance(seen.scaler, torch.amp.GradScaler)
    assert seen.steps[:5] == [1, 2, 3, 4, 5]
    assert seen.skipped[BROKEN]
    assert seen.skipped.count(False) == 4
    for step in range(1, 5):
        before, after = seen.states[step - 1], seen.states[step]
        moved = {name.partition(".")[0] for name in after if not torch.equal(before[name], after[name])}
        assert moved == (set() if seen.skipped[step] else parts)
    assert all(value.isfinite().all() for value in seen.states[-1].values())


class Norms(Callback):
    """The norm of the gradients before clipping, with a scale of the loss at the start."""

    def __init__(self, scale):
        self.scale, self.norms = scale, []

    def on_train_start(self, trainer, module):
        trainer.precision_plugin.scaler._init_scale = self.scale

    def on_before_optimizer_step(self, trainer, module, optimizer):
        grads = [p.grad.norm() for p in module.parameters() if p.grad is not None]
        self.norms.append(float(torch.stack(grads).norm()))


def test_clipping_sees_unscaled_gradients(tiny, tmp_path):
    seen = Norms(1.0), Norms(8.0)
    for one in seen:
        fit.fit(test_run.prepare(tiny, tmp_path, *QUIET, "trainer.limit_train_batches=1"), [one], force=True)
    assert seen[0].norms == pytest.approx(seen[1].norms, rel=0.1)


@pytest.mark.parametrize(
    ("bf16", "trained", "frozen"), [(True, "bf16-mixed", "bf16-mixed"), (False, "16-mixed", "32-true")]
)
def test_what_a_gpu_takes_by_itself(monkeypatch, bf16, trained, frozen):
    monkeypatch.setattr(hardware, "accelerator", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    assert hardware.precision("auto", trained=True) == trained
    assert hardware.precision("auto") == frozen
    assert hardware.precision("16-mixed") == "16-mixed"
    with pytest.raises(SettingsError, match="precision=16: expected one of auto, bf16-mixed, 16-mixed, 32-true"):
        hardware.precision("16")


def test_autocast_by_name():
    for name, dtype in (("16-mixed", torch.float16), ("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)):
        with hardware.autocast("cpu", name):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_shards_have_no_scaler(tiny, tmp_path):
    with pytest.raises(SettingsError, match="precision=16-mixed: strategy=fsdp has no gradient scaler"):
        prepare(tiny, tmp_path, "precision=16-mixed", "strategy=fsdp", "norms_every=0")
