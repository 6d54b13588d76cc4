"""Process handling, with tiny commands for cells: retries, failures, signals, two grids, a killed owner."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from benchmarks.grid import outcomes, queueing
from benchmarks.grid.board import Board
from benchmarks.grid.queueing import LocalJob
from benchmarks.grid.workers import Machine, Workers
from regvit_lightning.runtime import locks

ROOT = Path(__file__).resolve().parents[3]


def job(place, name, script, **more):
    """A cell that runs a shell script."""
    base = place / "cells" / name
    return LocalJob(name, ["sh", "-c", f"cd {place}; {script}"], base, base, **more)


def workers(place, jobs, slots=("",), held=lambda job: False):
    return Workers(jobs, Machine(slots, place / "gpus"), Board("test", echo=False), held)


def lines(file):
    return file.read_text().splitlines()


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def gone(pid):
    """Whether a process has ended; one that nobody has reaped yet counts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_crash_is_tried_once_more_and_a_mistake_is_not(tmp_path):
    jobs = [
        job(tmp_path, "once", "echo x >> once; [ $(wc -l < once) = 2 ]"),
        job(tmp_path, "always", "echo x >> always; echo boom; exit 1"),
        job(tmp_path, "mistake", "echo x >> mistake; echo 'evaluate: no such model' >&2; exit 2"),
        job(tmp_path, "killed", "echo x >> killed; echo half; kill -9 $$"),
        job(tmp_path, "fine", "echo x >> fine"),
    ]
    found = workers(tmp_path, jobs).run()
    tries = {one.name: len(lines(tmp_path / one.name)) for one in jobs}
    assert tries == {"once": 2, "always": 2, "mistake": 1, "killed": 2, "fine": 1}
    errors = {name: outcome.error for name, outcome in found.items()}
    assert errors["once"] == errors["fine"] == ""
    assert errors["always"] == "boom"
    assert errors["mistake"] == "evaluate: no such model"
    assert "killed by SIGKILL, perhaps out of memory; before: half" in errors["killed"]
    assert lines(tmp_path / "cells" / "always.log") == ["boom", "--- attempt 2", "boom"]
    kept = json.loads((tmp_path / "cells" / "always.json").read_text())
    assert (kept["error"], kept["log"]) == ("boom", str(tmp_path / "cells" / "always.log"))


def test_longest_first_and_what_is_needed_before():
    jobs = [LocalJob(name, [], Path(name), Path(name), needs=needs, seconds=seconds) for name, needs, seconds in GRID]
    assert [one.name for one in queueing.longest_first(jobs)] == ["train", "b", "long", "a", "c"]
    # one device: 2 + 7 + 6 + 1 + 1; two: [train 0-2, b 2-9], [long 0-6, a 6-7, c 7-8]
    assert queueing.makespan(jobs, 1) == 17
    assert queueing.makespan(jobs, 2) == 9
    assert queueing.makespan(jobs, 100) == 9
    wide = [
        LocalJob("wide", [], Path("w"), Path("w"), 2, seconds=5),
        LocalJob("n", [], Path("n"), Path("n"), seconds=1),
    ]
    assert queueing.makespan(wide, 2) == 6
    assert queueing.makespan(wide, 1) == float("inf")
    assert queueing.seconds_left(jobs, {"train": 1.0, "long": 6.0}, 1) == 17 - 7


def test_a_line_as_a_job_ends_has_its_result_and_the_time_left(tmp_path, capsys):
    jobs = [job(tmp_path, name, "sleep 0.3", seconds=seconds) for name, seconds in (("long", 200), ("short", 100))]
    jobs.append(job(tmp_path, "broken", "echo no; exit 2"))
    board, machine = Board("test", echo=False), Machine(("",), tmp_path / "gpus")
    Workers(jobs, machine, board, lambda job: False, lambda job: f"top1 of {job.name}").run()
    first, second, third = (line for line in capsys.readouterr().out.splitlines() if line.startswith("["))
    assert re.fullmatch(r"\[1/3\] long done in 0:0\d: top1 of long; about 0:0\d left", first)
    assert second.startswith("[2/3] short done in 0:0")
    assert ": top1 of short" in second
    assert third == "[3/3] broken failed: no"


GRID = [("a", "", 1), ("long", "", 6), ("b", "train", 7), ("train", "", 2), ("c", "train", 1)]


