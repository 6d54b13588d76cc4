"""Cells forked from a process with packages imported: children of the grid, with their own log, locks and fate."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from benchmarks.grid import nursery
from benchmarks.grid.board import Board
from benchmarks.grid.nursery import Nursery
from benchmarks.grid.queueing import LocalJob
from benchmarks.grid.workers import Machine, Workers
from regvit_lightning.runtime import locks

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux adopts orphans")

ROOT = Path(__file__).resolve().parents[3]
CELL = """
import json, os, sys, time
from pathlib import Path

here = Path(sys.argv[1])
facts = {
    "parent": os.getppid(), "pid": os.getpid(), "session": os.getsid(0), "words": sys.argv[1:], "name": __name__,
    "locks": os.environ["REGVIT_LOCKS"], "own": os.environ.get("OWN"), "imported": "colorsys" in sys.modules,
}
(here / sys.argv[2]).write_text(json.dumps(facts))
print("said by", sys.argv[2])
exec(sys.argv[3])
"""


@pytest.fixture
def place(tmp_path):
    """A folder with a module `cell`, which cells import from there."""
    (tmp_path / "cell.py").write_text(CELL)
    return tmp_path


def machine(place):
    environment = {**os.environ, "PYTHONPATH": f"{place}:{ROOT}", "OWN": "yes"}
    return Machine(("",), place / "gpus", environment, Nursery(environment, ["colorsys", "no_such_package"]))


def job(place, name, script="pass"):
    base = place / "cells" / name
    return LocalJob(name, [sys.executable, "-m", "cell", str(place), name, script], base, base)


def facts(place, name):
    return json.loads((place / name).read_text())


def run(place, *jobs):
    here = machine(place)
    with here.nursery:
        found = Workers(jobs, here, Board("test", echo=False), held=lambda job: False).run()
        assert here.nursery.works
    return {name: outcome.error for name, outcome in found.items()}


def test_cells_run_and_fail_as_those_of_a_new_python_do(place):
    jobs = [
        job(place, "fine"),
        job(place, "mistake", "print('cell: no such model', file=sys.stderr); sys.exit(2)"),
        job(place, "raises", "raise ValueError('boom')"),
        job(place, "killed", "os.kill(os.getpid(), 9)"),
        job(place, "worded", "sys.exit('cell: in words')"),
        job(place, "at_exit", "import atexit; atexit.register(lambda: print('last words'))"),
    ]
    errors = run(place, *jobs)
    assert errors["fine"] == ""
    assert errors["mistake"] == "cell: no such model"
    assert "boom" in errors["raises"]
    assert "killed by SIGKILL" in errors["killed"]
    assert errors["worded"] == "cell: in words"
    assert (place / "cells" / "at_exit.log").read_text() == "said by at_exit\nlast words\n"
    seen = facts(place, "fine")
    assert seen["parent"] == os.getpid()
    assert seen["session"] == seen["pid"]
    assert seen["words"] == [str(place), "fine", "pass"]
    assert (seen["name"], seen["own"], seen["imported"]) == ("__main__", "yes", True)
    assert (place / "cells" / "fine.log").read_text() == "said by fine\n"
    assert (place / "cells" / "raises.log").read_text().count("said by raises") == 2  # tried once more
    for one in jobs:
        lock = locks.acquire(locks.beside(one.folder))
        assert lock is not None  # the nursery does not hold it
        lock.release()


def test_a_cell_holds_its_lock_and_the_nursery_does_not(place):
    here, base = machine(place), place / "cells" / "one"
    lock = locks.acquire(locks.beside(base))
    log = (place / "log").open("wb")
    with here.nursery:
        command = [sys.executable, "-m", "cell", str(place), "one", "time.sleep(60)"]
        started = here.nursery.start(command, here.environment, log.fileno(), [lock.descriptor])
        lock.release()
        assert started is not None
        assert locks.acquire(locks.beside(base)) is None
        started.terminate()
        assert started.wait() == -signal.SIGTERM
        again = locks.acquire(locks.beside(base))
        assert again is not None
        again.release()


def test_a_cell_is_the_grids_own_child_as_soon_as_it_is_known(place):
    here, log = machine(place), (place / "log").open("wb")
    with here.nursery:
        for number in range(20):
            command = [sys.executable, "-m", "cell", str(place), str(number), "pass"]
            started = here.nursery.start(command, here.environment, log.fileno(), [])
            os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # raises for one of another process
            assert started.wait() == 0


def test_a_child_that_a_package_leaves_is_not_taken_for_the_process_between(place):
    (place / "leaves_child.py").write_text("import os\nfor _ in range(20):\n    os.fork() or os._exit(0)\n")
    environment, log = {**os.environ, "PYTHONPATH": f"{place}:{ROOT}"}, (place / "log").open("wb")
    with Nursery(environment, ["leaves_child"]) as here:
        for number in range(20):
            command = [sys.executable, "-m", "cell", str(place), str(number), "pass"]
            started = here.start(command, environment, log.fileno(), [])
            os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # raises for one of another process
            assert started.wait() == 0


def test_another_command_is_left_to_a_new_process(place):
    assert machine(place).nursery.start(["sh", "-c", "true"], {}, 1, []) is None


def test_where_the_nursery_ends_cells_are_started_anew(place):
    here = machine(place)
    with here.nursery:
        here.nursery._running()
        here.nursery._process.kill()
        here.nursery._process.wait()
        found = Workers([job(place, "fine")], here, Board("test", echo=False), held=lambda job: False).run()
    assert found["fine"].error == ""
    assert facts(place, "fine")["imported"] is False


def test_cells_and_nursery_end_with_a_grid_that_is_killed(place):
    script = textwrap.dedent(f"""
        import os, sys, time
        from pathlib import Path
        from benchmarks.grid.nursery import Nursery
        own = Nursery({{**os.environ, "PYTHONPATH": "{place}:{ROOT}"}}, [])
        log = open("{place}/log", "wb")
        command = [sys.executable, "-m", "cell", "{place}", "one", "time.sleep(60)"]
        own.start(command, os.environ | own.environment, log.fileno(), [])
        print(own._process.pid, flush=True)
        time.sleep(60)
    """)
    grid = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    own = int(grid.stdout.readline())
    _until(lambda: (place / "one").exists() and (place / "one").read_text().endswith("}"))
    grid.kill()
    grid.wait()
    _until(lambda: _gone(own) and _gone(facts(place, "one")["pid"]))


def _until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_the_suite_itself_is_not_preloaded():
    assert not [name for name in nursery.PACKAGES if name.startswith(("regvit_lightning", "benchmarks"))]
