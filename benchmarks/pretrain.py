"""Pretrain a register ViT: `python -m benchmarks.pretrain model=vitb_reg16 recipe=deit3 data=full`."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks import command
from regvit_lightning.settings import setting

DESCRIPTION = """Pretrains a register ViT. Given again, it continues where it stopped, or says that it is done.
Writes <runs>/<data>/<recipe>-<model>/seed<k>/: last.ckpt, log/ (TensorBoard), augmented.png, backbone.safetensors."""


@dataclass
class Pretrain:
    """Settings of the program; the recipe's own settings follow as further words."""

    model: str = setting("vit{n,t,s,b,l,h,g}[patch]_reg<N>, as vitb_reg16 or vitl14_reg4")
    recipe: str = setting("a file of configs/recipes", "deit3")
    data: str = setting("a file of configs/data, or a folder with train/ and val/ class folders", "mini")
    variant: str = setting("overlay of the recipe; 'auto' takes the data's own", "auto")
    seed: int = setting("of everything drawn", 0)
    devices: int = setting("devices of this machine to train on", 1)
    runs: str = setting("folder of the runs", "runs")
    force: bool = setting("begin anew, whatever the folder holds", False)


def main(options: Pretrain, words: list[str]) -> None:
    """Run the program."""
    from benchmarks import progress
    from regvit_lightning.data import layout
    from regvit_lightning.pretrain import fit

    data = layout.resolve(options.data)
    variant = data.variant if options.variant == "auto" else options.variant
    recipe = fit.load_recipe(options.recipe, variant, words, command.keys(Pretrain))
    name = f"{options.recipe}-{options.model}"
    folder = Path(options.runs) / data.name / name / f"seed{options.seed}"
    run = fit.Run(options.model, options.recipe, recipe, data, options.seed, folder, options.devices)
    if fit.finished(run) and not options.force:
        print(f"pretrain: {name} (seed {options.seed}) is done: {folder}/backbone.safetensors")
        return
    progress.quiet()
    exported = fit.fit(run, [progress.Progress(f"pretrain {name}", recipe.batch_size)], options.force)
    print(f"pretrain: weights in {exported}; curves: tensorboard --logdir {folder}/log")


if __name__ == "__main__":
    command.run("pretrain", DESCRIPTION, Pretrain, main, group="recipes")
