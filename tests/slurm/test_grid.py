"""A small grid as arrays of Slurm jobs: what depends on a pretraining, what fails, two grids at once, status."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.by_hand import saved_records

ROOT = Path(__file__).resolve().parents[2]
GRID = """
models: [deit3-vitn_reg0]
tasks: [lost_voc07, imagenet_knn]
seeds: [0]
"""


@pytest.fixture
def start(cluster, tiny, tmp_path):
    """Starts a program of the grid on the cluster."""
    (tmp_path / "small.yaml").write_text(GRID)
    data = tmp_path / "small"
    data.mkdir()
    for name in ("imagenet/train", "imagenet/val", "VOCdevkit"):
        (data / Path(name).name).symlink_to(Path(tiny.root) / name)
    words = [f"grid={tmp_path}/small.yaml", f"data={data}", "variant=mini", "pretrain=true"]
    words += [f"runs={tmp_path}/runs", f"results={tmp_path}/results"]

    def begin(program, *more):
        command = [sys.executable, "-m", f"benchmarks.{program}", *words, *more]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=ROOT, env=cluster.environment, stdout=pipe, stderr=pipe, text=True)

    return begin


def test_a_grid_through_slurm(cluster, start, tmp_path):
    place = ["launcher=slurm", "partition=debug"]
    grids = [start("grid", *place) for _ in range(2)]
    (shown, errors), (others, _) = (grid.communicate(timeout=400) for grid in grids)
    # Each cell is submitted by one of the two, and both wait for all of them. kNN wants more neighbours than there are.
    assert [grid.returncode for grid in grids] == [2, 2], errors
    submitted = [line for line in (shown + others).splitlines() if line.startswith("Slurm job ")]
    names = ", ".join(line.partition(": ")[2] for line in submitted)
    for name in ("pretrain", "lost_voc07", "imagenet_knn"):
        assert names.count(f"deit3-vitn_reg0 {name} seed 0") == 1
    (array,) = (line for line in submitted if ", after job " in line)
    assert re.match(r"Slurm job (\d+)_0 to \1_1, after job \d+: ", array)
    assert "grid: 1 of 3 cells failed; the others are done:" in errors
    assert "deit3-vitn_reg0 imagenet_knn seed 0: evaluate: neighbours: k=200 is above" in errors
    assert "log: " in errors
    (record,) = saved_records(tmp_path / "results", "small")
    assert (record.model, record.task) == ("deit3-vitn_reg0", "lost_voc07")

    table, _ = start("status").communicate(timeout=100)
    assert "2 done, 1 failed" in table
    assert "failed: deit3-vitn_reg0 imagenet_knn seed 0: evaluate: neighbours: k=200" in table
    assert cluster.run("squeue", "--noheader") == ""
