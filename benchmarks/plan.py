"""Estimate time and memory of a grid before running it: `python -m benchmarks.plan grid=paper data=full gpus=64`."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import command, terminal
from benchmarks.grid import cells as grids
from benchmarks.grid.cells import Cell, Cells
from benchmarks.tables import markdown
from benchmarks.throughput import block_speed, duration, flops, shape_of
from regvit_lightning.errors import UserError
from regvit_lightning.settings import check, setting

if TYPE_CHECKING:
    from benchmarks.grid.estimates import Estimates
    from regvit_lightning.tasks.footprint.case import Footprint

DESCRIPTION = """Prints every cell of a grid with its FLOPs, memory and time, the sum of GPU-hours, and how long the
grid takes on so many GPUs, the pretrainings included; runs nothing and reads no image. Speed is measured by the cells
of this grid that have run, or else on one transformer block on this machine; GPUs that this machine does not have are
assumed. Only the products of the backbone's blocks are counted: a cell that waits for its images or its heads takes
longer."""


@dataclass
class Plan(grids.Chosen):
    """Settings of the program."""

    pretrain: bool = setting("the pretraining of the models is part of the grid", True)
    gpus: str = setting("how many; all: this machine, with or without GPU", "all")
    tflops: float | None = setting(
        "peak of one GPU in 10^12 FLOP/s; not given, it is measured, or 312 assumed, an A100 in bf16",
        None,
        within="(0, 1e6]",
    )
    mfu: float | None = setting("share of the peak that is reached; not given, 0.35 is assumed", None, within="(0, 1]")
    pairs: int | None = setting("image-text pairs; not given, they are counted", None, within="[1, 1e12]")


A100_BF16 = 312.0  # NVIDIA's data sheet, dense
USUAL_MFU = 0.35
GPUS_OF_A_MACHINE = 8  # usual maximum; the grid pretrains a model on one machine


@dataclass(frozen=True)
class PlannedSpeed:
    """Speed of one device.

    Attributes:
        of_task: FLOP/s as a function of the task.
        words: source of the number.
        from_runs: use the measured time of cells that have run before.
    """

    of_task: Callable[[str], float]
    words: str
    from_runs: bool = False


@dataclass(frozen=True)
class PlanRow:
    """One cell of a plan.

    Attributes:
        devices: number of devices that it runs on.
        flops: total FLOPs.
        memory: peak memory on each device, and on the host for each of them.
        seconds: duration on all of its devices together.
        measured: whether the duration was measured in an earlier run.
    """

    cell: Cell
    devices: int
    flops: float
    memory: "Footprint"
    seconds: float
    measured: bool

    def shown(self, gpus: bool) -> list[str]:
        """Cell texts of the row in the table, with the memory of GPU and host, or of a machine without a GPU."""
        time = f"{duration(self.seconds)}{' (measured)' if self.measured else ''}"
        sizes = [self.memory.device, self.memory.host] if gpus else [self.memory.together]
        gib = [f"{size / 2**30:.1f}" for size in sizes]
        return [self.cell.name, str(self.devices), f"{self.flops:.3g}", *gib, self.memory.largest, time]


def main(options: Plan, words: list[str]) -> None:
    """Run the program."""
    from benchmarks.grid.estimates import Estimates

    count = _count(options)
    grid = grids.build(options, images_needed=False)
    wide = f"pretrain_devices={options.pretrain_devices}: a pretraining does not fit on gpus={count}"
    check(not options.pretrain or options.pretrain_devices <= count, wide)
    estimates = Estimates(grid, {"pairs": options.pairs} if options.pairs else {})
    cells, unknown = _known(grid, estimates)
    speed = _speed(options, estimates, cells)
    rows = [_row(cell, grid, estimates, speed) for cell in cells]
    gpus = _has_gpus(options)
    terminal.show(f"plan: grid {options.grid}, data {options.data}: {len(grid.cells)} cells, nothing is run\n")
    if rows:
        gib = ["GPU, GiB", "host, GiB"] if gpus else ["GiB"]
        heading = ["cell", "GPUs" if gpus else "devices", "FLOPs", *gib, "at its peak", "time"]
        print(markdown.for_terminal(markdown.table([heading, *(row.shown(gpus) for row in rows)])) + "\n")
        terminal.show("\n".join([*largest(rows, gpus), *sums(rows, grid, estimates, count, gpus)]))
    terminal.show("\n".join([f"Speed: {speed.words}", *(f"Left out: {line}" for line in grid.left_out)]))
    if unknown:
        lines = "\n  ".join(f"{number} cells: {line}" for line, number in unknown.items())
        raise UserError(f"not in the sums are\n  {lines}")


def _count(options: Plan) -> int:
    """Number of devices: as given, or this machine's GPUs, or one CPU."""
    import torch

    if options.gpus == "all":
        return torch.cuda.device_count() or 1
    fits = re.fullmatch(r"0*[1-9][0-9]{0,4}", options.gpus)
    check(fits is not None, f"gpus={options.gpus}: expected a number from 1 to 99999, or all")
    return int(options.gpus)


