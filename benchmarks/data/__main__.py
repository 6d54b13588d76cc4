"""Render, download or check data sets: `python -m benchmarks.data data=mini`."""

import glob
import os
from dataclasses import dataclass
from pathlib import Path

from benchmarks import command
from benchmarks.data.checks import checks_of
from benchmarks.data.rendering import render
from regvit_lightning import settings
from regvit_lightning.data import layout
from regvit_lightning.data.classified_set import ClassifiedSet
from regvit_lightning.data.image_sets import ALL, BoxedSet
from regvit_lightning.data.layout import DataError, DataSettings, published_classified
from regvit_lightning.errors import UserError
from regvit_lightning.settings import setting

DESCRIPTION = """Renders the mini data set (finishing a half-written one) with a contact sheet beside it, or checks the
data sets that a YAML of configs/data counts, or that a folder holds: what is whole, and what exactly is missing.
With get=<names of configs/downloads> it downloads those data sets, or prepares them from archives that are there."""


@dataclass
class Data:
    """Settings of the program."""

    data: str = setting("a file of configs/data, or a folder with train/ and val/ class folders", "mini")
    get: str = setting("data sets to download or prepare, with commas: files of configs/downloads, or all", "")
    archives: str = setting("folder of the archives; '' takes <root>/archives", "")
    workers: int = setting("rendering processes; 0 takes one per core", 0, within="[0, 256]")


def main(options: Data, words: list[str]) -> None:
    """Run the program."""
    names = [name.strip() for name in options.get.split(",")]
    data = layout.resolve(names[0] if _is_own(names, options.data) else options.data)
    if options.get:
        from benchmarks.data.obtain import obtain

        folder = Path(options.archives) if options.archives else Path(data.root, "archives")
        obtain(names, data, folder, checks_of(data))
        return
    render(data, options.workers)
    missing: list[str] = []
    wanted = _wanted(data)
    for name, check in checks_of(data).items():
        if name.split()[0] in wanted:
            try:
                print(f"data: {name} in {data.root} is whole: {check(data):,} images")
            except DataError as error:
                missing.append(f"{name}: {error}")
    if missing:
        raise UserError("not whole\n  " + "\n  ".join(missing))


def _is_own(names: list[str], data: str) -> bool:
    """Whether what is to be got is a collection of its own, such as `photos`, and no other was named."""
    return len(names) == 1 and names[0] in settings.names("data") and data == Data.data


def _wanted(data: DataSettings) -> list[str]:
    """Names of the data sets to check: those with expected counts, or else those whose folder exists."""
    there = data.pairs and glob.glob(os.path.join(glob.escape(data.root), data.pairs))
    pairs = ["pairs"] if there else []  # optional: the paper's are not public
    others = {name: one.frames for name, one in data.videos.items()}  # not in the paper
    others |= {name: (one.lists or one.masks)[0] for name, one in data.masked.items()}
    others |= {name: one.names or one.masks for name, one in data.salient.items()}
    others |= {name: one.folder for name, one in data.keypoints.items()}
    others |= {name: one.labels or one.folder for name, one in data.shifted.items() if one.labels or one.folder}
    others |= {name: one.folder for name, one in data.retrieval.items()}
    others |= {name: _list_of(one) for name, one in data.classified.items()}
    optional = [name for name, path in others.items() if Path(data.root, path).exists()]
    if not Path(data.root, data.imagenet, "val").exists():  # whose folders tell the classes of shifted images
        optional = [name for name in optional if name not in data.shifted]
    if data.rendered:  # its folder of the name `imagenet` is not that of a published set
        optional = [name for name in optional if name not in published_classified()]
    if data.counts:
        return [*(name for name in data.counts if name not in others), *pairs, *optional]
    folders = {
        "imagenet": Path(data.imagenet, "train"),
        "segmentation": Path(data.segmentation.images[0]),
        "depth": Path(data.depth.mat or data.depth.lists[0]),
        **{name: _first_of(boxed_set) for name, boxed_set in data.discovery.items()},
    }
    folders_there = [name for name, path in folders.items() if Path(data.root, path).exists()]
    return [*folders_there, *optional, *pairs] or ["imagenet"]


def _list_of(one: ClassifiedSet) -> str:
    """Path that tells a set of images with classes; of VOC the list of test images, as boxes may be all there is."""
    return f"{one.folder}/ImageSets/Main/{one.splits[-1]}.txt" if one.layout == "voc" else one.folder


def _first_of(boxed_set: BoxedSet) -> Path:
    """First file read of a data set with boxes: its image list, or its annotations."""
    _, annotations, names = boxed_set.paths()
    return Path(annotations if names == ALL else names)


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("data", DESCRIPTION, Data, main)


if __name__ == "__main__":
    cli()