def test_cells_begin_longest_first(tmp_path):
    jobs = [job(tmp_path, name, f"echo {name} >> order", needs=needs, seconds=seconds) for name, needs, seconds in GRID]
    workers(tmp_path, jobs).run()
    assert lines(tmp_path / "order") == ["train", "b", "long", "a", "c"]


def test_what_needs_a_failed_cell_is_not_run(tmp_path):
    jobs = [
        job(tmp_path, "train", "exit 2"),
        job(tmp_path, "eval", "touch evaluated", needs="train"),
        job(tmp_path, "other", "touch other"),
    ]
    found = workers(tmp_path, jobs).run()
    assert found["eval"].error == "not run: train failed"
    assert not (tmp_path / "evaluated").exists()
    assert (tmp_path / "other").exists()


def test_each_child_sees_its_own_gpus_before_it_starts(tmp_path):
    script = "echo $CUDA_VISIBLE_DEVICES >> seen; sleep 0.5"
    jobs = [job(tmp_path, name, script) for name in "abcd"] + [job(tmp_path, "wide", script, devices=2, seconds=1)]
    workers(tmp_path, jobs, slots=("0", "3")).run()
    seen = lines(tmp_path / "seen")
    assert seen[0] == "0,3"
    assert sorted(seen[1:]) == ["0", "0", "3", "3"]


def test_a_gpu_that_another_grid_uses_is_left_alone(tmp_path):
    machine = Machine(("0", "1"), tmp_path / "gpus")
    lock = machine.acquire("0")
    jobs = [job(tmp_path, name, "echo $CUDA_VISIBLE_DEVICES >> seen") for name in "ab"]
    workers(tmp_path, jobs, slots=("0", "1")).run()
    assert lines(tmp_path / "seen") == ["1", "1"]
    lock.release()
    workers(tmp_path, [job(tmp_path, "c", "echo $CUDA_VISIBLE_DEVICES >> seen")], slots=("0", "1")).run()
    assert lines(tmp_path / "seen")[2] == "0"


GRID_OF_TWO = """
import sys
from pathlib import Path
from benchmarks import command
from benchmarks.grid.board import Board
from benchmarks.grid.queueing import LocalJob
from benchmarks.grid.workers import Machine, Workers

place, scripts = Path(sys.argv[1]), sys.argv[2:]
jobs = [LocalJob(f"cell{n}", ["sh", "-c", f"cd {place}; {script}"], place / "cells" / f"cell{n}",
                 place / "cells" / f"cell{n}")
        for n, script in enumerate(scripts)]
from regvit_lightning.errors import Stopped
try:
    Workers(jobs, Machine(["", ""], place / "gpus"), Board("t", False), lambda job: False).run()
except Stopped as stopped:
    print(stopped)
    raise SystemExit(stopped.status)
"""


def grid(place, *scripts, before=()):
    """Another grid, in a process of its own, started by the command `before`."""
    command = [*before, sys.executable, "-c", GRID_OF_TWO, str(place), *scripts]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_two_grids_share_the_work(tmp_path):
    scripts = [f"echo {n} >> ran; sleep 0.4" for n in range(6)]
    grids = [grid(tmp_path, *scripts) for _ in range(2)]
    shown = [one.communicate(timeout=60)[0] for one in grids]
    assert [one.returncode for one in grids] == [0, 0]
    assert sorted(lines(tmp_path / "ran")) == [str(n) for n in range(6)]
    assert all(text.count(" done in ") == 6 for text in shown)
    assert all(text.count(" begins on ") < 6 for text in shown)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_no_child_and_nothing_half_done(tmp_path, number):
    # The first ends on SIGTERM, with a helper that does not listen; the second has to finish what it writes.
    first = "sh -c 'trap \"\" TERM; echo $$ > helper; sleep 60' & echo $$ > first; wait"
    second = "trap 'sleep 0.5; echo whole > kept; exit 143' TERM; echo $$ > second; while :; do sleep 0.05; done"
    one = grid(tmp_path, first, second, "touch never")
    until(lambda: all((tmp_path / name).exists() and lines(tmp_path / name) for name in ("helper", "first", "second")))
    one.send_signal(number)
    shown = one.communicate(timeout=30)[0]
    assert one.returncode == 128 + number
    assert "3 of 3 are left: give the same command to continue" in shown
    assert lines(tmp_path / "kept") == ["whole"]
    assert not (tmp_path / "never").exists()
    for name in ("first", "second", "helper"):
        until(lambda name=name: gone(int((tmp_path / name).read_text())), 5)
    assert not list((tmp_path / "cells").glob("*.json"))
    assert locks.holder(tmp_path / "cells" / "cell0.lock") is None


