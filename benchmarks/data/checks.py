"""Checks that count the images of each data set, by name and split."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from regvit_lightning.data.layout import DataError, DataSettings

Check = Callable[[DataSettings], int]


def _imagenet_train(data: DataSettings) -> int:
    from regvit_lightning.data.imagenet import train_files

    return len(train_files(data))


def _imagenet_val(data: DataSettings) -> int:
    from regvit_lightning.data.imagenet import test_files

    return len(test_files(data))


def _imagenet22k(data: DataSettings) -> int:
    from regvit_lightning.data.imagenet import training_images

    return len(training_images(data, "imagenet22k"))


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


def _videos(name: str, data: DataSettings) -> int:
    from regvit_lightning.data.videos import videos

    return sum(len(video.frames) for video in videos(data, name))


def _salient(name: str, data: DataSettings) -> int:
    from regvit_lightning.data.salient import salient_images

    return len(salient_images(data, name).images)


def _shifted(name: str, data: DataSettings) -> int:
    from regvit_lightning.data.imagenet import class_folders
    from regvit_lightning.data.shifted import shifted_images

    val = Path(data.root, data.imagenet, "val")
    if not val.is_dir():
        raise DataError(f"no folder {val}: expected the class folders that tell the classes of {name}; {data.get}")
    return len(shifted_images(data, name, list(class_folders(val))).files)


def _classified(name: str, data: DataSettings) -> int:
    from regvit_lightning.data.classified import classified_images

    return sum(len(split) for split in classified_images(data, name).splits())


def _keypoints(name: str, data: DataSettings) -> int:
    from regvit_lightning.data.keypoints import keypoint_pairs

    return len(keypoint_pairs(data, name))


def _retrieval(name: str, data: DataSettings) -> int:
    from regvit_lightning.data.retrieval import landmarks

    return len(landmarks(data, name))


def _masked(name: str, number: int, data: DataSettings) -> int:
    from regvit_lightning.data.ade20k import masked_pairs

    return len(masked_pairs(data, name, number))


CHECKS: dict[str, Check] = {
    "imagenet train": _imagenet_train,
    "imagenet val": _imagenet_val,
    "imagenet22k train": _imagenet22k,
    "pairs train": _pairs,
    "segmentation train": _segmentation_train,
    "segmentation test": _segmentation_test,
    "depth train": _depth_train,
    "depth test": _depth_test,
}


def checks_of(data: DataSettings) -> dict[str, Check]:
    """All checks by name and split, those of named sets too."""
    boxed = {f"{name} trainval": partial(_discovery, name) for name in data.discovery}
    splits = enumerate(("train", "test"))
    masked = {f"{name} {split}": partial(_masked, name, number) for number, split in splits for name in data.masked}
    films = {f"{name} frames": partial(_videos, name) for name in data.videos}
    pairs = {f"{name} pairs": partial(_keypoints, name) for name in data.keypoints}
    salient = {f"{name} images": partial(_salient, name) for name in data.salient}
    shifted = {f"{name} images": partial(_shifted, name) for name in data.shifted}
    classified = {f"{name} images": partial(_classified, name) for name in data.classified}
    found = {f"{name} queries and images": partial(_retrieval, name) for name in data.retrieval}
    return {**CHECKS, **boxed, **masked, **films, **pairs, **salient, **shifted, **classified, **found}
