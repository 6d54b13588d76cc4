"""Where a data set lies: by name from `configs/data/`, or any folder in ImageNet's layout by its path."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from regvit_lightning import settings
from regvit_lightning.errors import UserError
from regvit_lightning.settings import SettingsError

ADE_SPLITS = ("training", "validation")
IGNORED = 255  # class number of pixels without a label, whatever number the masks have for them


class DataError(UserError):
    """A data set that is missing, incomplete or unreadable."""


@dataclass
class Segmentation:
    """Images with a mask of class numbers each; the defaults are ADEChallengeData2016's. Pairs are [train, test].

    Attributes:
        images, masks: folders below root; an image and its mask have the same path but for the suffix.
        lists: files below root that name the images of a split, one a line without suffix; empty takes all images.
        image_suffix, mask_suffix: ends of the file names.
        vocabulary: whose names and colours the classes have: a data set of mmsegmentation (`ade`, `voc`,
            `cityscapes`), `rendered`, or empty for numbers.
        classes: number of classes, without the unlabelled and the ignored.
        zero_is_unlabelled: number 0 in a mask means no label, and class n is number n + 1.
        ignored: number in a mask that is neither trained on nor scored.
    """

    images: list[str] = field(default_factory=lambda: [f"ADEChallengeData2016/images/{split}" for split in ADE_SPLITS])
    masks: list[str] = field(default_factory=lambda: [f"ADEChallengeData2016/annotations/{s}" for s in ADE_SPLITS])
    lists: list[str] = field(default_factory=list)
    image_suffix: str = ".jpg"
    mask_suffix: str = ".png"
    vocabulary: str = "ade"
    classes: int = 150
    zero_is_unlabelled: bool = True
    ignored: int = 255

    def __post_init__(self) -> None:
        for name, folders in (("images", self.images), ("masks", self.masks)):
            settings.check(len(folders) == 2, f"segmentation.{name}: expected [train, test], got {folders}")
        settings.check(len(self.lists) in (0, 2), f"segmentation.lists: expected [train, test], got {self.lists}")
        settings.check(2 <= self.classes <= 254, f"segmentation.classes={self.classes}: must lie in 2..254")


@dataclass
class Depth:
    """Images with a depth map each; the defaults are NYU Depth v2's as BTS lays it out. Pairs are [train, test].

    Attributes:
        lists: files below root with lines `image depth focal`.
        folders: folders below root that the paths in the lists start from.
        mat: the official `nyu_depth_v2_labeled.mat` below root, instead of the lists; empty takes the lists.
        splits: the official `splits.mat` below root, for `mat`.
    """

    lists: list[str] = field(default_factory=lambda: ["nyu/nyu_train.txt", "nyu/nyu_test.txt"])
    folders: list[str] = field(default_factory=lambda: ["nyu/sync", "nyu/official_splits/test"])
    mat: str = ""
    splits: str = ""

    def __post_init__(self) -> None:
        for name, pair in (("lists", self.lists), ("folders", self.folders)):
            settings.check(len(pair) == 2, f"depth.{name}: expected [train, test], got {pair}")
        settings.check(bool(self.mat) == bool(self.splits), "depth: give mat and splits, or neither")


@dataclass
class BoxedSets:
    """Images with boxes around their objects; the defaults are those of the published downloads.

    Attributes:
        voc07, voc12: folders below root with JPEGImages/, Annotations/ and ImageSets/Main/trainval.txt.
        coco20k: below root, the folder that the list starts from, the annotations, and the list of images.
    """

    voc07: str = "VOCdevkit/VOC2007"
    voc12: str = "VOCdevkit/VOC2012"
    coco20k: list[str] = field(
        default_factory=lambda: [
            "coco/images",
            "coco/annotations/instances_train2014.json",
            "coco/coco_20k_filenames.txt",
        ]
    )

    def __post_init__(self) -> None:
        expected = f"discovery.coco20k: expected [images, annotations, list], got {self.coco20k}"
        settings.check(len(self.coco20k) == 3, expected)


@dataclass
class DataSettings:
    """Folders of one collection of data sets; one YAML of `configs/data/` each.

    Attributes:
        name: names the folder of the results, `results/<name>/`.
        root: folder that holds the data sets.
        variant: overlay of recipes and tasks that fits this data (`mini`: `configs/tasks/<task>.mini.yaml`), or empty.
        imagenet: folder below root with `train/<class>/` and `val/<class>/` for the ImageNet evaluations.
        imagenet22k: folder below root with `train/<class>/` for supervised pretraining at large scale.
        pairs: below root, images with captions for training from text: a pattern of tar shards, a table or a folder,
            see `data/pairs.py`; empty where there are none.
        segmentation: images with masks, for the segmentation tasks.
        depth: images with depth maps, for the depth tasks.
        discovery: images with boxes, for object discovery.
        trained_on: name of the data whose `runs/<name>/` hold the trained models; empty for this data.
        rendered: made by `regvit_lightning/data/mini/writer.py` on this machine.
        counts: number of images that the splits must have, [train, test], where it is known; of `imagenet`,
            `imagenet22k`, `segmentation`, `depth`; and [trainval] of `voc07`, `voc12`, `coco20k`, [train] of `pairs`.
        get: what to do when the data is not there; ends the error message.
    """

    name: str = settings.MISSING
    root: str = settings.MISSING
    variant: str = ""
    imagenet: str = "imagenet"
    imagenet22k: str = "imagenet22k"
    pairs: str = ""
    segmentation: Segmentation = field(default_factory=Segmentation)
    depth: Depth = field(default_factory=Depth)
    discovery: BoxedSets = field(default_factory=BoxedSets)
    trained_on: str = ""
    rendered: bool = False
    counts: dict[str, list[int]] = field(default_factory=dict)
    get: str = ""

    def __post_init__(self) -> None:
        settings.check(bool(self.root), f"data '{self.name}': root is empty (give DATA_ROOT=<folder>)")

    def section(self, name: str) -> dict[str, Any]:
        """What decides which images a task reads and what their labels mean.

        Args:
            name: `imagenet`, `segmentation`, `depth` or `discovery`.
        """
        return {"imagenet": self.imagenet} if name == "imagenet" else asdict(getattr(self, name))

    def folder(self, images: str) -> str:
        """The folder below root that holds the data set `images`.

        Raises:
            SettingsError: no such data set.
        """
        folders = {"imagenet": self.imagenet, "imagenet22k": self.imagenet22k}
        settings.check(images in folders, f"images={images}: expected one of {', '.join(folders)}")
        return folders[images]


def check_files(source: Path, files: Sequence[str], get: str) -> None:
    """See that the files that `source` names are there.

    Raises:
        DataError: some are missing; says how many and names the first five.
    """
    missing = [file for file in files if not os.path.exists(file)]
    if missing:
        first = ", ".join(missing[:5])
        raise DataError(f"{source}: {len(missing):,} of {len(files):,} files are missing: {first}; {get}")


def resolve(data: str, root_needed: bool = True) -> DataSettings:
    """The data set called `data`, or the folder of that path, in ImageNet's layout.

    Args:
        data: a name of `configs/data/`, or a folder.
        root_needed: images are read; else a data set whose root nobody has given has the root `DATA_ROOT`.

    Raises:
        SettingsError: neither a name of `configs/data/` nor a folder, or `DATA_ROOT` is needed and not set.
    """
    if data in settings.names("data"):
        files = settings.find("data", data)
        try:
            return settings.build(DataSettings, files)
        except SettingsError:
            if root_needed:
                raise
            return settings.build(DataSettings, files, ["root=DATA_ROOT"])
    folder = Path(data)
    if not folder.is_dir():
        hint = settings.nearest(data, settings.names("data"))
        raise SettingsError(f"data '{data}' is neither a folder nor a name of configs/data; {hint}")
    get = (
        "a folder given by path needs train/<class>/<image> and val/<class>/<image> for the ImageNet tasks, "
        "ADEChallengeData2016/ for segmentation, nyu/ for depth, VOCdevkit/ or coco/ for object discovery, "
        "pairs/*.tar for training from captions"
    )
    name, pairs = folder.resolve().name, "pairs/*.tar"
    return DataSettings(name=name, root=data, imagenet=".", imagenet22k=".", pairs=pairs, get=get)
