"""A training step never waits for the device: it reads no number from it, and copies none there, but at log steps."""

import traceback

import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from regvit_lightning.pretrain import deit3, fit
from tests.pretrain.test_devices import RECIPES, prepare

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique")  # a GPU must answer for each of them


class Watched(TorchDispatchMode):
    """Names of the operations whose answer the host needs; optimisers count their steps in tensors on the host."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.partition(".")[0]
        if name in WAITS and not any(frame.name == "_get_value" for frame in traceback.extract_stack(limit=9)):
            self.waits.append(name)
        return function(*args, **(kwargs or {}))


class WatchesSteps(Callback):
    """Watches all that happens from the start of a step to its end, without those that log."""

    def __init__(self, every):
        self.every, self.waits, self.steps = every, [], 0

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.mode = None
        if (trainer.global_step + 1) % self.every:
            self.mode = Watched()
            self.mode.__enter__()

    def on_train_batch_end(self, trainer, *_):
        if self.mode is not None:
            self.mode.__exit__(None, None, None)
            self.waits += self.mode.waits
            self.steps += 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_step_reads_a_number_from_the_device_or_copies_one_there(tiny, tmp_path, recipe, monkeypatch):
    logged, real = [], LightningModule.log

    def log(self, name, value, *args, **options):
        logged.append((name, value, options.get("sync_dist", False)))
        return real(self, name, value, *args, **options)

    monkeypatch.setattr(LightningModule, "log", log)
    # On a CPU, and there alone, torch's own looks for the largest label.
    monkeypatch.setattr(deit3.F, "one_hot", lambda labels, classes: torch.eye(classes)[labels])
    words = "log_every=4", "logger=none", "norms_every=0", "monitor_every=0"
    watch = WatchesSteps(4)
    fit.fit(prepare(recipe, tiny, tmp_path, *words), [watch])
    assert watch.steps >= 4
    # DINOv2 looks up its masks where they are drawn, on the host: two groups of crops in each step.
    assert [name for name in watch.waits if name != "nonzero"] == []
    assert watch.waits.count("nonzero") <= watch.steps * (recipe == "dinov2")
    assert {name for name, *_ in logged} >= {"train/loss", "train/lr"}
    assert all(isinstance(value, Tensor) for _, value, _ in logged)
    assert not any(synchronised for *_, synchronised in logged)


def test_the_moving_average_has_the_bits_of_torchs():
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    from regvit_lightning.pretrain.deit3 import MovingAverage

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7))
    ours, theirs = MovingAverage(model, 0.9), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.n_averaged.fill_(1)
    for _ in range(3):
        for value in (*model.parameters(), model[1].running_mean):
            value.data.add_(torch.randn_like(value))
        ours.update_parameters(model)
        theirs.update_parameters(model)
    pairs = zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
