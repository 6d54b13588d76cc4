"""Images with a mask of their salient objects each: pairs by name, masks of any form, and batches of one size."""

import os
from collections import Counter
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

from regvit_lightning.data.completeness import check_count, check_rendered, read_list
from regvit_lightning.data.device_batches import of_device
from regvit_lightning.data.discovery import batches
from regvit_lightning.data.headers import check_ratio, check_size, header, report_rotations
from regvit_lightning.data.image_sets import SalientSet
from regvit_lightning.data.images import as_rgb, decode, open_image
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.listing import is_hidden, is_image
from regvit_lightning.data.module import Loading, Streamed
from regvit_lightning.errors import one_line


@dataclass(frozen=True)
class SalientImages:
    """A set of images with masks.

    Attributes:
        images, masks: paths, one mask for each image.
        sizes: (N, 2) width and height of each image in pixels.
        layout: what the masks mean.
    """

    images: list[str]
    masks: list[str]
    sizes: npt.NDArray[np.int64]
    layout: SalientSet


def salient_images(data: DataSettings, name: str) -> SalientImages:
    """Load the set called `name`, in the order of its list or of the names; see `DataSettings.salient`.

    Raises:
        SettingsError: not a set of this data.
        DataError: a folder or the list is missing or empty; an image without a mask; a mask of another size; two files
            whose names differ in the suffix alone.
    """
    layout = data.salient_set(name)
    check_rendered(data)
    images, masks = (_by_stem(Path(data.root, folder), data.get) for folder in (layout.images, layout.masks))
    if layout.names:
        images = _listed(images, Path(data.root, layout.names), data.get)
    if not images:
        raise DataError(f"no image in {Path(data.root, layout.images)}; {data.get}")
    without = [path for stem, path in images.items() if stem not in masks]
    if without:
        more = f" and {len(without) - 1:,} more" if without[1:] else ""
        folder = Path(data.root, layout.masks)
        raise DataError(
            f"image {without[0]}{more}: no mask of that name in {folder}; list the images to take in `names`"
        )
    check_count(data, name, 0, len(images), f"{name} in {data.root} has")
    return _checked(list(images.values()), [masks[stem] for stem in images], layout)


def _by_stem(folder: Path, get: str) -> dict[str, str]:
    """Paths of the images of a folder by their name without suffix, sorted."""
    try:
        names = sorted(name for name in os.listdir(folder) if is_image(name) and not is_hidden(name))
    except OSError as error:
        raise DataError(f"cannot list {folder}: {one_line(error)}; {get}") from None
    several = [stem for stem, count in Counter(Path(name).stem for name in names).items() if count > 1]
    if several:
        raise DataError(f"{folder} has several files called {several[0]}: images and masks need a folder each")
    return {Path(name).stem: str(folder / name) for name in names}


def _listed(images: dict[str, str], names: Path, get: str) -> dict[str, str]:
    lines = read_list(names, "the name of an image", get)
    stems = [line if line in images else Path(line).stem for line in lines]
    missing = [line for line, stem in zip(lines, stems, strict=True) if stem not in images]
    if missing:
        raise DataError(f"{names} names {missing[0]}, which is not among the images; {get}")
    return {stem: images[stem] for stem in stems}


def _checked(images: list[str], masks: list[str], layout: SalientSet) -> SalientImages:
    headers = [header(path) for path in images]
    for facts, mask in zip(headers, masks, strict=True):
        check_ratio(facts)
        check_size(facts, f"mask {mask}", decode(mask, f"mask {mask}", lambda image: image.size))
    report_rotations(layout.images, headers)
    return SalientImages(images, masks, np.array([facts.size for facts in headers], np.int64), layout)


def read_truth(path: str, layout: SalientSet) -> npt.NDArray[np.bool_]:
    """Foreground (H, W) of a mask.

    Args:
        path: grey image of 8 bits, of 16, which are scaled to 8, or coloured image; for ids (`layout.foreground`) with
            one channel or a palette.

    Raises:
        DataError: the file cannot be read; ids are asked for of an image of several channels; or all of a grey mask
            that is not black lies at or below `layout.above`, as that of a mask of 0 and 1 does.
    """
    return decode(path, f"mask {path}", lambda image: _foreground(image, path, layout))


def _foreground(image: Image.Image, path: str, layout: SalientSet) -> npt.NDArray[np.bool_]:
    if layout.foreground:
        if len(image.getbands()) != 1:
            raise DataError(f"mask {path} has {len(image.getbands())} channels: expected one of ids for `foreground`")
        return np.isin(np.asarray(image), layout.foreground)
    grey = np.asarray(as_rgb(image).convert("L"))
    truth: npt.NDArray[np.bool_] = grey > layout.above
    stored = np.asarray(image) if image.mode.startswith("I") else grey  # of 16 bits: the first 128 levels become 0
    if stored.any() and not truth.any():
        raise DataError(f"mask {path}: its largest grey value is {grey.max()}, not above {layout.above}; set above: 0")
    return truth


def grid_sizes(sizes: npt.NDArray[np.int64], patch_size: int, most: int) -> npt.NDArray[np.int64]:
    """Width and height (N, 2) at which images are read: multiples of the patch nearest to their own.

    Args:
        sizes: (N, 2) width and height in pixels.
        most: larger images are reduced in proportion to at most this many patches.
    """
    patches = sizes / patch_size
    scale = np.minimum(np.sqrt(most / patches.prod(axis=1, keepdims=True)), 1.0)
    nearest = np.where(scale < 1, np.floor(patches * scale), np.rint(patches))
    return np.asarray(np.clip(nearest, 1, most) * patch_size, np.int64)


class SalientDataset(Dataset[tuple[Tensor, Tensor, int]]):
    """Data set of every image once: (uint8 (3, h, w) at the size at which it is read, truth bool (H, W), index).

    Args:
        images: the set.
        sizes: (N, 2) width and height at which images are read.
        indices: the images to take; indices of the data set and of `sizes` stay those of the whole set.
    """

    def __init__(self, images: SalientImages, sizes: npt.NDArray[np.int64], indices: Sequence[int]) -> None:
        self.images, self.sizes, self.indices = images, sizes, list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor, int]:
        index = self.indices[position]
        width, height = self.sizes[index].tolist()
        image = open_image(self.images.images[index]).resize((width, height), Image.Resampling.LANCZOS)
        truth = read_truth(self.images.masks[index], self.images.layout)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1), torch.from_numpy(truth), index


class SalientModule(Streamed):
    """The images of a data set as a test pass, in batches of images that are read at one size."""

    def __init__(self, loading: Loading, images: SalientDataset, patch_size: int) -> None:
        super().__init__(loading, test=[images])
        self.batches = batches(images.sizes[images.indices], patch_size, loading.device_batch)

    def _ordered(self, images: Dataset[Any]) -> DataLoader[Any]:
        options = self._workers(images, self.batches[0][:1], len(self.batches[0]), collate)
        return DataLoader(images, batch_sampler=of_device(self.batches, self.trainer), collate_fn=collate, **options)


def collate(samples: Sequence[tuple[Tensor, Tensor, int]]) -> dict[str, Any]:
    """Batch with image uint8 (B, 3, h, w), truth (a list of bool (H, W)) and index (a list)."""
    images, truths, indices = zip(*samples, strict=True)
    return {"image": torch.stack(images), "truth": list(truths), "index": list(indices)}
