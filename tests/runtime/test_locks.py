"""Locks of folders: who holds them, what the second process is told, and what removal and forks do to them."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regvit_lightning.errors import UserError
from regvit_lightning.runtime import locks

ROOT = Path(__file__).resolve().parents[2]


def in_another_process(script, *words, **options):
    """Output of a Python script in a process of its own."""
    command = [sys.executable, "-c", script, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_lock_holds_until_the_last_of_its_processes_ends(tmp_path):
    lock = locks.acquire(tmp_path / "lock")
    lock.say(host="here")
    assert locks.acquire(tmp_path / "lock") is None
    assert locks.holder(tmp_path / "lock") == {"host": "here"}
    child = subprocess.Popen(["sleep", "60"], pass_fds=[lock.descriptor])
    lock.release()
    assert locks.acquire(tmp_path / "lock") is None
    child.kill()
    child.wait()
    assert locks.holder(tmp_path / "lock") is None
    locks.acquire(tmp_path / "lock").release()
    assert locks.holder(tmp_path / "none") is None


def test_a_folder_without_locks_is_told_in_a_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*/file/lock: .*; choose another folder"):
        locks.acquire(tmp_path / "file" / "lock")

    def without_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with pytest.raises(UserError, match=r"cannot lock .*: No locks available; choose a folder on another file system"):
        locks.acquire(tmp_path / "lock")


def test_any_number_may_ask_for_the_holder_at_once(tmp_path):
    locks.acquire(tmp_path / "lock").release()
    descriptor = os.open(tmp_path / "lock", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # as another process that asks at this moment
    assert locks.holder(tmp_path / "lock") is None
    os.close(descriptor)


def test_a_shorter_text_replaces_a_longer_one(tmp_path):
    lock = locks.acquire(tmp_path / "lock")
    lock.say(host="a-host-with-a-long-name", process=123456)
    lock.say(host="b")
    assert locks.holder(tmp_path / "lock") == {"host": "b"}
    assert (tmp_path / "lock").read_text() == '{"host": "b"}\n'
    lock.release()


def test_the_second_process_is_told_who_works_in_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.2)
    script = "import sys; from pathlib import Path; from regvit_lightning.runtime import locks\n"
    script += "with locks.held(Path(sys.argv[1])): print('held', flush=True); input()"
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        day = time.strftime("%Y-%m-%d ")
        who = f"process {other.pid} on host {os.uname().nodename} since {day}"
        with pytest.raises(UserError, match=f"{tmp_path}/run is in use by {who}.*; wait for its end, or stop it"):
            locks.held(tmp_path / "run").__enter__()
        other.communicate("\n")
    with locks.held(tmp_path / "run"):
        assert locks.holder(locks.beside(tmp_path / "run"))["process"] == os.getpid()
    assert locks.holder(locks.beside(tmp_path / "run")) is None


def test_whoever_only_asks_does_not_get_a_folder_refused(tmp_path):
    (tmp_path / "run.lock").touch()
    script = "import fcntl, sys, time; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_SH)\n"
    script += "print('asks', flush=True); time.sleep(0.5)"
    command = [sys.executable, "-c", script, str(tmp_path / "run.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as asks:
        asks.stdout.readline()
        with locks.held(tmp_path / "run"):
            pass


def test_a_child_has_the_lock_that_was_passed_on_to_it(tmp_path):
    lock = locks.acquire(locks.beside(tmp_path / "cell"))
    lock.say(host="here", device="GPU 3", since=1000.0)
    script = "import json, sys; from pathlib import Path; from regvit_lightning.runtime import locks\n"
    script += "folder = Path(sys.argv[1])\nfor _ in range(2):\n with locks.held(folder): pass\n"
    script += "print(json.dumps(locks.holder(locks.beside(folder))))"
    environment = {**os.environ, locks.PASSED_ON: f"{lock.descriptor}"}
    said = json.loads(in_another_process(script, tmp_path / "cell", env=environment, pass_fds=[lock.descriptor]))
    assert (said["device"], said["since"]) == ("GPU 3", 1000.0)
    assert said["process"] != os.getpid()
    lock.release()
    stale = {**os.environ, locks.PASSED_ON: "0,1,999,x"}  # inherited by a process that has no such descriptors
    assert in_another_process(script, tmp_path / "cell", env=stale) == "null"


def test_a_lock_removed_with_its_folder_is_made_anew(tmp_path, monkeypatch):
    real, removed = locks._open_locked, []

    def removed_meanwhile(file):
        descriptor = real(file)
        if not removed:
            removed.append(file)
            file.unlink()
        return descriptor

    monkeypatch.setattr(locks, "_open_locked", removed_meanwhile)
    with locks.held(tmp_path / "cell"):
        assert locks.holder(tmp_path / "cell.lock") is not None
    assert len(removed) == 1


def test_forked_processes_do_not_hold_the_folder(tmp_path):
    with locks.held(tmp_path / "run"):
        (ready, says), (waits, ends) = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:  # a loader worker that outlives its killed parent for a moment
            os.close(ends)
            os.write(says, b"x")
            os.read(waits, 1)
            os._exit(0)
        os.read(ready, 1)
    assert locks.holder(tmp_path / "run.lock") is None
    os.close(ends)
    os.waitpid(child, 0)


@given(
    st.binary(max_size=40)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda values: (
            st.lists(values, max_size=2)
            | st.dictionaries(st.sampled_from(["host", "since", "process", "device"]), values, max_size=3)
        ),
        max_leaves=4,
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_a_lock_file_holds_is_put_into_words(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("lock") / "lock"
    lock = locks.acquire(file)
    file.write_bytes(content)
    facts = locks.holder(file)
    assert "process" in locks.in_words(facts)
    assert "\n" not in locks.in_words(facts)
    lock.release()