def _has_gpus(options: Plan) -> bool:
    """True if the plan is for GPUs: some were requested, or this machine has some."""
    import torch

    return options.gpus != "all" or torch.cuda.is_available()


def _known(grid: Cells, estimates: "Estimates") -> tuple[list[Cell], Counter[str]]:
    """Cells whose work is known, and the number of other cells by reason."""
    cells, unknown = [], Counter[str]()
    for cell in grid.cells:
        try:
            estimates.estimate(cell)
            cells.append(cell)
        except UserError as error:
            unknown[str(error)] += 1
    return cells, unknown


def _row(cell: Cell, grid: Cells, estimates: "Estimates", speed: PlannedSpeed) -> PlanRow:
    estimate, devices = estimates.estimate(cell), grid.devices(cell)
    measured = estimates.measured(cell) if speed.from_runs else 0.0
    seconds = measured or estimate.flops / speed.of_task(cell.task) / devices
    return PlanRow(cell, devices, estimate.flops, estimate.memory, seconds, bool(measured))


# --------------------------------------------------------------------------------------------------------- totals


def largest(rows: Sequence[PlanRow], gpus: bool) -> list[str]:
    """The cell of each task that needs the most memory, largest first, and the part of it that does."""

    def size(row: PlanRow) -> int:
        return row.memory.device if gpus else row.memory.together

    of_task = {row.cell.task: row for row in sorted(rows, key=size)}
    every = sorted(of_task.items(), key=lambda pair: -size(pair[1]))
    lines = [f"  {size(row) / 2**30:.1f} GiB {task}, {row.cell.model}: {row.memory.largest}" for task, row in every]
    return ["Most memory of each task:", *lines]


def sums(rows: Sequence[PlanRow], grid: Cells, estimates: "Estimates", count: int, gpus: bool) -> list[str]:
    """Total work of all cells, their duration on `count` devices, and advice for idle devices."""
    total = sum(row.devices * row.seconds for row in rows)
    span = makespan(rows, grid, grid.pretrain_devices, count)
    where = f"{count} GPU{'s' if count > 1 else ''}" if gpus else "this processor"
    lines = [
        f"{'GPU-hours' if gpus else 'Hours of work'}: {total / 3600:,.2f} ({duration(total)})",
        f"Hours on {where}, longest cells first: {span / 3600:,.2f} ({duration(span)})",
    ]
    idle = round(count - total / span) if span else 0  # a text tower alone is not counted
    if idle > 0:
        lines.append(f"Idle: {idle} of {count} GPUs on average{_advice(rows, grid, estimates, count, span)}")
    return lines


