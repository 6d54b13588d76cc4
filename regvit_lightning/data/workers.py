"""How many processes decode images, and how many batches wait for the training process in shared memory."""

import math
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning import Trainer
from torch import Tensor

from regvit_lightning.errors import Notice
from regvit_lightning.runtime import hardware, seeds, slurm
from regvit_lightning.runtime.interruption import end_workers_at_exit, leave_to_main_process

PREFETCH = 2  # batches of each worker that wait, torch's default
MOST_BYTES = 2 * 2**30  # of waiting batches on each device
MOST_OF_FREE = 0.8  # share of the free shared memory that the batches of all devices may take
SHARED_MEMORY = Path("/dev/shm")
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of processor time per period, or max


def worker_options(wanted: int, sample: Callable[[], Any], batch: int, trainer: Trainer | None) -> dict[str, Any]:
    """Options of a DataLoader for its workers: no more than there are processors, and a bounded amount of memory.

    What waits in shared memory is workers × prefetched batches × bytes of a batch. It is kept below `MOST_BYTES` on
    each device, and `MOST_OF_FREE` of what is free for all devices of the machine. A line says what was lowered.

    Args:
        wanted: workers that the settings ask for, on each device.
        sample: reads and collates one image.
        batch: images in a batch; all of them are taken to be as large as the first one.
        trainer: Trainer that uses the loader, if there is one.
    """
    options: dict[str, Any] = {"worker_init_fn": leave_to_main_process}
    options["pin_memory"] = trainer is not None and trainer.strategy.root_device.type == "cuda"
    devices = 1 if trainer is None or slurm.job() else trainer.num_devices  # a Slurm task has processors of its own
    workers = min(wanted, max(1, processors() // devices))
    if workers < wanted:
        _say(f"workers={wanted}: {workers} decode images for each device, as there are {processors()} processors")
    if not workers:
        return {**options, "num_workers": 0}
    end_workers_at_exit()
    size, budget = batch * _bytes(sample), min(MOST_BYTES, int(MOST_OF_FREE * free_shared_memory() / devices))
    fitting, prefetch = affordable(workers, size, budget)
    if (fitting, prefetch) != (workers, PREFETCH):
        whole = _in_words(workers * PREFETCH * size)
        need = f"{workers} workers with {PREFETCH} batches of {_in_words(size)} need {whole}"
        kept = f"{fitting} with {prefetch} decode images" if fitting else "the main process decodes images"
        remedy = "a lower device_batch or more shared memory (docker run --shm-size) keeps all"
        _say(f"{need} of shared memory, above {_in_words(budget)}: {kept}; {remedy}")
    return {**options, "num_workers": fitting, **({"prefetch_factor": prefetch} if fitting else {})}


def affordable(workers: int, batch_bytes: int, budget: int) -> tuple[int, int]:
    """Workers and prefetched batches of each whose product with `batch_bytes` is at most `budget`.

    Prefetching is lowered before workers are, as a worker that decodes already holds one batch.

    Returns:
        (0, 0) if not even one batch fits: the main process then decodes, which needs no shared memory.
    """
    batches = budget // max(batch_bytes, 1)
    for prefetch in range(PREFETCH, 0, -1):
        if workers * prefetch <= batches:
            return workers, prefetch
    return (batches, 1) if batches else (0, 0)


def processors() -> int:
    """Processors that this process may use: those it is bound to, or fewer where a container has a quota of time."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text(encoding="ascii").split()
        return min(bound, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):  # no container, or `max`
        return bound


def free_shared_memory() -> float:
    """Bytes that are free in `/dev/shm`; infinite on a system without it."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return math.inf


def _bytes(sample: Callable[[], Any]) -> int:
    """Bytes of the tensors of one collated image; its random draws affect nothing else."""
    with seeds.drawn_from(0, "size of a sample"):
        return _tensor_bytes(sample())


def _tensor_bytes(batch: Any) -> int:
    if isinstance(batch, Tensor):
        return batch.nbytes
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else ()
    return sum(map(_tensor_bytes, parts))


def _say(line: str) -> None:
    if hardware.first_process():
        warnings.warn(Notice(line), stacklevel=1)


def _in_words(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
