"""Images to be found for queries: the revisited Oxford and Paris sets, or a folder of one's own with a JSON file.

    <folder>/jpg/<image>.jpg, <folder>/gnd_<set>.pkl       as revisitop has them: `imlist`, `qimlist` and `gnd`
    <folder>/<images>/…, <folder>/<ground truth>.json      {"images": [file], "queries": [{"file", "box", "easy", …}]}

In JSON, `easy`, `hard` and `junk` list files of `images`; a query's `box` [left, top, right, bottom] in pixels and any
of the three lists may be left out. A pickle can hold any program: only numbers, texts and arrays are read from one.
"""

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from regvit_lightning.data.completeness import check_count, check_rendered, find_files
from regvit_lightning.data.device_batches import of_device
from regvit_lightning.data.discovery import batches
from regvit_lightning.data.headers import header
from regvit_lightning.data.image_sets import RetrievalSet
from regvit_lightning.data.images import open_image
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.module import Loading, Streamed
from regvit_lightning.errors import one_line

GRADES = ("easy", "hard", "junk")
HARMLESS = {  # what pickles of arrays name, with the module's names in numpy 1 and 2
    *(("numpy", name) for name in ("ndarray", "dtype")),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *(("_codecs", "encode"), ("__builtin__", "bytes"), ("builtins", "bytes")),
}
FORM = '{"images": [file], "queries": [{"file": …, "box": [x1, y1, x2, y2], "easy": [file], "hard": [], "junk": []}]}'


@dataclass(frozen=True)
class Query:
    """One query.

    Attributes:
        file: path of its image.
        box: left, top, right and bottom in pixels of the part that is searched for; None for the whole image.
        easy, hard, junk: indices of the images that show it well, badly, or too little to count; no two share one.
    """

    file: str
    box: tuple[float, float, float, float] | None
    easy: npt.NDArray[np.int64]
    hard: npt.NDArray[np.int64]
    junk: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Landmarks:
    """Queries, and the images among which they are searched.

    Attributes:
        queries: at least one.
        images: paths.
    """

    queries: Sequence[Query]
    images: Sequence[str]

    def __len__(self) -> int:
        return len(self.queries) + len(self.images)

    @property
    def files(self) -> list[str]:
        """Paths of the queries, then those of the images."""
        return [*(query.file for query in self.queries), *self.images]

    @property
    def boxes(self) -> list[tuple[float, float, float, float] | None]:
        """Part of each of `files` that is read; None for all of it."""
        return [*(query.box for query in self.queries), *[None] * len(self.images)]


def landmarks(data: DataSettings, name: str) -> Landmarks:
    """The set called `name`, in the order of its ground truth; see `DataSettings.retrieval`.

    Raises:
        SettingsError: not a set of this data.
        DataError: the set is missing or incomplete, or its ground truth does not fit.
    """
    layout = data.retrieval_set(name)
    check_rendered(data)
    file = Path(data.root, layout.folder, layout.ground_truth)
    content = _revisited(file, data.get) if file.suffix == ".pkl" else _own(file, data.get)
    found = _landmarks(content, layout, file, data)
    find_files(file, found.files, data.get)
    for query in found.queries:
        _check_box(query, file)
    check_count(data, name, 0, len(found), f"{name} in {data.root} has", "queries and images")
    return found


def _revisited(file: Path, get: str) -> dict[str, Any]:
    """Content of a `gnd_<set>.pkl` in the form of the JSON file, with indices for files."""
    try:
        with file.open("rb") as opened:
            content = _Harmless(opened).load()
        images, queries = [f"{one}.jpg" for one in content["imlist"]], content["qimlist"]
        graded = [
            {"file": f"{name}.jpg", "box": one.get("bbx"), **{key: one[key] for key in GRADES}}
            for name, one in zip(queries, content["gnd"], strict=True)
        ]
        return {"images": images, "queries": graded}
    except OSError as error:
        raise DataError(f"{file}: not readable ({one_line(error)}); {get}") from None
    except Exception as error:  # an unpickler may raise almost anything on a damaged file
        raise DataError(f"{file}: not a ground truth of the revisited benchmark ({one_line(error)}); {get}") from None


