"""Make or check a data set: `python -m benchmarks.data data=mini`."""

import os
from dataclasses import dataclass
from pathlib import Path

from benchmarks import command
from regvit_lightning import atomic
from regvit_lightning.data import layout
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.settings import setting

DESCRIPTION = """Renders the mini data set (finishing a half-written one) with a contact sheet beside it, or checks that
another data set is whole and says what is missing."""

SHEET_SCENES = 6


@dataclass
class Data:
    """Settings of the program."""

    data: str = setting("a file of configs/data, or a folder with train/ and val/ class folders", "mini")
    workers: int = setting("rendering processes; 0 takes one per core", 0)


def main(options: Data, words: list[str]) -> None:
    """Run the program."""
    from regvit_lightning.data.imagenet import test_files, train_files

    data = layout.resolve(options.data)
    render(data, options.workers)
    train, test = train_files(data), test_files(data)
    print(
        f"data: {data.name} in {data.root} is whole: {len(train):,} train and {len(test):,} test images "
        f"of {len(train.classes):,} classes"
    )


def render(data: DataSettings, workers: int = 0) -> None:
    """Render the data, or finish it, where this machine renders it; nothing else needs to be done."""
    if not data.rendered:
        return
    from benchmarks.progress import Counter
    from regvit_lightning.data import mini

    root, settings = Path(data.root), mini.MiniSettings()
    if mini.is_complete(root, settings):
        return
    counter = None
    for done, total in mini.write(root, settings, workers or os.cpu_count() or 1):
        counter = counter or Counter(f"rendering {root}", total, "img", done)
        counter.update(done)
    if counter:
        counter.close()
    sheet = root / "contact_sheet.png"
    atomic.write(sheet, lambda temporary: _sheet().savefig(temporary, format="png"))
    print(f"data: contact sheet in {sheet}")


def _sheet():  # type: ignore[no-untyped-def]  # matplotlib is imported where it is used
    import numpy as np

    from regvit_lightning import figures
    from regvit_lightning.data.scenes import render, sample_scene

    scenes = (sample_scene(np.random.default_rng([0, index]), 320, 240) for index in range(SHEET_SCENES))
    return figures.contact_sheet([render(scene) for scene in scenes])


def cli() -> None:
    """Run the program with the words of the command line."""
    command.run("data", DESCRIPTION, Data, main)


if __name__ == "__main__":
    cli()
