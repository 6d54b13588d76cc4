"""What Slurm is asked and what its answers mean, with stand-ins for its commands."""

import os
import time

import pytest

from benchmarks import launch
from benchmarks.grid import cells as grids
from benchmarks.grid import cluster, submission
from benchmarks.grid.board import Board
from benchmarks.grid.cluster import Place, Queue, Submitted
from benchmarks.grid.make_commands import Commands
from benchmarks.grid.states import State, States
from tests.benchmarks.test_chain import mistake
from tests.benchmarks.test_launch import flags, stand_in  # noqa: F401  (a fixture)

QUEUE = """cat <<'END'
12_0|RUNNING|2026-01-02T03:04:05|node7
12_1|PENDING|N/A|(Priority)
13|PENDING|N/A|(Dependency)
END"""


def test_the_queue(stand_in, monkeypatch):  # noqa: F811
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    stand_in("squeue", QUEUE)
    queue = Queue()
    stand_in("squeue", "exit 1")
    assert Queue().find("12_0") is None
    stand_in("squeue", QUEUE)
    assert queue.find("12_0") == Place(True, "running on node7", 1767323045.0)
    assert queue.find("12_1") == Place(False, "pending", 0.0)
    assert queue.find("13") == Place(False, "pending (Dependency)", 0.0)
    assert queue.find("14") is None


@pytest.mark.parametrize(
    ("facts", "again"),
    [
        ("JobState=FAILED Reason=None ExitCode=1:0", True),
        ("JobState=FAILED Reason=None ExitCode=2:0", False),  # a user's mistake
        ("JobState=FAILED Reason=None ExitCode=0:9", True),
        ("JobState=OUT_OF_MEMORY Reason=OutOfMemory ExitCode=0:125", True),
        ("JobState=CANCELLED Reason=Dependency ExitCode=0:0", False),
        ("JobState=COMPLETED Reason=None ExitCode=0:0", False),
    ],
)
def test_what_is_tried_once_more(stand_in, facts, again):  # noqa: F811
    stand_in("scontrol", f"echo JobId=12 {facts} UserId=root")
    assert cluster.crashed("12") is again


def test_an_array_that_waits_for_a_job(stand_in, tmp_path):  # noqa: F811
    jobs = [launch.SlurmJob("evaluate", [f"seed={n}"], tmp_path, 1, 1, 3, 2.0, "a100", after="41_2") for n in range(3)]
    submitted = launch.submit_array(jobs, launch.prepare(jobs[0]))
    assert [job.job_id for job in submitted] == ["4242_0", "4242_1", "4242_2"]
    asked = flags(next(tmp_path.glob("submission_file_*.sh"), tmp_path / "4242_submission.sh"))
    assert asked["array"].startswith("0-2")
    assert asked["dependency"] == "afterok:41_2"
    assert asked["kill-on-invalid-dep"] == "yes"
    assert (asked["cpus-per-task"], asked["time"]) == ("3", "120")


def test_the_state_of_a_submitted_cell(stand_in, tmp_path):  # noqa: F811
    (tmp_path / "small.yaml").write_text("models: [random-vitn_reg4]\ntasks: [imagenet_knn]\nseeds: [0]\n")
    built = grids.build(grids.Chosen(grid=f"{tmp_path}/small.yaml", runs=f"{tmp_path}/r", results=f"{tmp_path}/r"))
    (cell,) = built.cells
    log = tmp_path / "12_1_0_log.err"
    Submitted("12_1", str(log), time.time()).save(built.base(cell))
    stand_in("squeue", QUEUE)
    assert States(built).of(cell) == State("queued", "Slurm job 12_1, pending", log=str(log))
    words = [f"grid={tmp_path}/small.yaml", f"runs={tmp_path}/r", f"results={tmp_path}/r"]
    assert "Slurm works on 1 cells of this grid: random-vitn_reg4 imagenet_knn seed 0 (Slurm" in mistake("grid", *words)
    stand_in("squeue", "exit 0")
    log.write_text("evaluate: no folder\nsrun: error: node7: task 0: Exited with exit code 2\n")
    assert States(built).of(cell) == State("failed", "evaluate: no folder", log=str(log))
    log.write_text("slurmstepd: error: *** JOB 12 CANCELLED AT 2026 ***\n")
    assert "CANCELLED" in States(built).of(cell).note
    log.unlink()
    assert "Slurm job 12_1 ended without any output" in States(built).of(cell).note
    Submitted("12_1", str(log), 0.0).save(built.base(cell))
    record = States(built).record(cell)
    record.parent.mkdir(parents=True)
    record.write_text("{}")  # written after the job was submitted: the job is not what is wrong
    os.utime(record, (9.0, 9.0))
    assert States(built).of(cell).kind == "stale"


class Scripted:
    """States that are known beforehand: one more of each cell's list at every look, then the last."""

    def __init__(self, **kinds):
        self.kinds, self.looks = kinds, -1

    def look_again(self):
        self.looks += 1

    def of(self, cell):
        kinds = self.kinds[cell.model].split()
        return State(kinds[min(self.looks, len(kinds) - 1)])


@pytest.mark.parametrize(
    ("trained", "evaluated", "submitted", "ended"),
    [
        # Slurm cancels what waits for a pretraining that crashed: both are submitted once more.
        (
            "running failed failed queued done",
            "queued failed failed failed failed failed failed done",
            "te",
            "done done",
        ),
        ("running failed failed queued failed", "queued failed", "t", "failed failed"),
        ("running done", "queued running failed failed queued failed", "e", "done failed"),
        ("done", "queued done", "", "done done"),
    ],
)
def test_watching(tmp_path, monkeypatch, trained, evaluated, submitted, ended):
    train = grids.Cell("t", grids.PRETRAINING, 0)
    cell = grids.Cell("e", "imagenet_knn", 0, train)
    monkeypatch.setattr(submission, "LOOK", 0.0)
    monkeypatch.setattr(cluster, "submitted", lambda base: Submitted(base.parent.name, "", 0.0))
    # An evaluation that Slurm cancelled has not crashed; one that follows a finished pretraining may have.
    monkeypatch.setattr(cluster, "crashed", lambda number: number == "t" or "failed" not in trained)
    (tmp_path / "small.yaml").write_text("models: [random-vitn_reg4]\ntasks: [imagenet_knn]\nseeds: [0]\n")
    chosen = grids.Chosen(grid=f"{tmp_path}/small.yaml", runs=str(tmp_path), results=str(tmp_path))
    commands = Commands(chosen, grids.build(chosen), force=False)
    jobs = submission.Cluster(commands, submission.Wanted("", 1.0), Board("test", echo=False))
    jobs.known = Scripted(t=trained, e=evaluated)
    asked = []
    monkeypatch.setattr(jobs, "submit", lambda cells: asked.extend(one.model for one in cells))
    found = jobs.watch([train, cell])
    assert "".join(asked) == submitted
    assert [found[one].kind for one in (train, cell)] == ended.split()
