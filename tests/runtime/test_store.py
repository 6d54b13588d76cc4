"""Shared arrays: read back to the bit, computed once by many processes, never trusted when damaged, bounded in size."""

import errno
import fcntl
import multiprocessing
import os
import signal
import time
from contextlib import suppress

import numpy as np
import pytest

from regvit_lightning.errors import Notice
from regvit_lightning.runtime import store as module
from regvit_lightning.runtime.store import DIGEST, HEADER, Store, key

ROWS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def file_of(store, name):
    return store.folder / f"{name}.rows"


def counted(store, names=("a",), rows=ROWS):
    """The arrays, and how many were computed."""
    asked = []

    def compute(missing):
        asked.extend(missing)
        return [rows + position for position in missing]

    return store.rows("pass", list(names), compute), len(asked)


def test_what_is_read_is_what_was_computed(tmp_path):
    (first,), made = counted(Store(tmp_path, 10**6))
    (again,), made_again = counted(other := Store(tmp_path, 10**6))
    assert (made, made_again) == (1, 0)
    assert first.tobytes() == again.tobytes() == ROWS.tobytes()
    assert isinstance(again, np.memmap)  # processes share its pages
    assert (other.read, other.computed) == (5, 0)


def test_only_what_is_missing_is_computed(tmp_path):
    store = Store(tmp_path, 10**6)
    counted(store, ["b"])
    (a, b), made = counted(store, ["a", "b"], ROWS + 7)
    assert made == 1
    assert np.array_equal(a, ROWS + 7)
    assert np.array_equal(b, ROWS)


def test_what_others_will_ask_for_is_kept_where_the_pass_runs_and_never_computed_for_its_own_sake(tmp_path):
    store, asked = Store(tmp_path, 10**6), []

    def compute(missing):
        asked.append(missing)
        return [ROWS + position for position in missing]

    counted(store, ["c"], ROWS + 9)
    (a,) = store.rows("pass", ["a"], compute, ["b", "c"])
    assert asked == [[0, 1]]  # c is there
    assert np.array_equal(a, ROWS)
    b, c = store.rows("pass", ["b", "c"], compute)
    assert np.array_equal(b, ROWS + 1)
    assert np.array_equal(c, ROWS + 9)
    store.rows("pass", ["a"], compute, ["d"])  # nothing that is asked for is missing
    assert asked == [[0, 1]]
    assert not file_of(store, "d").exists()


def test_a_key_depends_on_every_fact_and_not_on_their_order():
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})
    assert len({key({"a": 1}), key({"a": 2}), key({"b": 1}), key({"a": 1, "b": 1})}) == 4


DAMAGES = {
    "bit of the array": lambda content: (
        content[: HEADER + 4] + bytes([content[HEADER + 4] ^ 1]) + content[HEADER + 5 :]
    ),
    "bit of the checksum": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "cut short": lambda content: content[:-4],
    "longer": lambda content: content + b"\0",
    "no header": lambda content: b"",
    "another shape": lambda content: content.replace(b"[5, 3]", b"[3, 5]", 1),
    "a shape that is none": lambda content: content.replace(b"[5, 3]", b"[-5,3]", 1),
    "not JSON": lambda content: b"\xff" * len(content),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_computed_again(tmp_path, damage):
    store = Store(tmp_path, 10**6)
    counted(store)
    file = file_of(store, "a")
    whole = file.read_bytes()
    assert len(whole) == HEADER + ROWS.nbytes + DIGEST
    file.write_bytes(DAMAGES[damage](whole))
    with pytest.warns(Notice, match="damaged") as told:
        (rows,), made = counted(store)
    assert len(told) == 1
    assert str(file) in str(told[0].message)
    assert made == 1
    assert np.array_equal(rows, ROWS)
    assert file.read_bytes() == whole


def test_what_was_not_used_for_longest_leaves_first(tmp_path):
    size = HEADER + ROWS.nbytes + DIGEST
    store = Store(tmp_path, 3 * size)
    for number, name in enumerate("abc"):
        counted(store, [name])
        os.utime(file_of(store, name), (number, number))
    (a,), made = counted(store, ["a"])  # used now, so that b is the oldest
    assert made == 0
    counted(store, ["d"])
    assert {file.stem for file in tmp_path.glob("*.rows")} == {"a", "c", "d"}
    assert sum(file.stat().st_size for file in tmp_path.glob("*.rows")) <= 3 * size
    for name in ("a", "c"):
        file_of(store, name).unlink()
    assert np.array_equal(a, ROWS)  # still mapped


def test_an_array_above_the_bound_is_not_kept_and_removes_nothing(tmp_path):
    store = Store(tmp_path, HEADER + ROWS.nbytes + DIGEST)
    counted(store)
    (rows,), _ = counted(store, ["b"], np.ones((50, 3), np.float32))
    assert rows.sum() == 150
    assert [file.stem for file in tmp_path.glob("*.rows")] == ["a"]


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_file(tmp_path):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "features", 10**6)
    with pytest.warns(Notice, match="not kept"):
        (rows,), made = counted(store)
    assert made == 1
    assert np.array_equal(rows, ROWS)


def _slowly(folder, made, go):
    def compute(missing):
        with made.get_lock():
            made.value += 1
        time.sleep(0.3)
        return [ROWS]

    go.wait()
    (rows,) = Store(folder, 10**6).rows("pass", ["a"], compute)
    os._exit(int(not np.array_equal(rows, ROWS)))


