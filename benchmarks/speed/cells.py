"""(q) Whole cells of a ViT-B at the sizes of the protocols, over the forward passes that they make.

A part of the rendered images is enough: what a cell does beside its forward passes grows with their number. Each cell
takes a minute or two on two CPU cores.
"""

import dataclasses
import os
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.speed.timing import Measurement, timed_cell
from regvit_lightning import settings
from regvit_lightning.data import mmsegmentation
from regvit_lightning.data.layout import DataSettings

MODEL = "vitb_reg4"
PER_CLASS = 8, 4  # train and test images of each of 16 classes
MASKED, DEEP, BOXED = (8, 12), (8, 12), 24  # train and test images; all of them
LARGER = 3  # times the rendered images with boxes, of about 165 px: the size of VOC's
NO_OTHER_SETS: dict[str, Any] = {name: {} for name in ("discovery", "videos", "keypoints", "masked", "salient")}
VOC = Path("VOCdevkit/VOC2007")


@dataclass(frozen=True)
class Cell:
    """A task at its protocol's sizes.

    Attributes:
        task, words: the task, and settings with which it takes a minute.
        shown: size of its images, for the row.
        target: largest ratio.
    """

    task: str
    words: tuple[str, ...]
    shown: str
    target: float


FEW = ("device_batch=8", "workers=1")
TRAINED = (*FEW, "steps=6", "batch_size=4", "warmup_steps=1")
CELLS = (
    Cell("imagenet_knn", (*FEW, "neighbours=[5,10,20]"), "224 px", 1.15),
    Cell("imagenet_linear", (*FEW, "steps=12", "batch_size=16"), "224 px", 1.15),
    Cell("lost_voc07", FEW, "about 500 px", 1.15),
    Cell("tokencut_voc07", FEW, "about 500 px", 1.15),
    Cell("hummingbird_ade20k", (*FEW, "size=512"), "512 px", 1.15),
    Cell("ade20k_linear", TRAINED, "512 px", 1.3),
    Cell("nyud_linear1", TRAINED, "416 × 544 and 480 × 640 px", 1.3),
)


def rows(data: DataSettings, cells: tuple[Cell, ...] = CELLS, model: str = MODEL) -> Iterator[Measurement]:
    """Rows of the cells, on a part of the rendered data."""
    with tempfile.TemporaryDirectory() as folder:
        part = a_part(data, Path(folder))
        for cell in cells:
            yield measured(cell, part, model)


def measured(cell: Cell, data: DataSettings, model: str) -> Measurement:
    """Time of a cell, with floors, intervals and pictures, over the forward passes that it makes."""
    from regvit_lightning.models import sources

    mmsegmentation.prepare()  # importing it takes seconds, once in a process
    module, chosen = settings.load_settings("tasks", cell.task, words=list(cell.words))
    backbone = sources.load_backbone(f"random-{model}", Path("runs"), image_size=chosen.untrained_size)
    found = timed_cell(module, backbone, data, chosen)
    parts = f"{found.whole:.1f} s whole, {found.alone:.1f} s forward of {found.images:,} images, crops or windows"
    name = f"(q) {cell.task} cell / forward, {model}, {cell.shown}"
    return Measurement(name, found.ratio, f"≤ {cell.target:g}", parts)


# -------------------------------------------------------------------------------------------------------- images


def a_part(data: DataSettings, folder: Path) -> DataSettings:
    """The rendered data with few images in `folder`: links, shortened lists, and enlarged images with boxes."""
    root = Path(data.root).absolute()
    for split, count in zip(("train", "val"), PER_CLASS, strict=True):
        for name in sorted(os.listdir(root / data.imagenet / split)):
            _link_some(root, folder, Path(data.imagenet, split, name), count)
    for number, count in enumerate(MASKED):
        _link_some(root, folder, Path(data.segmentation.images[number]), count)
        _link_some(root, folder, Path(data.segmentation.masks[number]), count)
    for number, count in enumerate(DEEP):
        lines = (root / data.depth.lists[number]).read_text(encoding="utf-8").splitlines(keepends=True)
        _write(folder / data.depth.lists[number], "".join(lines[:count]))
        (folder / data.depth.folders[number]).parent.mkdir(parents=True, exist_ok=True)
        (folder / data.depth.folders[number]).symlink_to(root / data.depth.folders[number])
    _enlarged(root / VOC, folder / VOC)
    return dataclasses.replace(data, root=str(folder), rendered=False, counts={}, **NO_OTHER_SETS)


def _link_some(root: Path, folder: Path, below: Path, count: int) -> None:
    (folder / below).mkdir(parents=True)
    for name in sorted(os.listdir(root / below))[:count]:
        (folder / below / name).symlink_to(root / below / name)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _enlarged(voc: Path, folder: Path) -> None:
    """The first images of trainval with their boxes, both `LARGER` times as large."""
    names = (voc / "ImageSets/Main/trainval.txt").read_text(encoding="utf-8").split()[:BOXED]
    _write(folder / "ImageSets/Main/trainval.txt", "\n".join(names) + "\n")
    (folder / "JPEGImages").mkdir()
    for name in names:
        with Image.open(voc / "JPEGImages" / f"{name}.jpg") as image:
            larger = image.resize((LARGER * image.width, LARGER * image.height), Image.Resampling.BICUBIC)
        larger.save(folder / "JPEGImages" / f"{name}.jpg", quality=90)
        tree = ElementTree.parse(voc / "Annotations" / f"{name}.xml")
        for tag, first in {"width": 0, "height": 0, "xmin": 1, "ymin": 1, "xmax": 0, "ymax": 0}.items():
            for element in tree.iter(tag):  # VOC counts pixels from 1
                element.text = str(LARGER * (int(element.text or "") - first) + first)
        _write(folder / "Annotations" / f"{name}.xml", ElementTree.tostring(tree.getroot(), encoding="unicode"))
