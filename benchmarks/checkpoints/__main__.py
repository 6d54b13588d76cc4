"""Scores with and without labels over a training: `python -m benchmarks.checkpoints model=deit3-vitn_reg0`."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks import command, terminal
from benchmarks.data.rendering import render
from benchmarks.tables import markdown
from regvit_lightning.data import layout
from regvit_lightning.errors import UserError
from regvit_lightning.invocation import invocation
from regvit_lightning.settings import SEEDS, setting
from regvit_lightning.values import texts

DESCRIPTION = """Measures every backbone that a training kept (pretrain with keep_every=<steps>): RankMe, alpha-ReQ,
LiDAR and DSE without labels, kNN and in-context segmentation with them, and how their ranks agree. Writes
<results>/<data>/checkpoints/<model>.seed<k>: .csv, .md, and a figure as .png, .svg and .pdf. What is measured is kept
beside the backbones: given again, the command measures what is missing."""


@dataclass
class Checkpoints:
    """Settings of the program."""

    model: str = setting("id of a model that was trained here with keep_every")
    data: str = setting("a file of configs/data or a path of one, or a folder with train/ and val/ classes", "mini")
    masks: str = setting("set with masks for the segmentation, as at the end of hummingbird_<set>", "ade20k")
    variant: str = setting("overlay of the tasks; 'auto' takes the data's own", "auto")
    seed: int = setting("of the trained model", 0, within=SEEDS)
    accelerator: str = setting("auto: a GPU where there is one; cpu", "auto")
    runs: str = setting("folder of the runs", "runs", texts.folder)
    results: str = setting("folder of the results", "results", texts.folder)


def main(options: Checkpoints, words: list[str]) -> None:
    """Run the program."""
    from benchmarks import progress
    from benchmarks.checkpoints import measured, page
    from regvit_lightning.figures import over_training, style
    from regvit_lightning.models import names
    from regvit_lightning.pretrain import kept_backbones
    from regvit_lightning.runtime import atomic, hardware

    progress.quiet()
    hardware.choose_accelerator(options.accelerator, 1)
    data = layout.resolve(options.data)
    folder = Path(options.runs) / data.name / options.model / f"seed{options.seed}"
    files = kept_backbones.files(folder)
    if len(files) < measured.LEAST:
        parsed = names.parse_id(options.model)
        own = {"RECIPE": parsed.recipe, "MODEL": parsed.name} if parsed else {"MODEL": "<model>"}
        command_ = invocation("pretrain", own, "keep_every=100")
        raise UserError(
            f"{folder} has kept {len(files)} backbones, at least {measured.LEAST} are needed: {command_}, with the "
            "same data; a finished run needs FORCE=1"
        )
    render(data, 2)
    tasks = measured.tasks(data, options.masks, options.variant, options.seed)
    rows = []
    for step, file in files.items():
        rows.append(measured.row(step, file, tasks, options.seed, [progress.Progress(f"step {step:,}")]))
        terminal.show(f"checkpoints: step {step:,} of {max(files):,}: {page.in_words(rows[-1])}")
    rows = measured.with_dse(rows)
    place = Path(options.results) / data.name / "checkpoints" / f"{options.model}.seed{options.seed}"
    atomic.write_text(place.with_name(f"{place.name}.csv"), page.csv_text(rows))
    content = page.text(options.model, data.name, rows)
    atomic.write_text(
        place.with_name(f"{place.name}.md"), f"{content}\n![Scores over the training]({place.name}.png)\n"
    )
    style.save(over_training.figure([row.step for row in rows], page.curves(rows)), place)
    print(f"\n{markdown.for_terminal(content)}")
    terminal.show(f"checkpoints: {place}.csv, .md, .png, .svg and .pdf")


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("checkpoints", DESCRIPTION, Checkpoints, main)


if __name__ == "__main__":
    cli()