def test_processes_that_ask_at_once_compute_once(tmp_path):
    context = multiprocessing.get_context("fork")
    made, go = context.Value("i", 0), context.Event()
    asking = [context.Process(target=_slowly, args=(tmp_path, made, go)) for _ in range(3)]
    for one in asking:
        one.start()
    go.set()
    for one in asking:
        one.join(60)
    assert [one.exitcode for one in asking] == [0, 0, 0]
    assert made.value == 1


def _until_killed(folder, began, half):
    store = Store(folder, 10**6)
    if half:  # killed between writing and renaming
        os.replace = lambda *paths: (began.set(), time.sleep(60))

    def compute(missing):
        if not half:
            began.set()
            time.sleep(60)
        return [ROWS + 1]

    store.rows("pass", ["a"], compute)


@pytest.mark.parametrize("half", [False, True], ids=["while it computes", "before it renames"])
def test_a_killed_process_leaves_nothing_that_harms(tmp_path, half):
    context = multiprocessing.get_context("fork")
    began = context.Event()
    victim = context.Process(target=_until_killed, args=(tmp_path, began, half))
    victim.start()
    assert began.wait(60)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    assert not list(tmp_path.glob("*.rows"))
    begun = time.monotonic()
    (rows,), made = counted(Store(tmp_path, 10**6))
    assert time.monotonic() - begun < 30  # its lock ended with it
    assert made == 1
    assert np.array_equal(rows, ROWS)
    assert not list(tmp_path.glob(".*.tmp"))


def test_files_of_a_folder_that_can_only_be_read_are_read(tmp_path, monkeypatch, recwarn):
    counted(Store(tmp_path, 10**6))
    monkeypatch.setattr(os, "utime", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EROFS, "read-only")))
    (rows,), made = counted(Store(tmp_path, 10**6))
    assert made == 0
    assert np.array_equal(rows, ROWS)
    assert not list(recwarn)


def test_a_file_that_cannot_be_opened_now_stays(tmp_path, monkeypatch):
    store = Store(tmp_path, 10**6)
    counted(store)
    before = file_of(store, "a").stat().st_ino
    with monkeypatch.context() as patched:
        patched.setattr(module, "_verified", lambda _: (_ for _ in ()).throw(OSError(errno.EMFILE, "too many files")))
        patched.setattr(Store, "_kept", lambda self, name, rows: rows)
        with pytest.warns(Notice, match=r"cannot be read \(too many files\)"):
            _, made = counted(store)
    assert made == 1
    assert file_of(store, "a").stat().st_ino == before
    assert counted(store)[1] == 0


def test_a_full_disk_costs_nothing_but_the_file(tmp_path, monkeypatch):
    store = Store(tmp_path, 10**6)
    counted(store)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.warns(Notice, match="not kept .*No space left"):
            (rows,), made = counted(store, ["b"], ROWS + 1)
    assert made == 1
    assert np.array_equal(rows, ROWS + 1)
    assert [file.name for file in tmp_path.iterdir() if not file.name.endswith(".lock")] == ["a.rows"]
    assert counted(store)[1] == 0


def _ask_slowly(folder, name, keys, computed, begin, most):
    """Ask for arrays whose computing takes a moment, and whose writing does, too."""
    write = module._write
    module._write = lambda *given: (time.sleep(0.2), write(*given))

    def compute(missing):
        with computed.get_lock():
            computed.value += len(missing)
        time.sleep(0.2)
        return [ROWS for _ in missing]

    begin.wait()
    Store(folder, most).rows(name, keys, compute)
    os._exit(0)


def _all_at_once(folder, asked, most=10**6):
    """Number of arrays that processes computed which asked for arrays (pass, keys) at the same time."""
    context = multiprocessing.get_context("fork")
    computed, begin = context.Value("i", 0), context.Event()
    asking = [context.Process(target=_ask_slowly, args=(folder, *one, computed, begin, most)) for one in asked]
    for one in asking:
        one.start()
    begin.set()
    for one in asking:
        one.join(60)
    assert [one.exitcode for one in asking] == [0] * len(asked)
    return computed.value


def test_processes_that_want_different_arrays_of_a_pass_share_it(tmp_path):
    assert _all_at_once(tmp_path, [("pass", ["a", "b"]), ("pass", ["b"]), ("pass", ["b", "a"])]) == 2


def test_processes_that_write_at_once_stay_below_the_bound_together(tmp_path):
    size = HEADER + ROWS.nbytes + DIGEST
    assert _all_at_once(tmp_path, [(name * 3, [name]) for name in "abc"], 2 * size) == 3
    assert len(list(tmp_path.glob("*.rows"))) == 2


def _is_free(file):
    with file.open("rb") as lock, suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _leave_an_orphan(folder, orphan):
    def compute(missing):
        if (child := os.fork()) == 0:
            time.sleep(60)
            os._exit(0)
        orphan.value = child
        time.sleep(60)

    Store(folder, 10**6).rows("pass", ["a"], compute)


def test_what_a_killed_process_has_forked_does_not_hold_its_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    orphan = context.Value("i", 0)
    victim = context.Process(target=_leave_an_orphan, args=(tmp_path, orphan))
    victim.start()
    while not orphan.value:
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    try:
        begun = time.monotonic()
        while not _is_free(tmp_path / "pas.lock"):  # the orphan may not have run yet
            assert time.monotonic() - begun < 50
            time.sleep(0.01)
    finally:
        os.kill(orphan.value, signal.SIGKILL)
