"""Shared arrays: read back to the bit, computed once by many processes, never trusted when damaged, bounded in size."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from regvit_lightning.errors import Notice
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

    return store.rows(list(names), compute), len(asked)


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
    (rows,) = Store(folder, 10**6).rows(["a"], compute)
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

    store.rows(["a"], compute)


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
