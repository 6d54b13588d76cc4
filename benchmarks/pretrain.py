"""Pretrain a register ViT: `python -m benchmarks.pretrain model=vitb_reg16 recipe=deit3 data=full`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import command
from benchmarks.data import render
from regvit_lightning.data import layout
from regvit_lightning.settings import setting

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback

    from regvit_lightning.pretrain.fit import Run

DESCRIPTION = """Pretrains a register ViT. Given again, it continues where it stopped, or says that it is done.
Writes <runs>/<data>/<recipe>-<model>/seed<k>/: last.ckpt, log/ (TensorBoard), augmented.png, norms.csv and norms.png
(norms of every block against the step), backbone.safetensors."""


@dataclass
class Pretrain:
    """Settings of the program; the recipe's own settings follow as further words."""

    model: str = setting("vit{n,t,s,b,l,h,g}[patch]_reg<N>, as vitb_reg16 or vitl14_reg4")
    recipe: str = setting("a file of configs/recipes", "deit3")
    data: str = setting("a file of configs/data, or a folder with train/<class>/<image>", "mini")
    variant: str = setting("overlay of the recipe; 'auto' takes the data's own", "auto")
    seed: int = setting("of everything drawn", 0)
    devices: int = setting("devices of this machine to train on", 1)
    runs: str = setting("folder of the runs", "runs")
    force: bool = setting("begin anew, whatever the folder holds", False)


def main(options: Pretrain, words: list[str]) -> None:
    """Run the program."""
    from benchmarks import progress
    from regvit_lightning import settings, vit
    from regvit_lightning.pretrain import fit

    data = layout.resolve(options.data)
    variant = data.variant if options.variant == "auto" else options.variant
    _, recipe = settings.load("recipes", options.recipe, variant, words, command.keys(Pretrain))
    name = f"{options.recipe}-{options.model}"
    folder = Path(options.runs) / data.name / name / f"seed{options.seed}"
    run = fit.Run(options.model, options.recipe, recipe, data, options.seed, folder, options.devices)
    if fit.finished(run) and not options.force:
        print(f"pretrain: {name} (seed {options.seed}) is done: {folder}/backbone.safetensors")
        return
    vit.parse_name(options.model)
    render(data)
    progress.quiet()
    exported = fit.fit(run, [progress.Progress(f"pretrain {name}"), *_watching(run)], options.force)
    unreadable = folder / "unreadable.txt"
    if unreadable.exists():
        count = len(unreadable.read_text().splitlines())
        print(f"pretrain: {count} unreadable images were replaced by others; they are listed in {unreadable}")
    print(f"pretrain: weights in {exported}; curves: tensorboard --logdir {folder}/log")


def _watching(run: "Run") -> list["Callback"]:
    """The callback that measures norms, if the recipe asks for it."""
    from regvit_lightning.artifacts.callback import NormsDuringTraining, fixed_images
    from regvit_lightning.artifacts.outliers import Rules
    from regvit_lightning.pretrain import fit

    if not run.settings.norms_every:
        return []
    files = fit.recipe_class(run.settings).files(run.settings, run.data)
    images = fixed_images(files, run.settings.image_size)
    return [NormsDuringTraining(images, run.folder, run.settings.norms_every, Rules())]


def cli() -> None:
    """Run the program with the words of the command line."""
    command.run("pretrain", DESCRIPTION, Pretrain, main, group="recipes")


if __name__ == "__main__":
    cli()
