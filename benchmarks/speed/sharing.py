"""What a grid saves whose cells share features and imports: the same cells with CACHE=1 over those with CACHE=0."""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.timing import Measurement
from regvit_lightning import settings

MODELS = "random-vitn_reg4", "random-vitn_reg0"  # every other model of the grid needs a training first
GRID = "mini-paper"


def row(data: str, models: Sequence[str] = MODELS, tasks: Sequence[str] = ()) -> Measurement:
    """(p) Processor time of evaluations of the mini-paper grid, one seed, sharing over not sharing.

    Processor time, as wall-clock time on a shared machine says little; both are in the parts.

    Args:
        data: the data.
        models: models that need no training.
        tasks: some tasks of the grid; empty takes all.

    Raises:
        RuntimeError: a number of a record differs.
    """
    with tempfile.TemporaryDirectory() as folder:
        grid = Path(folder, "grid.yaml")
        tasks = tasks or settings.read_yaml(settings.find("grids", GRID)[-1])["tasks"]
        grid.write_text(json.dumps({"models": list(models), "tasks": list(tasks), "seeds": [0]}), encoding="utf-8")
        alone, shared = (_Run.of(grid, data, Path(folder, str(cache)), cache) for cache in (False, True))
    differing = [name for name in alone.numbers if alone.numbers[name] != shared.numbers[name]]
    if differing or not alone.numbers:
        raise RuntimeError(f"records differ with and without sharing: {', '.join(differing) or 'there are none'}")
    cells = f"{len(alone.numbers)} cells, the same numbers"
    seconds = (f"{kind} {a:.0f} s for {b:.0f} s" for kind, a, b in _pairs(shared, alone))
    parts = "; ".join([*seconds, cells, f"{shared.images_read:,} images read, not run"])
    return Measurement(
        f"(p) grid {GRID} CACHE=1 / CACHE=0, {len(models)} models", shared.cpu / alone.cpu, "≤ 0.6", parts
    )


class _Run:
    """One run of the grid: processor and wall-clock seconds, and what its records measured, by file.

    Attributes:
        images_read: images whose features its cells read in place of a forward pass.
    """

    def __init__(self, cpu: float, wall: float, numbers: dict[str, Any], images_read: int) -> None:
        self.cpu, self.wall, self.numbers, self.images_read = cpu, wall, numbers, images_read

    @classmethod
    def of(cls, grid: Path, data: str, folder: Path, cache: bool) -> "_Run":
        words = [f"grid={grid}", f"data={data}", f"runs={folder}/runs", f"results={folder}/results", f"cache={cache}"]
        before, begun = _cpu(), time.monotonic()
        subprocess.run([sys.executable, "-m", "benchmarks.grid", *words], check=True, stdout=subprocess.DEVNULL)
        cpu, wall = _cpu() - before, time.monotonic() - begun
        records = {file: json.loads(file.read_bytes()) for file in sorted(folder.glob("results/*/cells/*/*.json"))}
        images_read = sum(record["provenance"].get("vectors_read", 0) for record in records.values())
        numbers = {f"{file.parent.name}/{file.stem}": _numbers(record) for file, record in records.items()}
        return cls(cpu, wall, numbers, images_read)


def _pairs(shared: _Run, alone: _Run) -> list[tuple[str, float, float]]:
    return [("processor", shared.cpu, alone.cpu), ("wall", shared.wall, alone.wall)]


def _cpu() -> float:
    """Seconds of processor that the ended children of this process took, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _numbers(record: dict[str, Any]) -> Any:
    """All that a record measured: without provenance, and with the digest of its scores of single images."""
    return {key: value for key, value in record.items() if key != "provenance"}
