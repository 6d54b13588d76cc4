"""(j) Memory rows of `benchmarks.speed`: peak memory of each task's largest part over its estimate in `make plan`.

Each row runs in a process of its own, after a run at a small size that loads the code: what another row has freed, and
an allocator keeps, would otherwise lower the next peak.
"""

import importlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks.speed.memory import peak_memory
from benchmarks.speed.timing import Measurement

WITHIN = "0.8–1.25"
FAINT = 128 << 20  # bytes: what an allocator keeps and rounds is no longer small beside an estimate below
MODULES = ("real_shapes", "dense_shapes", "report_shapes", "patches")  # with a function of the row's name

# Sizes at which a row is computed in an instant, for the first run and for tests, by the row's name.
SMALL: dict[str, dict[str, Any]] = {
    "knn": {"images": 20_000, "width": 64, "queries": 32},
    "linear_choice": {"held_out": 12_000, "test": 5_000, "classes": 50},
    "linear_step": {"batch": 16, "width": 32, "classes": 100},
    "attentive_step": {"batch": 8, "width": 64, "side": 4, "classes": 20},
    "zero_shot": {"classes": 20, "embed": 64, "images": 300},
    "intervals": {"images": 5_000},
    "segmentation_step": {"batch": 2, "width": 64, "side": 392},
    "segmentation_image": {"height": 520, "width": 530, "classes": 8},
    "depth_step": {"batch": 4, "width": 16, "rows": 112, "columns": 140},
    "lost": {"images": 8, "side": 20, "width": 64},
    "token_cut": {"images": 4, "side": 14, "width": 64},
    "register_boxes": {"images": 2, "blocks": 2, "side": 20},
    "saliency": {"images": 4, "side": 60, "grid": 20, "blocks": 6, "tokens": 5},
    "robustness": {"images": 5_000, "batch": 16, "width": 64, "classes": 200},
    "propagation": {"rows": 20, "columns": 24, "width": 32},
    "keypoint_matches": {"pairs": 2, "side": 20, "width": 64, "points": 5},
    "rankings": {"queries": 3, "images": 20_000, "width": 16},
    "label_free": {"images": 2_000, "width": 64, "patches": 20},
    "shifted_content": {"images": 4, "side": 8, "width": 64},
    "norms": {"images": 50, "depth": 5, "side": 14},
    "single_token": {"images": 1000, "width": 32, "classes": 100, "iterations": 20},
    "several_classes": {"images": 1000, "width": 64, "classes": 5},
    "position": {"images": 20, "side": 12, "width": 64, "tokens": 1500},
    "pixels": {"images": 12, "side": 10, "width": 64},
    "placement": {"images": 100, "side": 16},
    "patch_memory": {"patches": 6_000, "width": 64, "images": 2},
    "clusters": {"points": 20_000, "width": 64, "k": 10},
}


def rows() -> Iterator[Measurement]:
    """All rows, at the sizes of the real data."""
    for name in SMALL:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(max_workers=1, mp_context=context) as process:
            yield process.submit(alone, name).result()


def alone(name: str) -> Measurement:
    """One row, in a process that has computed nothing else."""
    row(name, SMALL[name])
    return row(name, {})


def row(name: str, sizes: dict[str, Any]) -> Measurement:
    """The row of a name, with some of its sizes changed."""
    modules = (importlib.import_module(f"benchmarks.speed.{module}") for module in MODULES)
    found: Measurement = next(getattr(module, name) for module in modules if hasattr(module, name))(**sizes)
    return found


def measured(name: str, estimate: int, work: Callable[[], object]) -> Measurement:
    """Row of a piece of work: its peak memory over the estimate in bytes."""
    begun = time.perf_counter()
    with peak_memory() as peak:
        work()
    seconds = time.perf_counter() - begun
    parts = f"{peak.bytes / 2**30:.2f} of {estimate / 2**30:.2f} GiB; {seconds:.1f} s"
    target = WITHIN if estimate >= FAINT else ""
    return Measurement(f"(j) memory / estimate, {name}", peak.bytes / estimate, target, parts)
