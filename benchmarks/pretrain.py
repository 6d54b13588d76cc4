"""Pretrain a register ViT: `python -m benchmarks.pretrain model=vitb_reg16 recipe=deit3 data=full`."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks import command
from benchmarks.data import render
from regvit_lightning.data import layout
from regvit_lightning.settings import setting

DESCRIPTION = """Pretrains a register ViT. Given again, it continues where it stopped, or says that it is done.
Writes <runs>/<data>/<recipe>-<model>/seed<k>/: last.ckpt, log/ (TensorBoard), augmented.png, backbone.safetensors; and
<results>/<data>/curves/<recipe>-<model>.seed<k>.csv: the loss and what else is logged."""


@dataclass
class Pretrain:
    """Settings of the program; the recipe's own settings follow as further words."""

    model: str = setting("vit{n,t,s,b,l,h,g}[patch]_reg<N>, as vitb_reg16 or vitl14_reg4")
    recipe: str = setting("a file of configs/recipes", "deit3")
    data: str = setting("a file of configs/data, or a folder with train/<class>/<image>", "mini")
    variant: str = setting("overlay of the recipe; 'auto' takes the data's own", "auto")
    seed: int = setting("of everything drawn", 0)
    devices: int = setting("devices of each machine to train on", 1)
    nodes: int = setting("machines with so many devices each", 1)
    runs: str = setting("folder of the runs", "runs")
    results: str = setting("folder of the results", "results")
    force: bool = setting("begin anew, whatever the folder holds", False)


def main(options: Pretrain, words: list[str]) -> None:
    """Run the program."""
    from benchmarks import progress
    from regvit_lightning import atomic, settings, vit
    from regvit_lightning.pretrain import fit
    from regvit_lightning.pretrain.curve import Curve

    data = layout.resolve(options.data)
    variant = data.variant if options.variant == "auto" else options.variant
    _, recipe = settings.load("recipes", options.recipe, variant, words, command.keys(Pretrain))
    name = f"{options.recipe}-{options.model}"
    folder = Path(options.runs) / data.name / name / f"seed{options.seed}"
    run = fit.Run(options.model, options.recipe, recipe, data, options.seed, folder, options.devices, options.nodes)
    if fit.finished(run) and not options.force:
        print(f"pretrain: {name} (seed {options.seed}) is done: {folder}/backbone.safetensors")
        return
    vit.parse_name(options.model)
    render(data)
    progress.quiet()
    curve = Path(options.results) / data.name / "curves" / f"{name}.seed{options.seed}.csv"
    atomic.check_writable(curve)
    exported = fit.fit(run, [progress.Progress(f"pretrain {name}"), Curve(curve)], options.force)
    unreadable = folder / "unreadable.txt"
    if unreadable.exists():
        count = len(unreadable.read_text().splitlines())
        print(f"pretrain: {count} unreadable images were replaced by others; they are listed in {unreadable}")
    print(f"pretrain: weights in {exported}; curve in {curve}; more curves: tensorboard --logdir {folder}/log")


def cli() -> None:
    """Run the program with the words of the command line."""
    command.run("pretrain", DESCRIPTION, Pretrain, main, group="recipes")


if __name__ == "__main__":
    cli()
