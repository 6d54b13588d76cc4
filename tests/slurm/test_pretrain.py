"""Pretraining by two tasks of a Slurm job: pre-empted and queued again, cancelled and given again."""

import re
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks import launch
from tests.slurm.conftest import wait

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["model=vitn_reg2", "variant=mini", "workers=0", "batch_size=16", "device_batch=16", "epochs=15"]
WORDS += ["devices=2", "accelerator=cpu", "drop_path=0.1", "cutmix=1.0", "checkpoint_every=5"]


def pretrain(cluster, tiny, place, *more):
    said = {word.partition("=")[0] for word in more}
    usual = [word for word in WORDS if word.partition("=")[0] not in said]
    words = [*usual, f"data={tiny.root}/imagenet", f"runs={place}", f"results={place}", *more]
    command = [sys.executable, "-m", "benchmarks.pretrain", *words]
    done = subprocess.run(command, cwd=ROOT, env=cluster.environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Place:
    """Where a run is kept."""

    def __init__(self, place):
        self.folder = place / "imagenet" / "deit3-vitn_reg2" / "seed0"
        self.curve = place / "imagenet" / "curves" / "deit3-vitn_reg2.seed0.csv"

    def rows(self):
        return len(self.curve.read_text().splitlines()) - 1 if self.curve.exists() else 0

    def log(self):
        return "\n".join(file.read_text() for file in sorted(self.folder.glob("slurm/*_log.*")))

    def step(self):
        return torch.load(self.folder / "last.ckpt", weights_only=True)["global_step"]


def submitted(shown):
    return re.search(r"job (\d+) is submitted", shown)[1]


def test_pre_empted_queued_again_cancelled_and_given_again(cluster, tiny, tmp_path, monkeypatch):
    place = Place(tmp_path / "slurm")
    job = submitted(pretrain(cluster, tiny, tmp_path / "slurm", "launcher=slurm", "partition=debug"))
    wait(lambda: place.rows() >= 3, 120, place.log)
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, cluster.environment[name])
    assert launch.active(place.folder / "slurm") == f"{job} (running)"

    cluster.run("scancel", "--signal=USR2", job)
    wait(lambda: f"job {job} is queued again and continues from there" in place.log(), 60, place.log)
    kept = place.step()
    wait(lambda: cluster.state(job) == ("RUNNING", 1), 120, lambda: str(cluster.state(job)))
    wait(lambda: place.rows() > kept, 120, place.log)

    cluster.run("scancel", job)
    wait(lambda: cluster.state(job)[0] == "CANCELLED", 60, lambda: str(cluster.state(job)))
    wait(lambda: f"job {job} is not queued again here" in place.log(), 60, place.log)
    assert place.step() > kept

    second = submitted(pretrain(cluster, tiny, tmp_path / "slurm", "launcher=slurm", "partition=debug"))
    assert second != job
    wait(lambda: cluster.state(second)[0] == "COMPLETED", 180, place.log)
    assert "Traceback" not in place.log()
    assert "is done" in pretrain(cluster, tiny, tmp_path / "slurm", "launcher=slurm", "partition=debug")

    pretrain(cluster, tiny, tmp_path / "local")
    ours, theirs = (load_file(Place(tmp_path / name).folder / "backbone.safetensors") for name in ("slurm", "local"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert place.curve.read_text() == Place(tmp_path / "local").curve.read_text()
