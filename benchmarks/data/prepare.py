"""Convert archives into the layout that is read: ImageNet's class folders, NYU's test images."""

import io
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.data import archives
from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import one_line
from regvit_lightning.runtime import atomic

JPEG_QUALITY = 95  # OpenCV's default, with which BTS writes the images
FOCAL = 518.8579  # focal length of NYU's camera, third field of a line in BTS's lists

Show = Callable[[int, int], None]


def imagenet_train(files: dict[str, Path], root: Path, show: Show) -> None:
    """Unpack ILSVRC2012_img_train.tar, one tar per class, into `imagenet/train/<wnid>/`; existing classes are skipped.

    Raises:
        DataError: not this archive, or truncated.
    """
    archive = files["ILSVRC2012_img_train.tar"]
    with archives.opened(archive) as classes:
        if not all(member.path.suffix == ".tar" for member in classes):
            raise DataError(f"{archive}: expected a tar of one tar per class")
        for number, member in enumerate(classes, start=1):
            folder = root / "imagenet" / "train" / member.path.stem
            with archives.opened_inside(archive, member) as images:
                archives.write(images, [folder / image.path.name for image in images])
            show(number, len(classes))


def imagenet_val(files: dict[str, Path], root: Path, show: Show) -> None:
    """Unpack ILSVRC2012_img_val.tar into `imagenet/val/<wnid>/`, by the devkit's labels.

    Raises:
        DataError: not these archives, truncated ones, or the numbers of images and labels differ.
    """
    archive, devkit = files["ILSVRC2012_img_val.tar"], files["ILSVRC2012_devkit_t12.tar.gz"]
    classes = _val_classes(devkit)
    with archives.opened(archive) as images:
        images = sorted(images, key=lambda image: image.path)  # numbered, ILSVRC2012_val_00000001.JPEG
        if len(images) != len(classes):
            raise DataError(f"{archive} has {len(images):,} images, {devkit} names the classes of {len(classes):,}")
        val = root / "imagenet" / "val"
        targets = [val / name / image.path.name for name, image in zip(classes, images, strict=True)]
        archives.write(images, targets, show)


def _val_classes(devkit: Path) -> list[str]:
    """WordNet id of each val image, from the devkit's two tables."""
    import scipy.io

    wanted = {"meta.mat": b"", "ILSVRC2012_validation_ground_truth.txt": b""}
    with archives.opened(devkit) as members:
        for member in members:
            if member.path.name in wanted:
                with member.open() as file:
                    wanted[member.path.name] = file.read()
    try:
        synsets = scipy.io.loadmat(io.BytesIO(wanted["meta.mat"]), squeeze_me=True)["synsets"]
        names = {int(one["ILSVRC2012_ID"]): str(one["WNID"]) for one in synsets}
        numbers = wanted["ILSVRC2012_validation_ground_truth.txt"].split()
        folders = [names[int(number)] for number in numbers]
    except Exception as error:  # scipy raises unrelated classes
        raise DataError(f"{devkit} is not the devkit of ILSVRC 2012: {one_line(error)}") from None
    unsafe = [name for name in folders if PurePosixPath(name).name != name or name in ("", "..")]
    if unsafe or not folders:
        raise DataError(f"{devkit} is not the devkit of ILSVRC 2012: a class is called '{(unsafe or [''])[0][:40]}'")
    return folders


def nyu_test(files: dict[str, Path], root: Path, show: Show) -> None:
    """Write NYU's official test images to `nyu/official_splits/test/<scene>/`, and their list `nyu/nyu_test.txt`.

    The format is that of BTS: images with a black frame, depth in millimetres, both numbered from 0. Existing images
    are skipped; the list is written last.

    Raises:
        DataError: one of the files is not the official one.
    """
    from regvit_lightning.data.image_sets import Depth
    from regvit_lightning.data.layout import DataSettings
    from regvit_lightning.data.nyu import test_pairs

    mat, splits = files["nyu_depth_v2_labeled.mat"], files["splits.mat"]
    data = DataSettings(name="nyu", root=".", depth=Depth(mat=str(mat.resolve()), splits=str(splits.resolve())))
    pairs: Any = test_pairs(data)
    scenes = _scenes(mat)
    lines = []
    for index, number in enumerate(pairs.numbers.tolist()):
        scene, digits = scenes[number - 1], f"{number - 1:05d}"
        image, depth = f"{scene}/rgb_{digits}.jpg", f"{scene}/sync_depth_{digits}.png"
        folder = root / "nyu" / "official_splits" / "test"
        if not ((folder / image).exists() and (folder / depth).exists()):
            pair = pairs[index]
            _picture(folder / image, pair.image[:, :, ::-1])
            _picture(folder / depth, (pair.depth * 1000.0).astype(np.uint16))
        lines.append(f"{image} {depth} {FOCAL}\n")
        show(index + 1, len(pairs))
    atomic.write_text(root / "nyu" / "nyu_test.txt", "".join(sorted(lines)))


def _scenes(mat: Path) -> list[str]:
    """Scene type of every image, which is its folder in BTS."""
    import h5py

    try:
        with h5py.File(mat, "r") as file:
            scenes = ["".join(map(chr, np.asarray(file[one]).flatten())) for one in file["sceneTypes"][0]]
    except Exception as error:  # h5py raises unrelated classes
        raise DataError(f"{mat} has no readable sceneTypes: {one_line(error)}; get it again") from None
    unsafe = [scene for scene in scenes if not scene.replace("_", "").isalnum()]
    if unsafe:
        raise DataError(f"{mat}: a scene is called {unsafe[0][:40]!r}: not the official file")
    return scenes


def _picture(file: Path, pixels: npt.NDArray[Any]) -> None:
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if file.suffix == ".jpg" else []
    written, data = cv2.imencode(file.suffix, pixels, options)
    assert written
    atomic.write(file, lambda temporary: temporary.write_bytes(data.tobytes()))
