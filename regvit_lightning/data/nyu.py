"""Images with depth maps: NYU Depth v2 as BTS lists it or in its official .mat files, and data in the same layouts.

Both readers yield a sequence of `DepthPair`s. Training pairs are augmented, test images only resized, if at all.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import scipy.io
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from regvit_lightning.data.completeness import check_count, check_rendered, find_files
from regvit_lightning.data.depth_pairs import (
    FRAME,
    Augmentation,
    DepthPair,
    DepthPairs,
    evaluation_mask,
    resized,
    scale_to,
)
from regvit_lightning.data.headers import Header, check_ratio, check_size, header, report_rotations
from regvit_lightning.data.images import decode, open_image
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.module import Loading, Streamed
from regvit_lightning.data.stream import Stream
from regvit_lightning.errors import one_line
from regvit_lightning.runtime import seeds

INSIDE_FRAME = (slice(7, 474), slice(7, 632))  # for the .mat: BTS blackens the pixels outside when it writes the images
MILLIMETRES = 1000.0  # per metre
NOT_MEASURED = 65535  # in a 16-bit map, besides 0
USUAL_DEPTH = (1.0, 10.5)  # metres: 95th percentile of indoor depth maps; the cameras of that kind reach 10 m
CHECKED_MAPS = 5  # maps in which a unit that is not stated is checked


# ------------------------------------------------------------------------------------------------------- readers


class ListedPairs:
    """Depth pairs from a list in BTS's format, lines `image depth focal`; depth is a 16-bit PNG.

    Args:
        source: path of the list.
        folder: base folder of the paths in the list, which may begin with a `/`.
        get: how to get the data; appended to the error message.
        units_per_metre: unit of the depth maps; 0 assumes millimetres and checks that they are plausible.

    Raises:
        DataError: no such list, a malformed line, or missing files; an image and a depth map of different sizes; depths
            that are not plausible as millimetres.
    """

    def __init__(self, source: Path, folder: Path, get: str = "", units_per_metre: float = 0) -> None:
        named = [file for pair in _read_list(source, folder, get) for file in pair]
        self.files = np.array(find_files(source, named, get), dtype=np.str_).reshape(-1, 2)
        self.units_per_metre = units_per_metre or MILLIMETRES
        report_rotations(source, [_check_headers(*pair) for pair in self.files.tolist()])
        if not units_per_metre and len(self):
            self._check_millimetres(source)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> DepthPair:
        image, depth = self.files[index].tolist()
        return _checked(DepthPair(np.asarray(open_image(image)), open_depth(depth, self.units_per_metre), depth))

    def _check_millimetres(self, source: Path) -> None:
        indices = np.linspace(0, len(self) - 1, min(CHECKED_MAPS, len(self))).astype(int)
        maps = [open_depth(depth) for depth in self.files[indices, 1].tolist()]
        measured = np.concatenate([depth[depth > 0] for depth in maps])
        far = float(np.quantile(measured, 0.95)) if measured.size else USUAL_DEPTH[0]
        if not USUAL_DEPTH[0] <= far <= USUAL_DEPTH[1]:
            raise DataError(
                f"{source}: 95 % of its depths lie below {far:.3g} m if they are in millimetres, which is not usual; "
                "state the unit: depth.units_per_metre (1000 millimetres, 100 centimetres, 5000 TUM RGB-D, 256 KITTI)"
            )


def _check_headers(image: str, depth: str) -> Header:
    """Check a pair without decoding it: the kind of the depth map, and the sizes of both."""
    facts = header(image)
    check_ratio(facts)
    check_size(facts, f"depth {depth}", decode(depth, f"depth {depth}", lambda opened: _checked_kind(opened, depth)))
    return facts


def _checked_kind(image: Image.Image, path: str) -> tuple[int, int]:
    """Size of an opened depth map, after checking that it is one."""
    if not image.mode.startswith("I"):  # Pillow's modes of wide integers: I, I;16
        kind = "8-bit" if image.mode in ("L", "P", "RGB") else "not 16-bit"
        raise DataError(f"depth {path} is {kind} ({image.mode}): expected a 16-bit PNG in millimetres; convert it")
    return image.size


def _read_list(source: Path, folder: Path, get: str) -> list[list[str]]:
    if not source.is_file():
        raise DataError(f"no list {source}: expected lines 'image depth focal'; {get}")
    files = []
    for number, line in enumerate(
        source.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines(), start=1
    ):
        words = line.split()
        if len(words) == 3:
            files.append([str(folder / word.lstrip("/")) for word in words[:2]])
        elif words:
            raise DataError(f"{source}, line {number}: expected 'image depth focal', not '{line[:80]}'; {get}")
    return files


def open_depth(path: str, units_per_metre: float = MILLIMETRES) -> npt.NDArray[np.float32]:
    """Decode a depth map, (H, W) in metres; 0 where 0 or 65535 is stored: not measured.

    Raises:
        DataError: the file cannot be read, is truncated, or does not contain 16-bit integers.
    """
    depth = decode(path, f"depth {path}", lambda image: _stored(image, path))
    depth = np.where(depth == NOT_MEASURED, 0, depth)
    return np.divide(depth, units_per_metre, dtype=np.float32)


def _stored(image: Image.Image, path: str) -> npt.NDArray[Any]:
    _checked_kind(image, path)
    depth = np.asarray(image)
    if depth.max(initial=0) > NOT_MEASURED or depth.min(initial=0) < 0:
        raise DataError(f"depth {path} is not 16-bit ({image.mode}): expected a 16-bit PNG in millimetres; convert it")
    return depth


class MatPairs:
    """Depth pairs of the official `nyu_depth_v2_labeled.mat`, with raw depth and the black border that BTS adds.

    h5py shows MATLAB's arrays with their axes reversed: images (N, 3, W, H), rawDepths (N, W, H).

    Args:
        file: the .mat, as checked by `_read_splits`.
        numbers: (N,) image numbers in it, from 1.
    """

    def __init__(self, file: Path, numbers: npt.NDArray[np.int64]) -> None:
        self.file, self.numbers = file, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> DepthPair:
        number = int(self.numbers[index])
        # Opened for each pair: a handle must not be shared by the worker processes.
        with _reading(self.file), h5py.File(self.file, "r") as mat:
            colours, depth = mat["images"][number - 1].T, mat["rawDepths"][number - 1].T
            depth = np.where(np.isfinite(depth), depth, 0)  # not measured
        image = np.zeros_like(colours, order="C")
        image[INSIDE_FRAME] = colours[INSIDE_FRAME]
        return _checked(DepthPair(image, np.ascontiguousarray(depth, np.float32), f"{self.file}, image {number}"))


def _read_splits(file: Path, splits: Path, key: str) -> npt.NDArray[np.int64]:
    """Read the image numbers of one split, after checking both files."""
    with _reading(file), h5py.File(file, "r") as mat:
        absent = [name for name in ("images", "rawDepths") if name not in mat]
        if absent:
            raise DataError(f"{file} has no array {', '.join(absent)}: expected nyu_depth_v2_labeled.mat")
        images, depths = mat["images"].shape, mat["rawDepths"].shape
        kinds = mat["images"].dtype, mat["rawDepths"].dtype
    if kinds[0] != np.uint8 or kinds[1].kind != "f":
        raise DataError(f"{file}: images {kinds[0]} and rawDepths {kinds[1]}: expected uint8 and float32")
    count, size = images[0] if images else 0, FRAME[::-1]
    if images != (count, 3, *size) or depths != (count, *size):
        raise DataError(f"{file}: images {images} and rawDepths {depths}: expected (N, 3, 640, 480) and (N, 640, 480)")
    with _reading(splits):
        splits_content = scipy.io.loadmat(splits)
    if key not in splits_content:
        raise DataError(f"{splits} has no array {key}: expected the official splits.mat")
    numbers = np.asarray(splits_content[key]).flatten()
    if numbers.dtype.kind not in "iuf" or not (numbers == np.trunc(numbers)).all() or not np.isfinite(numbers).all():
        raise DataError(f"{splits}: {key} holds {numbers.dtype} values that are no image numbers")
    numbers = numbers.astype(np.int64)
    if numbers.size and not 1 <= numbers.min() <= numbers.max() <= count:
        raise DataError(f"{splits}: {key} names images {numbers.min()} to {numbers.max()}, but {file} has {count}")
    return numbers


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # h5py and scipy raise unrelated classes
        raise DataError(f"unreadable {file}: {one_line(error)}; fetch it again") from None


def _checked(pair: DepthPair) -> DepthPair:
    if pair.image.shape[:2] != pair.depth.shape:
        (rows, columns), (height, width) = pair.depth.shape, pair.image.shape[:2]
        sizes = f"is {columns} × {rows} px, its image {width} × {height}"
        raise DataError(f"depth {pair.name} {sizes}: not a pair; correct the list")
    if not (pair.depth > 0).any():
        raise DataError(f"depth {pair.name} has no measured pixel: restore it or take it off the list")
    return pair


# -------------------------------------------------------------------------------------------------------- splits


def train_pairs(data: DataSettings) -> DepthPairs:
    """Training split of the depth data.

    Raises:
        DataError: missing or incomplete.
    """
    return _split(data, 0)


def test_pairs(data: DataSettings) -> DepthPairs:
    """Test split of the depth data.

    Raises:
        DataError: missing or incomplete.
    """
    return _split(data, 1)


def _split(data: DataSettings, number: int) -> DepthPairs:
    check_rendered(data)
    layout, root = data.depth, Path(data.root)
    source = root / (layout.splits or layout.lists[number])
    pairs = _official(data, number) if layout.mat else _listed(data, number)
    if len(pairs) == 0:
        raise DataError(f"{source} names no {('train', 'test')[number]} image; {data.get}")
    check_count(data, "depth", number, len(pairs), f"{source} has")
    return pairs


def _listed(data: DataSettings, number: int) -> DepthPairs:
    layout, root = data.depth, Path(data.root)
    return ListedPairs(root / layout.lists[number], root / layout.folders[number], data.get, layout.units_per_metre)


def _official(data: DataSettings, number: int) -> DepthPairs:
    file, splits = Path(data.root, data.depth.mat), Path(data.root, data.depth.splits)
    for needed in (file, splits):
        if not needed.is_file():
            raise DataError(f"no file {needed}: expected one of the official files of NYU Depth v2; {data.get}")
    return MatPairs(file, _read_splits(file, splits, ("trainNdxs", "testNdxs")[number]))


# ------------------------------------------------------------------------------------------------------- loading


class DrawnDepthPairs(Dataset[dict[str, Tensor]]):
    """Augmented pairs, indexed by (position in the run, index in the files): image uint8 (3, h, w), depth (h, w).

    The augmentation of a sample depends only on the seed and its position.
    """

    def __init__(self, pairs: DepthPairs, augmentation: Augmentation, seed: int) -> None:
        self.pairs, self.augmentation, self.seed = pairs, augmentation, seed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, draw: tuple[int, int]) -> dict[str, Tensor]:
        position, index = draw
        rng = np.random.default_rng(seeds.derive(self.seed, "augment", position))
        view = self.augmentation(self.pairs[index], rng)
        return {"image": _channels_first(view.image), "depth": torch.from_numpy(np.array(view.depth))}


class OncePairs(Dataset[dict[str, Any]]):
    """Every training pair once, in order, of an augmentation that draws nothing."""

    def __init__(self, pairs: DrawnDepthPairs) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.pairs[0, index]


class OrderedPairs(Dataset[dict[str, Any]]):
    """Every pair once, in order: image uint8 (3, h, w), depth and mask (H, W) at the measurement's own size, index.

    Args:
        pairs: the depth pairs.
        short_side: short side of the image in pixels; 0 keeps its size.
        depth_range: metres, open interval of the scored depths.
        eigen_crop: score only inside the Eigen crop.
    """

    def __init__(self, pairs: DepthPairs, short_side: int, depth_range: tuple[float, float], eigen_crop: bool) -> None:
        self.pairs, self.short_side = pairs, short_side
        self.depth_range, self.eigen_crop = depth_range, eigen_crop

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pair = self.pairs[index]
        mask = evaluation_mask(pair, *self.depth_range, self.eigen_crop)
        image = resized(pair, scale_to(pair, self.short_side)).image
        depth = torch.from_numpy(np.array(pair.depth))
        return {"image": _channels_first(image), "depth": depth, "mask": torch.from_numpy(mask), "index": index}


def _channels_first(image: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def by_size(samples: Sequence[dict[str, Any]]) -> list[dict[str, Tensor]]:
    """Group samples of `OrderedPairs` into batches of one image size each."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for sample in samples:
        groups.setdefault((sample["image"].shape, sample["depth"].shape), []).append(sample)
    return [default_collate(group) for group in groups.values()]


class NYU(Streamed):
    """Augmented training pairs from a stream, and test pairs in order, in lists of equal-size batches.

    The validation pass has every training pair once where the augmentation draws nothing.

    Args:
        loading: workers and batch sizes.
        stream: draws of the training run.
        train: training pairs and their augmentation.
        test: test pairs.
    """

    def __init__(
        self, loading: Loading, stream: Stream, train: tuple[DepthPairs, Augmentation], test: OrderedPairs
    ) -> None:
        drawn = DrawnDepthPairs(*train, stream.seed)
        once = [] if train[1].drawn else [OncePairs(drawn)]
        super().__init__(loading, stream, drawn, validation=once, test=[test], collate=by_size)
