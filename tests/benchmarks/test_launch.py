"""What is asked of a cluster, without one: a stand-in for sbatch, and submitit's own executor for debugging."""

import os
import subprocess
import sys

import pytest

from benchmarks import launch
from regvit_lightning.errors import UserError
from tests.benchmarks.test_chain import QUICK, mistake, program


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A folder at the front of PATH with commands named as Slurm's."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def put(name, script):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    put("srun", "exit 1")
    put("sbatch", "echo Submitted batch job 4242")
    put("squeue", "exit 1")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return put


def words(tiny, place):
    return ["model=vitn_reg2", f"data={tiny.root}/imagenet", f"runs={place}", f"results={place}", *QUICK]


def flags(script):
    """The #SBATCH lines of a script."""
    lines = [line.removeprefix("#SBATCH --") for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def test_a_submitted_pretraining(stand_in, tiny, tmp_path):
    cluster = ["launcher=slurm", "nodes=2", "devices=8", "partition=a100", "hours=1.5"]
    shown = program("pretrain", *words(tiny, tmp_path), *cluster)
    folder = tmp_path / "imagenet" / "deit3-vitn_reg2" / "seed0" / "slurm"
    assert shown.splitlines()[0] == "pretrain: job 4242 is submitted: 2 nodes × 8 devices in partition a100"
    assert f"{folder}/4242_0_log.err" in shown
    assert "scancel 4242" in shown
    asked = flags(folder / "4242_submission.sh")
    assert asked["partition"] == "a100"
    assert (asked["nodes"], asked["ntasks-per-node"], asked["gpus-per-node"]) == ("2", "8", "8")
    assert (asked["time"], asked["cpus-per-task"], asked["signal"]) == ("90", "1", "USR2@120")
    assert "requeue" in asked
    assert asked["open-mode"] == "append"
    assert "--cpus-per-task=1 " in (folder / "4242_submission.sh").read_text()
    job = launch.submitit.SlurmJob(folder, "4242").submission().function
    assert job.program == "pretrain"
    assert {"devices=8", "nodes=2", "launcher=local", "force=False", *QUICK[1:]} <= set(job.words)

    stand_in("squeue", "echo PENDING")
    assert "job 4242 (pending) already trains it" in program("pretrain", *words(tiny, tmp_path), *cluster)
    stand_in("squeue", "exit 1")  # it has ended: the command submits again
    stand_in("sbatch", "echo Submitted batch job 4243")
    assert "job 4243 is submitted" in program("pretrain", *words(tiny, tmp_path), *cluster)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["launcher=slurm", "nodes=2", "devices=3"], "batch_size=16 is not a multiple of the 6 devices"),
        (["launcher=slurm", "hours=0"], "hours=0: must lie in (0, 8760]"),
        (["launcher=ssh"], "launcher=ssh: expected local or slurm"),
        (["nodes=2"], "nodes=2: give LAUNCHER=slurm"),
        (["launcher=slurm", "partition=none"], "Slurm refuses the job: sbatch: error: invalid partition"),
    ],
)
def test_what_is_refused_at_once(stand_in, tiny, tmp_path, more, message):
    stand_in("sbatch", "echo 'sbatch: error: invalid partition' >&2; exit 1")
    assert message in mistake("pretrain", *words(tiny, tmp_path), *more)


def test_a_machine_without_slurm(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    assert "there is no sbatch here" in mistake("pretrain", *words(tiny, tmp_path), "launcher=slurm")


def test_the_job_runs_the_program_with_its_words(tiny, tmp_path, capsys):
    job = launch.SlurmJob("data", [f"data={tiny.root}/imagenet"], tmp_path, nodes=1, devices=1, cpus=1, hours=1)
    launch.submit(job, launch.prepare(job, cluster="debug")).result()
    assert "imagenet train" in capsys.readouterr().out
    again = launch.Words(job.program, job.words).checkpoint()  # queued where it has not begun to train
    again.result()
    assert "imagenet train" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    job = launch.SlurmJob("data", [], tmp_path / "file" / "slurm", nodes=1, devices=1, cpus=1, hours=1)
    with pytest.raises(UserError, match="cannot write"):
        launch.submit(job, launch.prepare(job, cluster="debug"))


def test_help_does_not_need_submitit():
    script = "import sys; sys.modules['submitit'] = None; sys.argv = ['pretrain', '--help']; "
    script += "from benchmarks.pretrain import cli; cli()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "launcher=" in done.stdout
