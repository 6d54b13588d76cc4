"""Writes the rendered data set to disk: what is missing, in several processes, with the progress of the whole.

Beside the folders of `parts.py` it writes <root>/settings.json and <root>/complete.json: the settings of data that are
begun, and of data that are complete.

Every image has its own generator, seeded by (seed, split, index): any image can be rendered alone, and the bytes
depend neither on the number of workers nor on interruptions. Every file is written under a temporary name and
renamed; existing files are not rewritten. Only one process at a time may write to a root.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regvit_lightning.data.mini import shifted
from regvit_lightning.data.mini.files import read_json, write_json
from regvit_lightning.data.mini.films import FRAMES, SCAN_FRAMES
from regvit_lightning.data.mini.landmarks import VIEWS
from regvit_lightning.data.mini.options import MiniSettings
from regvit_lightning.data.mini.parts import PARTS, VERSION, write_lists
from regvit_lightning.data.mini.shifted import SHIFTS
from regvit_lightning.errors import UserError

FOLDERS = (
    *("imagenet", "ADEChallengeData2016", "nyu", "VOCdevkit", "coco"),
    *("shards", "DAVIS", "SPair-71k", "scans", "roxford5k"),
    *dict.fromkeys(shift.folder.partition("/")[0] for shift in SHIFTS.values()),
    shifted.REAL.partition("/")[0],
)
TASK_IMAGES = 32  # images of about 96 x 96 in a task of one worker: about a tenth of a second


def is_complete(root: Path, settings: MiniSettings | None = None) -> bool:
    """Whether `root` contains a complete data set of this version, and of these settings if given.

    Without settings, folders that came later than the data set are not asked for: the rest of it can be read as ever.
    """
    kept = read_json(Path(root) / "complete.json") or {}
    wanted, present = kept.get("files"), _count_files(Path(root))
    if kept.get("version") != VERSION or not isinstance(wanted, dict):
        return False
    if settings is not None and (kept.get("settings") != settings.described() or not set(FOLDERS) <= wanted.keys()):
        return False
    # Additional files do no harm: some loaders leave their caches beside the data.
    return all(present[name] >= wanted.get(name, 0) for name in FOLDERS)


def rendered_as(root: Path) -> dict[str, Any] | None:
    """Version and settings of the data set in `root`; None if it is missing or half-written."""
    kept = read_json(Path(root) / "complete.json") or {}
    return {key: kept.get(key) for key in ("version", "settings")} if "version" in kept else None


def write(root: Path, settings: MiniSettings, workers: int) -> Iterator[tuple[int, int]]:
    """Write what is missing under `root` and yield (images done, total images) along the way.

    With one worker or none everything runs in this process, otherwise in `workers` new processes. An interrupted data
    set is completed by the next call.

    Raises:
        UserError: `root` cannot be written to, or contains data sets that this function did not write.
    """
    root = Path(root)
    if is_complete(root, settings):
        return
    with _telling(root):
        _prepare(root, settings)
    tasks = _tasks(settings)
    done, total = 0, sum(task.stop - task.start for task in tasks)
    yield done, total
    for task in _run(root, settings, tasks, workers):
        done += task.stop - task.start
        yield done, total
    with _telling(root):
        write_lists(root, settings)
        write_json(root / "complete.json", {**_identity(settings), "files": _count_files(root)})


@dataclass(frozen=True)
class RenderTask:
    """A range of images of one part, small enough to report progress."""

    part: str
    start: int
    stop: int
    when: float  # relative position among the tasks of its part, in (0, 1)


def _tasks(settings: MiniSettings) -> list[RenderTask]:
    """Tasks with the parts interleaved, so that the time per image is uniform and the remaining time predictable."""
    tasks = []
    for part, (_, size, cost) in PARTS.items():
        count, step = size(settings), max(1, TASK_IMAGES // cost)
        if part.startswith("shards"):
            step = settings.shard_pairs
        elif part == "films":
            step = FRAMES
        elif part == "scans":
            step = SCAN_FRAMES
        elif part == "landmarks":
            step = VIEWS
        elif part == "keypoints":  # the annotations are of all pairs of a class
            step = settings.keypoints
        elif part in ("coco", "imagenet_real"):  # one JSON holds the annotations of all images
            step = max(count, 1)
        for start in range(0, count, step):
            tasks.append(RenderTask(part, start, min(start + step, count), (start + step / 2) / count))
    return sorted(tasks, key=lambda task: task.when)


def _run(root: Path, settings: MiniSettings, tasks: Sequence[RenderTask], workers: int) -> Iterator[RenderTask]:
    if workers <= 1:
        for task in tasks:
            _work(root, settings, task)
            yield task
        return
    # New processes: forking one that has started torch's threads may deadlock.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        with _signals_are_ours():
            futures = {pool.submit(_work, root, settings, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _signals_are_ours() -> Iterator[None]:
    """Context manager: child processes ignore Ctrl-C and SIGHUP from their start; this process ends them."""
    if threading.current_thread() is not threading.main_thread():  # which cannot set signals
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _work(root: Path, settings: MiniSettings, task: RenderTask) -> None:
    with _telling(root):
        PARTS[task.part][0](root, settings, task.part, range(task.start, task.stop))


def _identity(settings: MiniSettings) -> dict[str, Any]:
    return {"version": VERSION, "settings": settings.described()}


def _count_files(root: Path) -> dict[str, int]:
    return {name: sum(len(files) for _, _, files in os.walk(root / name)) for name in FOLDERS}


def _prepare(root: Path, settings: MiniSettings) -> None:
    """Ensure that `root` contains only finished files of these settings."""
    marker = root / "settings.json"
    (root / "complete.json").unlink(missing_ok=True)
    if read_json(marker) != _identity(settings):
        present = [name for name in FOLDERS if (root / name).exists()]
        if present and not marker.exists():
            raise UserError(
                f"{root / present[0]} is there but {marker} is not, so it may be real data: "
                "name another folder for the rendered data, or move it away"
            )
        for name in present:
            shutil.rmtree(root / name)
        write_json(marker, _identity(settings))
    for path in root.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _telling(root: Path) -> Iterator[None]:
    """Context manager that turns file-system errors into one line for the user."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {error.filename or root}: {error.strerror or error}") from error
