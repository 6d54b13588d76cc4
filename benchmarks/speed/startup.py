"""Start-up: seconds until a cell has seen its first image, until `--help`, and until a million files are indexed."""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.speed.timing import Measurement

MILLION = 1000, 1000  # folders, and files in each
# Ends the process when the first batch of a pass is done: what remains is the work itself.
IMPORTS = "import torch, lightning, timm"
FIRST_BATCH = """
import os, sys
from benchmarks import command, evaluate
with command.importing():
    from benchmarks import progress
progress.Progress.on_validation_batch_end = progress.Progress.on_test_batch_end = lambda *_: os._exit(0)
sys.argv = ["evaluate", *sys.argv[1:]]
evaluate.cli()
raise SystemExit("no batch was seen")
"""


def rows(data: str, model: str) -> list[Measurement]:
    """Start of each kind of cell on `data`, of the help, and of a large set."""
    return [*cells(data, model), help_text(), *index(*MILLION)]


def cells(data: str, model: str, tasks: Sequence[str] = ("imagenet_knn", "lost_voc07")) -> list[Measurement]:
    """Wall-clock time from the start of the process to the end of the first batch of 8 images, best of three."""
    found, imports = [], [sys.executable, "-c", IMPORTS]
    for task in tasks:
        with tempfile.TemporaryDirectory() as folder:
            words = [f"model=random-{model}", f"task={task}", f"data={data}", "device_batch=8", "workers=0"]
            command = [sys.executable, "-c", FIRST_BATCH, *words, f"runs={folder}", f"results={folder}"]
            (times, busy), needed = zip(*(_seconds(command) for _ in range(3)), strict=True), _seconds(imports)[1]
        parts = f"of a processor: {min(busy):.1f} s; {IMPORTS!r} alone: {needed:.1f} s"
        found.append(Measurement(f"(n) seconds to the first batch of {task}, {model}", min(times), "≤ 4", parts))
    return found


def help_text() -> Measurement:
    """Wall-clock time of `regvit --help`, best of three."""
    times, busy = zip(*(_seconds([sys.executable, "-m", "benchmarks", "--help"]) for _ in range(3)), strict=True)
    return Measurement("(n) seconds of regvit --help", min(times), "≤ 0.5", f"of a processor: {min(busy):.2f} s")


def index(folders: int, files: int) -> list[Measurement]:
    """Time to index a tree of class folders of empty files, and to open its index from then on."""
    from regvit_lightning.data import imagenet

    with tempfile.TemporaryDirectory() as place:
        made = time.perf_counter()
        for number in range(folders):
            folder = Path(place, "train", f"n{number:08d}")
            folder.mkdir(parents=True)
            for name in range(files):
                open(folder / f"n{number:08d}_{name:05d}.JPEG", "wb").close()
        made = time.perf_counter() - made
        time.sleep(2.5)  # the index of a folder that changed a moment ago is not kept
        (first, busy), (again, _) = (_timed(lambda: imagenet.index(Path(place, "train"))) for _ in range(2))
        count = len(imagenet.index(Path(place, "train")))
    what = f"{count:,} files in {folders:,} folders"
    indexed = f"of a processor: {busy:.1f} s; the files were made in {made:.0f} s"
    return [
        Measurement(f"(n) seconds to index {what}", first, "≤ 10", indexed),
        Measurement(f"(n) seconds to open the index of {what}", again, "≤ 1", "mapped; each folder is looked at once"),
    ]


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the wall clock and of a processor."""
    begun, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun, time.process_time() - busy


def _seconds(command: Sequence[str]) -> tuple[float, float]:
    """Seconds of the wall clock and of all processors that a command takes."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    took, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
