"""Make or check a data set: `python -m benchmarks.data data=mini`."""

import os
from dataclasses import dataclass
from pathlib import Path

from benchmarks import command
from regvit_lightning import atomic
from regvit_lightning.data import layout
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.errors import UserError
from regvit_lightning.settings import setting

DESCRIPTION = """Renders the mini data set (finishing a half-written one) with a contact sheet beside it, or checks the
data sets that a YAML of configs/data counts, or that a folder holds: what is whole, and what exactly is missing."""

SHEET_SCENES = 6


@dataclass
class Data:
    """Settings of the program."""

    data: str = setting("a file of configs/data, or a folder with train/ and val/ class folders", "mini")
    workers: int = setting("rendering processes; 0 takes one per core", 0)


def main(options: Data, words: list[str]) -> None:
    """Run the program."""
    data = layout.resolve(options.data)
    render(data, options.workers)
    missing: list[str] = []
    for name in _wanted(data):
        try:
            print(f"data: {name} in {data.root} is whole: {CHECKS[name](data)}")
        except DataError as error:
            missing.append(f"{name}: {error}")
    if missing:
        raise UserError(f"{len(missing)} of {len(_wanted(data))} data sets are not whole\n  " + "\n  ".join(missing))


def _wanted(data: DataSettings) -> list[str]:
    """The data sets that must be there: those that are counted, or else those whose folder is there."""
    if data.counts:
        return [name for name in CHECKS if name in data.counts]
    folders = {
        "imagenet": Path(data.imagenet, "train"),
        "segmentation": Path(data.segmentation.images[0]),
        "depth": Path(data.depth.mat or data.depth.lists[0]),
    }
    present = [name for name, path in folders.items() if Path(data.root, path).exists()]
    return present or ["imagenet"]


def _imagenet(data: DataSettings) -> str:
    from regvit_lightning.data.imagenet import test_files, train_files

    train, test = train_files(data), test_files(data)
    return f"{len(train):,} train and {len(test):,} test images of {len(train.classes):,} classes"


def _imagenet22k(data: DataSettings) -> str:
    from regvit_lightning.data.imagenet import train_files

    train = train_files(data, "imagenet22k")
    return f"{len(train):,} train images of {len(train.classes):,} classes"


def _segmentation(data: DataSettings) -> str:
    from regvit_lightning.data.ade20k import test_images, train_images

    train, test = len(train_images(data, ())), len(test_images(data, ()))
    return f"{train:,} train and {test:,} test images with masks of {data.segmentation.classes} classes"


def _depth(data: DataSettings) -> str:
    from regvit_lightning.data.nyu import test_pairs, train_pairs

    return f"{len(train_pairs(data)):,} train and {len(test_pairs(data)):,} test images with depth"


CHECKS = {"imagenet": _imagenet, "imagenet22k": _imagenet22k, "segmentation": _segmentation, "depth": _depth}


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