class _Harmless(pickle.Unpickler):
    """Unpickler of texts, numbers and arrays of numbers."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which a ground truth does not need")
        return super().find_class(module, name)


def _own(file: Path, get: str) -> dict[str, Any]:
    """Content of a JSON file, with indices for files."""
    if not file.is_file():
        raise DataError(f"no file {file}: expected {FORM}; {get}")
    try:
        content = json.loads(file.read_bytes())
        index = {str(image): number for number, image in enumerate(content["images"])}
        queries = [
            {**query, **{key: [index[str(image)] for image in query.get(key, ())] for key in GRADES}}
            for query in content["queries"]
        ]
        return {"images": [str(image) for image in content["images"]], "queries": queries}
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not readable as JSON ({one_line(error)}); {get}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: expected {FORM}; not found: {one_line(error)}") from None


def _landmarks(content: dict[str, Any], layout: RetrievalSet, file: Path, data: DataSettings) -> Landmarks:
    folder = Path(data.root, layout.folder, layout.images)
    images = [str(folder / name) for name in content["images"]]
    if not images or not content["queries"]:
        raise DataError(f"{file}: no image or no query in it; {data.get}")
    number = {image: index for index, image in enumerate(images)}
    if len(number) < len(images):
        twice = next(image for index, image in enumerate(images) if number[image] != index)
        raise DataError(f"{file}: image {twice} is listed twice; list every image once")
    queries = [_query(folder, one, len(images), file) for one in content["queries"]]
    for query in queries:
        if number.get(query.file, -1) not in (-1, *query.junk):
            itself = f"query {query.file} is among the images, where it finds itself"
            raise DataError(f"{file}: {itself}: list it as its junk")
    return Landmarks(queries, images)


def _query(folder: Path, one: dict[str, Any], images: int, file: Path) -> Query:
    where = f"{file}: query {one.get('file')}"
    try:
        easy, hard, junk = (np.array(one[key], np.int64).reshape(-1) for key in GRADES)
        box = None if one.get("box") is None else tuple(float(end) for end in one["box"])
        path = str(folder / one["file"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{where}: expected a file, a box of 4 numbers and lists of images ({one_line(error)})"
        ) from None
    every = np.concatenate([easy, hard, junk])
    if len(np.unique(every)) < len(every) or (len(every) and not (every.min() >= 0 and every.max() < images)):
        raise DataError(f"{where}: an image is listed twice, or is none of the {images:,} images")
    if box is not None and not (len(box) == 4 and np.isfinite(box).all() and box[0] < box[2] and box[1] < box[3]):
        raise DataError(f"{where}: the box {list(box)} is not [left, top, right, bottom]")
    return Query(path, box, easy, hard, junk)  # type: ignore[arg-type]


def _check_box(query: Query, file: Path) -> None:
    """Raise `DataError` for a box of which less than a pixel lies in its image."""
    if query.box is None:
        return
    width, height = header(query.file).size
    left, top, right, bottom = query.box
    if min(right, width) - max(left, 0) < 1 or min(bottom, height) - max(top, 0) < 1:
        within = f"less than a pixel of the box {list(query.box)} lies in {query.file} of {width} × {height} px"
        raise DataError(f"{file}: {within}; give [left, top, right, bottom] in its pixels")


# ------------------------------------------------------------------------------------------------------- loading


def sizes_read(found: Landmarks, longest: int, patch_size: int) -> npt.NDArray[np.int64]:
    """Width and height (queries + images, 2) at which `Views` reads each: whole patches, the shape nearly its own.

    Args:
        longest: pixels of the longer side at most; smaller ones are not enlarged. At least one patch is read.
    """
    own = np.array([_size(file, box) for file, box in zip(found.files, found.boxes, strict=True)], np.float64)
    scaled = own * np.minimum(longest / own.max(axis=1, keepdims=True), 1.0)
    most = max(longest // patch_size, 1)
    return np.asarray(np.clip(np.rint(scaled / patch_size), 1, most) * patch_size, np.int64)


def _size(file: str, box: tuple[float, float, float, float] | None) -> tuple[float, float]:
    return header(file).size if box is None else (box[2] - box[0], box[3] - box[1])


class Views(Dataset[tuple[Tensor, int]]):
    """Data set of every query, cropped to its box, and every image once: (uint8 (3, h, w), index).

    Args:
        found: the set.
        sizes: (N, 2) width and height, see `sizes_read`.
    """

    def __init__(self, found: Landmarks, sizes: npt.NDArray[np.int64]) -> None:
        self.files, self.boxes, self.sizes = found.files, found.boxes, sizes

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        width, height = self.sizes[index].tolist()
        image = open_image(self.files[index])
        read = image.resize((width, height), Image.Resampling.BICUBIC, box=_inside(self.boxes[index], image))
        return torch.from_numpy(np.array(read)).permute(2, 0, 1), index


def _inside(box: tuple[float, float, float, float] | None, image: Image.Image) -> tuple[float, float, float, float]:
    """The part of a box that lies in the image; all of the image for none."""
    width, height = image.size
    if box is None:
        return 0, 0, width, height
    return max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)


class RetrievalModule(Streamed):
    """The views as a test pass, in batches of one size."""

    def __init__(self, loading: Loading, views: Views, patch_size: int) -> None:
        super().__init__(loading, test=[views])
        self.batches = batches(views.sizes, patch_size, loading.device_batch)

    def _ordered(self, images: Dataset[Any]) -> DataLoader[Any]:
        options = self._workers(images, self.batches[0][:1], len(self.batches[0]), None)
        return DataLoader(images, batch_sampler=of_device(self.batches, self.trainer), **options)
