"""Pairs of images with points that correspond: SPair-71k, a JSON file of keypoints by name, or RGB-D videos."""

import json
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from regvit_lightning.data.completeness import check_count, check_rendered, find_files, read_list
from regvit_lightning.data.headers import header
from regvit_lightning.data.images import open_image
from regvit_lightning.data.keypoint_pair import Pair
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.rgbd_pairs import rgbd_pairs
from regvit_lightning.errors import one_line


def keypoint_pairs(data: DataSettings, name: str) -> list[Pair]:
    """The pairs of the set called `name`, in the order of its list or file; see `DataSettings.keypoints`.

    Raises:
        SettingsError: not a set of this data.
        DataError: the set is missing or incomplete, or an annotation does not fit.
    """
    layout = data.keypoint_set(name)
    check_rendered(data)
    folder = Path(data.root, layout.folder)
    if layout.frames:
        pairs = rgbd_pairs(folder, layout.frames, data.get)
    else:
        pairs = _own(folder, folder / layout.annotations, data.get) if layout.annotations else _spair(folder, data.get)
    check_count(data, name, 0, len(pairs), f"{name} in {data.root} has", "pairs")
    return pairs


def _spair(folder: Path, get: str) -> list[Pair]:
    """Test pairs of SPair-71k: a JSON file for each line of the list."""
    names = read_list(folder / "Layout" / "large" / "test.txt", "the name of a pair", get)
    files = [str(folder / "PairAnnotation" / "test" / f"{name}.json") for name in names]
    return [
        _spair_pair(folder, Path(file)) for file in find_files(folder / "Layout" / "large" / "test.txt", files, get)
    ]


def _spair_pair(folder: Path, file: Path) -> Pair:
    content = _json(file)
    try:
        images = folder / "JPEGImages" / content["category"]
        names = str(images / content["src_imname"]), str(images / content["trg_imname"])
        points = np.array([content["src_kps"], content["trg_kps"]], np.float64)
        pair = Pair(names, points, np.array(content["trg_bndbox"], np.float64), content["category"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: not an annotation of SPair-71k ({one_line(error)})") from None
    return _checked(pair, str(file))


def _own(folder: Path, file: Path, get: str) -> list[Pair]:
    """All ordered pairs of images of one group that have a keypoint in common, from a JSON file."""
    content = _json(file, get)
    groups: dict[str, list[dict[str, Any]]] = {}
    try:
        for number, image in enumerate(content["images"]):
            where = f"{file}: image {number}"
            groups.setdefault(str(image["group"]), []).append(
                {**image, "keypoints": dict(image["keypoints"]), "where": where}
            )
    except (KeyError, TypeError, ValueError) as error:
        form = '{"images": [{"file": …, "group": …, "keypoints": {name: [x, y]}}]}'
        raise DataError(f"{file}: expected {form} ({one_line(error)})") from None
    pairs = [pair for images in groups.values() for pair in _of_group(folder, images)]
    _check_within(pairs, file)
    if not pairs:
        raise DataError(f"{file}: no two images of one group have a keypoint in common")
    return pairs


def _of_group(folder: Path, images: Sequence[dict[str, Any]]) -> Iterator[Pair]:
    for source, target in permutations(images, 2):
        names = [name for name in source["keypoints"] if name in target["keypoints"]]
        if not names:
            continue
        try:
            points = np.array([[one["keypoints"][name] for name in names] for one in (source, target)], np.float64)
            own = np.array(list(target["keypoints"].values()), np.float64)
            box = np.array(target.get("box") or [*own.min(axis=0), *own.max(axis=0)], np.float64)
            files = str(folder / source["file"]), str(folder / target["file"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{target['where']}: a keypoint is [x, y], a box [x1, y1, x2, y2] ({one_line(error)})"
            ) from None
        yield _checked(Pair(files, points, box, str(source["group"])), target["where"])


def _check_within(pairs: Sequence[Pair], file: Path) -> None:
    """Raise `DataError` for a keypoint outside of its image, as those of an image of another size are."""
    sizes = {name: header(name).size for pair in pairs for name in pair.files}
    for pair in pairs:
        for name, points in zip(pair.files, pair.points, strict=True):
            outside = points[((points < 0) | (points > sizes[name])).any(axis=1)]
            if len(outside):
                x, y = outside[0]
                width, height = sizes[name]
                raise DataError(f"{file}: a keypoint at {x:g}, {y:g} lies outside of {name} of {width} × {height} px")


def _json(file: Path, get: str = "") -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not readable as JSON ({one_line(error)}){f'; {get}' if get else ''}") from None


def _checked(pair: Pair, where: str) -> Pair:
    """The pair, or `DataError` if the shapes or values do not fit."""
    fits = pair.points.ndim == 3 and pair.points.shape[1] > 0 and pair.points.shape[2] == 2 and pair.box.shape == (4,)
    if not fits or not (np.isfinite(pair.points).all() and np.isfinite(pair.box).all()):
        raise DataError(
            f"{where}: expected as many source as target keypoints, x and y of each, and a box of 4 numbers"
        )
    if not pair.side > 0:
        raise DataError(f"{where}: the box {pair.box.tolist()} of the target has no side, so that no distance is near")
    return pair


def spread(pairs: Sequence[Pair], most: int) -> list[Pair]:
    """At most `most` pairs of each group, evenly spread over those it has, in their order; all where it is 0."""
    groups: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        groups.setdefault(pair.group, []).append(index)
    chosen = {
        own[k * len(own) // min(most or len(own), len(own))]
        for own in groups.values()
        for k in range(min(most or len(own), len(own)))
    }
    return [pairs[index] for index in sorted(chosen)]


class Pairs(Dataset[dict[str, Any]]):
    """Data set of pairs whose images are read as squares.

    Args:
        pairs: the pairs.
        side: pixels of the squares, whatever the shape of an image.
    """

    def __init__(self, pairs: Sequence[Pair], side: int) -> None:
        self.pairs, self.side = pairs, side

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`images`, uint8 (2, 3, side, side), `sizes` (2, 2), width and height of the files, and the index."""
        images = [open_image(file) for file in self.pairs[index].files]
        squares = [np.array(image.resize((self.side, self.side), Image.Resampling.BICUBIC)) for image in images]
        return {
            "images": torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2),
            "sizes": torch.tensor([image.size for image in images], dtype=torch.float64),
            "index": index,
        }
