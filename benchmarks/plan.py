"""What a grid takes before anything of it is run: `python -m benchmarks.plan grid=paper data=full gpus=64`."""

from collections import Counter
from dataclasses import dataclass
from functools import partial

from benchmarks import command
from benchmarks.grid import cells as grids
from benchmarks.tables import markdown
from regvit_lightning.errors import UserError
from regvit_lightning.settings import check, check_at_least, setting

DESCRIPTION = """Prints every cell of a grid with its FLOPs, memory and hours, the sum of GPU-hours, and how long the
grid takes on so many GPUs, the pretrainings included; runs nothing. Speed is measured by the cells of this grid that
have run, or comes from tflops= and mfu=. Only the products of the backbone's blocks are counted: a cell that waits for
its images or its heads takes longer."""


@dataclass
class Plan(grids.Chosen):
    """Settings of the program."""

    pretrain: bool = setting("the pretraining of the models is part of the grid", True)
    gpus: int = setting("how many", 1)
    tflops: float = setting("peak of one GPU in 10^12 FLOP/s; 0 takes the measured speed, or 312, an A100 in bf16", 0.0)
    mfu: float = setting("share of the peak that is reached; 0 takes 0.35", 0.0)
    pairs: int = setting("image-text pairs, where they cannot be counted; 0 counts them", 0)


A100_BF16 = 312.0  # NVIDIA's data sheet, dense
USUAL_MFU = 0.35


@dataclass(frozen=True)
class PlanRow:
    """One cell of a plan.

    Attributes:
        flops: in all.
        mib: on each device.
        seconds: on all of its devices together.
        measured: the seconds were, in an earlier run.
    """

    name: str
    devices: int
    flops: float
    mib: float
    seconds: float
    measured: bool

    def shown(self) -> list[str]:
        """The columns of the table."""
        hours = f"{self.seconds / 3600:.3g}{' (measured)' if self.measured else ''}"
        return [self.name, str(self.devices), f"{self.flops:.3g}", f"{self.mib / 1024:.1f}", hours]


def main(options: Plan, words: list[str]) -> None:
    """Run the program."""
    from benchmarks.grid import queueing
    from benchmarks.grid.estimates import Estimates

    check_at_least(options, 1, "gpus")
    check(0 <= options.mfu <= 1, f"mfu={options.mfu}: must lie in [0, 1]")
    check(options.tflops >= 0, f"tflops={options.tflops}: must not be negative")
    grid = grids.build(options)
    estimates = Estimates(grid, {"pairs": options.pairs} if options.pairs else {})
    given = options.tflops > 0 or options.mfu > 0
    speed = partial(_given_speed, options) if given or not estimates.speed() else estimates.speed
    rows, unknown = [], Counter[str]()
    for cell in grid.cells:
        try:
            found = estimates.estimate(cell)
        except UserError as error:
            unknown[str(error)] += 1
            continue
        measured = 0.0 if given else estimates.measured(cell)
        devices = grid.devices(cell)
        seconds = measured or found.flops / speed(cell.task) / devices
        rows.append((cell, PlanRow(cell.name, devices, found.flops, found.mib, seconds, bool(measured))))
    jobs = [
        queueing.LocalJob(
            row.name, [], grid.base(cell), row.devices, cell.needs.name if cell.needs else "", row.seconds
        )
        for cell, row in rows
    ]
    table = [["cell", "GPUs", "FLOPs", "GiB", "hours"], *(row.shown() for _, row in rows)]
    print(f"plan: grid {options.grid}, data {options.data}: {len(grid.cells)} cells, nothing is run\n")
    if rows:
        print(markdown.table(table))
    total = sum(row.devices * row.seconds for _, row in rows) / 3600
    span = queueing.makespan(jobs, options.gpus) / 3600
    print(f"\nGPU-hours: {total:,.2f}\nHours on {options.gpus} GPUs, longest cells first: {span:,.2f}")
    print(f"Speed: {_speed_in_words(options, given or not estimates.speed())}")
    for line in grid.left_out:
        print(f"Left out: {line}")
    if unknown:
        lines = "\n  ".join(f"{count} cells: {line}" for line, count in unknown.items())
        raise UserError(f"not in the sums are\n  {lines}")


def _given_speed(options: Plan, task: str) -> float:
    """FLOP/s of one GPU."""
    return 1e12 * (options.tflops or A100_BF16) * (options.mfu or USUAL_MFU)


def _speed_in_words(options: Plan, given: bool) -> str:
    if not given:
        return "measured FLOP/s of the cells that have run, by task where it has"
    peak = f"{options.tflops:g}" if options.tflops else f"{A100_BF16:g} (assumed: A100, bf16)"
    mfu = f"{options.mfu:g}" if options.mfu else f"{USUAL_MFU:g} (assumed)"
    return f"peak {peak} TFLOP/s × MFU {mfu}"


def cli() -> None:
    """Run the program with the words of the command line."""
    command.run("plan", DESCRIPTION, Plan, main)


if __name__ == "__main__":
    cli()