def _advice(rows: Sequence[PlanRow], grid: Cells, estimates: "Estimates", count: int, span: float) -> str:
    """Advice on the GPUs per pretraining that minimise the grid's duration, if clearly shorter than `span`."""
    recipes = [estimates.work(row.cell)[1] for row in rows if row.cell.pretrains]
    spans = {
        devices: makespan(rows, grid, devices, count)
        for devices in range(1, min(count, GPUS_OF_A_MACHINE) + 1)
        if all(_divides(recipe, devices) for recipe in recipes)
    }
    best = min(spans, key=lambda devices: spans[devices], default=1)
    if not recipes or spans[best] > 0.95 * span:
        return ""
    busy = sum(row.devices * row.seconds for row in rows) / spans[best]
    gives = f"it takes {duration(spans[best])}, {max(round(count - busy), 0)} idle"
    return f'; with ARGS="pretrain_devices={best}" {gives}'


def _divides(recipe: object, devices: int) -> bool:
    """True if `devices` devices share the batch evenly; groups of images (DINOv2) stay on one device."""
    return int(getattr(recipe, "batch_size", 1)) % (devices * int(getattr(recipe, "group", 1))) == 0


def makespan(rows: Sequence[PlanRow], grid: Cells, pretrain_devices: int, count: int) -> float:
    """Seconds until all cells are done on `count` devices, each pretraining on `pretrain_devices` of them."""
    from benchmarks.grid import queueing

    jobs = []
    for row in rows:
        cell = row.cell
        devices = pretrain_devices if cell.pretrains else row.devices
        needs, seconds = cell.needs.name if cell.needs else "", row.seconds * row.devices / devices
        jobs.append(queueing.LocalJob(cell.name, [], grid.base(cell), grid.folder(cell), devices, needs, seconds))
    return queueing.makespan(jobs, count)


# ----------------------------------------------------------------------------------------------------------- speed


def _speed(options: Plan, estimates: "Estimates", cells: Sequence[Cell]) -> PlannedSpeed:
    """Speed as given, from cells that have run on such hardware, assumed for absent GPUs, or measured here."""
    import torch

    given = bool(options.tflops or options.mfu)
    ran_on = estimates.devices()
    # A CPU's name ends with its number of threads, see `hardware.device_name`.
    same = options.gpus == "all" or torch.cuda.is_available() or any(not name.endswith("threads") for name in ran_on)
    if not given and same and estimates.speed():
        where = f" ({'; '.join(ran_on)})" if ran_on else ""
        words = f"measured FLOP/s of the cells that have run{where}, by task where it has"
        return PlannedSpeed(estimates.speed, words, from_runs=True)
    shaped = [cell for cell in cells if estimates.work(cell)[0].passes and not estimates.by_stage(cell)]
    if given or not shaped or (options.gpus != "all" and not torch.cuda.is_available()):
        return _assumed(options, given)
    return _measured(estimates, shaped)


def _assumed(options: Plan, given: bool) -> PlannedSpeed:
    peak = f"{options.tflops:g}" if options.tflops else f"{A100_BF16:g} (assumed: A100, bf16)"
    mfu = f"{options.mfu:g}" if options.mfu else f"{USUAL_MFU:g} (assumed)"
    advice = "" if given else '; nothing is measured: give ARGS="tflops=… mfu=…" of your GPUs'
    value = 1e12 * (options.tflops or A100_BF16) * (options.mfu or USUAL_MFU)
    return PlannedSpeed(lambda task: value, f"peak {peak} TFLOP/s × MFU {mfu}{advice}")


def _measured(estimates: "Estimates", cells: Sequence[Cell]) -> PlannedSpeed:
    """Speed measured on one block of the model of the cell with the most work."""
    from regvit_lightning.runtime import hardware

    cell = max(cells, key=lambda cell: estimates.estimate(cell).flops)
    backbone, (work, settings) = estimates.shape(cell.model), estimates.work(cell)
    images = max(work.passes, key=lambda images: flops(backbone, images))
    value = block_speed(shape_of(backbone, images), settings.device_batch)
    words = f"{value / 1e9:,.0f} GFLOP/s, measured on one block of {cell.model} here ({hardware.device_name()})"
    return PlannedSpeed(lambda task: value, words)


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("plan", DESCRIPTION, Plan, main)


if __name__ == "__main__":
    cli()
