"""Whatever happens to a run: the same command given again ends with the bits of a run to which nothing happened."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from regvit_lightning import settings
from regvit_lightning.data import layout
from regvit_lightning.pretrain import fit
from regvit_lightning.pretrain.curve import Curve
from regvit_lightning.runtime import atomic
from regvit_lightning.runtime.interruption import Signals, leave_to_main_process
from tests.benchmarks.in_terminal import OnTerminal
from tests.forked import Forked, command_line

pytestmark = pytest.mark.usefixtures("norms_undrawn")
ROOT = Path(__file__).resolve().parents[2]
COMMON = ["variant=mini", "workers=1", "checkpoint_every=3"]
# Recipe: its words for a run of 18 or 24 steps with everything that it draws.
DEIT3 = [
    "batch_size=16",
    "device_batch=8",
    "epochs=4",
    "drop_path=0.1",
    "cutmix=1.0",
    "mixup=0.8",
    "label_smoothing=0.1",
]
DINOV2 = ["batch_size=16", "device_batch=8", "epochs=3", "drop_path=0.3", "local_crops=2", "group=8", "monitor_every=6"]
OPENCLIP = ["batch_size=4", "device_batch=2", "epochs=16", "warmup_steps=3"]
RECIPES = {"deit3": DEIT3, "dinov2": [*DINOV2, "monitor_images=40"], "openclip": OPENCLIP}


class Command:
    """`python -m benchmarks.pretrain` on a data set, given again and again."""

    def __init__(self, recipe, data, place, *words):
        self.words = ["model=vitn_reg2", f"recipe={recipe}", f"data={data.root}/imagenet", f"runs={place}"]
        self.words += [f"results={place}", *COMMON, *RECIPES[recipe], *words]
        self.folder = place / "imagenet" / f"{recipe}-vitn_reg2" / "seed0"
        self.curve = place / "imagenet" / "curves" / f"{recipe}-vitn_reg2.seed0.csv"
        self.last = self.folder / "last.ckpt"

    def start(self):
        return Forked(command_line, "pretrain", *self.words)

    def rows(self):
        """Steps of the curve so far: one row a step in runs as short as these."""
        return len(self.curve.read_text().splitlines()) - 1 if self.curve.exists() else 0

    def start_and_wait(self, step):
        """A process that has finished `step`."""
        process, before = self.start(), self.rows()
        while self.rows() < step or self.rows() == before:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        return process

    def end(self):
        """What it says when nothing happens to it any more."""
        process = self.start()
        shown, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        return shown

    def step(self):
        return torch.load(self.last, weights_only=True)["global_step"]


def line(process):
    """What the process says at its end, without its progress; no traceback."""
    errors = process.communicate(timeout=60)[1]
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if line.startswith("pretrain: ")]
    assert len(lines) == 1, errors
    return lines[0]


@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_and_given_again(tiny, tmp_path, recipe):
    broken = Command(recipe, tiny, tmp_path)
    draw = random.Random(0)
    killed = broken.start_and_wait(draw.randint(4, 7))
    time.sleep(draw.uniform(0, 0.1))  # anywhere in a step or a checkpoint
    killed.kill()
    killed.wait()
    assert "weights in" in broken.end()
    equals_a_whole_run(broken, recipe, tiny, tmp_path)


def test_out_of_space_and_stopped(tiny, tmp_path):
    """What comes to the process from outside meets the same code in every recipe: one of them shows it."""
    broken = Command("openclip", tiny, tmp_path)
    stopped_by(broken, 4, signal.SIGTERM, 143)

    full = broken.start()  # its next checkpoint goes to a disk that is full
    kept, temporary = broken.last.read_bytes(), atomic.temporary_of(broken.last, full.pid)
    temporary.symlink_to("/dev/full")
    assert "last.ckpt: No space left on device; make room or choose another folder" in line(full)
    assert full.returncode == 2
    assert broken.last.read_bytes() == kept
    assert not temporary.is_symlink()

    stopped_by(broken, 14, signal.SIGINT, 130)
    assert "weights in" in broken.end()
    equals_a_whole_run(broken, "openclip", tiny, tmp_path)


def stopped_by(broken, step, number, status):
    """The command gets a signal after `step`, finishes its step, keeps a checkpoint and ends with `status`."""
    stopped = broken.start_and_wait(step)
    stopped.send_signal(number)
    said = line(stopped)
    assert stopped.returncode == status
    assert f"stopped at step {broken.step()} of 24; give the same command to continue" in said
    assert broken.step() >= step


def equals_a_whole_run(broken, recipe, tiny, tmp_path):
    """The weights and the curve have the bits of a run to which nothing happened."""
    chosen = settings.load_settings("recipes", recipe, "mini", [*COMMON[1:], *RECIPES[recipe]])[1]
    data = layout.resolve(f"{tiny.root}/imagenet")
    whole = fit.Run("vitn_reg2", recipe, chosen, data, 0, tmp_path / "whole")
    fit.fit(whole, [Curve(tmp_path / "whole.csv")])
    exports = sorted(path.name for path in whole.folder.glob("*.safetensors"))
    assert exports == sorted(path.name for path in broken.folder.glob("*.safetensors"))
    for name in exports:
        ours, theirs = load_file(broken.folder / name), load_file(whole.folder / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert broken.curve.read_text() == (tmp_path / "whole.csv").read_text()


def test_a_signal_to_the_process_group_stops_two_devices_once(tiny, tmp_path):
    """As Ctrl-C in a terminal does, which reaches the loader workers and the helper processes too."""
    run = Command("deit3", tiny, tmp_path, "devices=2", "accelerator=cpu", "strategy=fsdp", "norms_every=0")
    process = run.start_and_wait(2)
    os.killpg(process.pid, signal.SIGINT)
    assert "stopped at step" in line(process)
    assert process.returncode == 130
    stopped = run.step()
    assert stopped >= 2
    again = run.start_and_wait(stopped + 1)  # it continues from there, with what was sharded
    os.killpg(again.pid, signal.SIGKILL)
    again.wait()


def test_a_closed_terminal_stops_after_the_step_with_a_checkpoint(tiny, tmp_path):
    run = Command("deit3", tiny, tmp_path)
    terminal = OnTerminal([sys.executable, "-m", "benchmarks.pretrain", *run.words], 80, folder=ROOT)
    while run.rows() < 4:
        terminal.read()
        assert terminal.process.poll() is None, terminal.text()
    terminal.close()
    assert terminal.process.wait(60) == 128 + signal.SIGHUP
    stopped = run.step()
    assert 4 <= stopped < 24
    assert "weights in" in run.end()


def test_nohup_trains_on_when_the_terminal_is_closed():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received is None
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received is signal.SIGHUP
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_is_no_business_of_loader_workers():
    def worker():
        leave_to_main_process(0)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)

    assert Forked(worker).wait(60) == 0