def test_nohup_has_a_grid_outlive_its_terminal(tmp_path):
    one = grid(tmp_path, "touch begun; sleep 1; touch ended", before=["nohup"])
    until((tmp_path / "begun").exists)
    one.send_signal(signal.SIGHUP)
    one.communicate(timeout=30)
    assert one.returncode == 0
    assert (tmp_path / "ended").exists()


def test_the_lock_of_a_killed_grid_is_taken_over_when_its_child_has_ended(tmp_path):
    slow = "trap 'sleep 1; echo ended >> ran; exit 143' TERM; [ -e go ] && { echo again >> ran; exit 0; }; "
    slow += "touch begun; while :; do sleep 0.05; done"
    one = grid(tmp_path, slow)
    until((tmp_path / "begun").exists)
    said = locks.holder(tmp_path / "cells" / "cell0.lock")
    assert said["device"] == "CPU"
    assert said["process"] == one.pid
    assert time.time() - said["since"] < 20
    (tmp_path / "go").touch()
    one.kill()
    one.communicate()
    second = workers(tmp_path, [job(tmp_path, "cell0", slow)])
    found = second.run()
    # The child of the killed grid is told to end, and has the lock until it has.
    assert lines(tmp_path / "ran") == ["ended", "again"]
    assert "cell0" in second.elsewhere
    assert not found["cell0"].error


SLOW_WRITER = """
import sys, time
from dataclasses import dataclass
from pathlib import Path
from benchmarks import command
from regvit_lightning.runtime import atomic

@dataclass
class Nothing:
    pass

def write(temporary):
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)

place = Path(sys.argv.pop())
command.run("writer", "", Nothing, lambda options, words: atomic.write(place / "record.json", write))
"""


def test_a_program_that_is_told_to_end_leaves_no_temporary_file(tmp_path):
    pipe = subprocess.PIPE
    one = subprocess.Popen(
        [sys.executable, "-c", SLOW_WRITER, str(tmp_path)], cwd=ROOT, stdout=pipe, stderr=pipe, text=True
    )
    assert one.stdout.readline() == "writing\n"
    assert len(list(tmp_path.iterdir())) == 1
    one.terminate()
    assert one.communicate(timeout=20)[1] == "writer: stopped; give the command again to continue\n"
    assert one.returncode == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_a_cell_that_is_run_by_hand_is_waited_for(tmp_path, capsys):
    done = []
    script = "import sys, time; from pathlib import Path; from regvit_lightning.runtime import locks\n"
    script += "with locks.held(Path(sys.argv[1])): print('held', flush=True); time.sleep(1.5)"
    command = [sys.executable, "-c", script, str(tmp_path / "cells" / "a")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as by_hand:
        by_hand.stdout.readline()
        jobs = [job(tmp_path, "a", "touch ran")]
        Workers(jobs, Machine(("",), tmp_path / "gpus"), Board("test", echo=False), lambda one: done.append(1)).run()
    assert (tmp_path / "ran").exists()
    assert by_hand.returncode == 0
    assert f"a is run by process {by_hand.pid} on host {os.uname().nodename} since " in capsys.readouterr().out


def test_a_cell_that_holds_by_now_is_not_run(tmp_path):
    found = workers(tmp_path, [job(tmp_path, "a", "touch ran")], held=lambda one: True).run()
    assert not found["a"].error
    assert not (tmp_path / "ran").exists()


def test_the_last_line_of_a_log(tmp_path):
    log = tmp_path / "log"
    assert outcomes.last_line(log) == ""
    log.write_text("one\ntwo\rthree\n \n")
    assert outcomes.last_line(log) == "three"
    log.write_bytes(b"x" * 10**6 + b"\nTraceback\nRuntimeError: CUDA out of memory\n\n")
    assert outcomes.last_line(log) == "RuntimeError: CUDA out of memory"
    (tmp_path / "bad.json").write_text(textwrap.dedent('{"name": 1}'))
    assert outcomes.read_outcome(tmp_path / "bad.json") is None
    assert os.path.exists(tmp_path / "bad.json")
