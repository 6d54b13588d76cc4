"""Cost of registers in parameters and FLOPs: `python -m benchmarks.cost model=vitb_reg4`."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks import command
from benchmarks.tables import markdown
from regvit_lightning.models import arms
from regvit_lightning.settings import setting
from regvit_lightning.values import texts

DESCRIPTION = """Prints parameters and multiply-adds of a model with 0 to 16 registers (Darcet et al. 2023, fig. 12),
whatever number it has itself, and what its arm adds. Weights are needed only for a model that is given as a file."""


@dataclass
class CostOf:
    """Settings of the program."""

    model: str = setting("as for make eval, or a bare name such as vitb_reg4")
    image_size: int | None = setting("side of the image in pixels; not given, the model's own", None, within="[1, 1e4]")
    runs: str = setting("folder of the runs", "runs", texts.folder)


def main(options: CostOf, words: list[str]) -> None:
    """Run the program."""
    from regvit_lightning.analysis import cost

    backbone = cost.load_shape(options.model, Path(options.runs))
    size = options.image_size or backbone.image_size
    print(f"cost: {options.model} at {size} px, patches of {backbone.patch_size}\n")
    arm = cost.of_arm(backbone, size)
    if arm is not None:
        print(f"arm {arm.arm}: {arms.DESCRIPTIONS[arm.arm]}")
        print(f"  against the plain model with {backbone.num_registers} registers:", end=" ")
        print(f"{arm.parameters:+,} parameters ({arm.more_parameters:+.3f} %),", end=" ")
        print(f"{arm.macs:+,} MACs ({arm.more_macs:+.2f} %)\n")
    rows = [["registers", "parameters", "+ %", "MACs", "+ %"]]
    for row in cost.table(backbone, size):
        counts = str(row.registers), f"{row.parameters:,}", f"{row.macs:,}"
        rows.append([counts[0], counts[1], f"{row.more_parameters:.3f}", counts[2], f"{row.more_macs:.2f}"])
    print(markdown.for_terminal(markdown.table(rows)))


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("cost", DESCRIPTION, CostOf, main)


if __name__ == "__main__":
    cli()
