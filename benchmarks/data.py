"""Make or check a data set: `python -m benchmarks.data data=mini`."""

import glob
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import command
from regvit_lightning import atomic
from regvit_lightning.data import layout
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.errors import UserError
from regvit_lightning.settings import setting

DESCRIPTION = """Renders the mini data set (finishing a half-written one) with a contact sheet beside it, or checks the
data sets that a YAML of configs/data counts, or that a folder holds: what is whole, and what exactly is missing.
With get=<names of configs/downloads> it downloads those data sets, or prepares them from archives that are there."""

SHEET_SCENES = 6


@dataclass
class Data:
    """Settings of the program."""

    data: str = setting("a file of configs/data, or a folder with train/ and val/ class folders", "mini")
    get: str = setting("data sets to download or prepare, with commas: files of configs/downloads, or all", "")
    archives: str = setting("folder of the archives; '' takes <root>/archives", "")
    workers: int = setting("rendering processes; 0 takes one per core", 0)


def main(options: Data, words: list[str]) -> None:
    """Run the program."""
    data = layout.resolve(options.data)
    if options.get:
        from benchmarks.obtain import obtain

        folder = Path(options.archives) if options.archives else Path(data.root, "archives")
        obtain([name.strip() for name in options.get.split(",")], data, folder, CHECKS)
        return
    render(data, options.workers)
    missing: list[str] = []
    wanted = _wanted(data)
    for name, check in CHECKS.items():
        if name.split()[0] in wanted:
            try:
                print(f"data: {name} in {data.root} is whole: {check(data):,} images")
            except DataError as error:
                missing.append(f"{name}: {error}")
    if missing:
        raise UserError("not whole\n  " + "\n  ".join(missing))


def _wanted(data: DataSettings) -> list[str]:
    """The data sets that must be there: those that are counted, or else those whose folder is there."""
    there = data.pairs and glob.glob(os.path.join(glob.escape(data.root), data.pairs))
    pairs = ["pairs"] if there else []  # nobody must have them: the paper's are not public
    if data.counts:
        return [*data.counts, *pairs]
    folders = {
        "imagenet": Path(data.imagenet, "train"),
        "segmentation": Path(data.segmentation.images[0]),
        "depth": Path(data.depth.mat or data.depth.lists[0]),
        "voc07": Path(data.discovery.voc07, "ImageSets", "Main", "trainval.txt"),
        "voc12": Path(data.discovery.voc12, "ImageSets", "Main", "trainval.txt"),
        "coco20k": Path(data.discovery.coco20k[2]),
    }
    return [name for name, path in folders.items() if Path(data.root, path).exists()] + pairs or ["imagenet"]


def _imagenet_train(data: DataSettings) -> int:
    from regvit_lightning.data.imagenet import train_files

    return len(train_files(data))


def _imagenet_val(data: DataSettings) -> int:
    from regvit_lightning.data.imagenet import test_files

    return len(test_files(data))


def _imagenet22k(data: DataSettings) -> int:
    from regvit_lightning.data.imagenet import train_files

    return len(train_files(data, "imagenet22k"))


def _pairs(data: DataSettings) -> int:
    from regvit_lightning.data.pairs import train_pairs

    return len(train_pairs(data))


def _segmentation_train(data: DataSettings) -> int:
    from regvit_lightning.data.ade20k import train_images

    return len(train_images(data, ()))


def _segmentation_test(data: DataSettings) -> int:
    from regvit_lightning.data.ade20k import test_images

    return len(test_images(data, ()))


def _depth_train(data: DataSettings) -> int:
    from regvit_lightning.data.nyu import train_pairs

    return len(train_pairs(data))


def _depth_test(data: DataSettings) -> int:
    from regvit_lightning.data.nyu import test_pairs

    return len(test_pairs(data))


def _discovery(name: str, data: DataSettings) -> int:
    from regvit_lightning.data.discovery import boxed_images

    return len(boxed_images(data, name))


CHECKS: dict[str, Callable[[DataSettings], int]] = {
    "imagenet train": _imagenet_train,
    "imagenet val": _imagenet_val,
    "imagenet22k train": _imagenet22k,
    "pairs train": _pairs,
    "segmentation train": _segmentation_train,
    "segmentation test": _segmentation_test,
    "depth train": _depth_train,
    "depth test": _depth_test,
    **{f"{name} trainval": partial(_discovery, name) for name in ("voc07", "voc12", "coco20k")},
}


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
