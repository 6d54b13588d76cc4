"""Data for object discovery: image sets with boxes by name, at native size, in batches padded to a common size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from regvit_lightning.data import coco, voc
from regvit_lightning.data.boxes import BoxedImages
from regvit_lightning.data.completeness import check_count, check_rendered
from regvit_lightning.data.device_batches import of_device
from regvit_lightning.data.image_sets import ALL
from regvit_lightning.data.images import open_image
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import Loading, Streamed

USUAL_PATCHES = 2048  # patches of a typical image; a batch has `device_batch` such images, fewer of larger ones


def boxed_images(data: DataSettings, name: str) -> BoxedImages:
    """Load the set called `name`, such as `voc07`, `voc12` or `coco20k`; see `DataSettings.discovery`.

    Raises:
        SettingsError: not a set of this data.
        DataError: the set is missing or incomplete, or an annotation does not fit.
    """
    boxed_set = data.boxed_set(name)
    check_rendered(data)
    folder, annotations, listed = boxed_set.paths(data.root)
    names = None if listed == ALL else Path(listed)
    if boxed_set.layout == "coco":
        images = coco.listed(Path(folder), Path(annotations), names, data.get)
    else:
        images = voc.listed(Path(folder), Path(annotations), names, boxed_set.image_suffix, data.get)
    check_count(data, name, 0, len(images), f"{name} in {data.root} has")
    return images


class NativeSize(Dataset[tuple[Tensor, int]]):
    """Data set of every image once, at its own size: (uint8 (3, H, W), index).

    Args:
        images: the set of images.
        sizes: (N, 2) width and height at which to read them; smaller than their own for very large ones.
    """

    def __init__(self, images: BoxedImages, sizes: npt.NDArray[np.int64]) -> None:
        self.images, self.sizes = images, sizes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = open_image(self.images.path(index))
        size = tuple(self.sizes[index].tolist())
        if image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1), index


def fitting(sizes: npt.NDArray[np.int64], patch_size: int, most: int) -> npt.NDArray[np.int64]:
    """Image sizes with at most `most` patches: the original size, or one reduced in proportion.

    Args:
        sizes: (N, 2) width and height in pixels.
    """
    fitted = sizes.copy()
    for index in np.flatnonzero(_grids(sizes, patch_size).prod(axis=1) > most):
        scale = min(np.sqrt(most * patch_size**2 / sizes[index].prod()), 1.0)
        fitted[index] = np.clip((sizes[index] * scale) // patch_size, 1, most) * patch_size
    return fitted


def _grids(sizes: npt.NDArray[np.int64], patch_size: int) -> npt.NDArray[np.int64]:
    return -(-sizes // patch_size)


def images_at_once(device_batch: int, patches: int) -> int:
    """Images of a batch, of so many patches each: `device_batch` of a usual size, fewer of larger ones."""
    return max(device_batch * USUAL_PATCHES // max(patches, USUAL_PATCHES), 1)


def batches(sizes: npt.NDArray[np.int64], patch_size: int, device_batch: int) -> list[list[int]]:
    """Group image indices into batches of images with the same number of patches in width and height.

    The largest come first, so that running out of memory fails at once.

    Args:
        sizes: (N, 2) width and height in pixels.
        device_batch: maximum number of images in a batch; fewer where they are larger than usual.
    """
    grids, groups = np.unique(_grids(sizes, patch_size), axis=0, return_inverse=True)
    groups_of_indices: list[list[int]] = []
    for group in np.argsort(-grids.prod(axis=1), kind="stable"):
        indices = np.flatnonzero(groups.ravel() == group).tolist()
        size = images_at_once(device_batch, int(grids[group].prod()))
        groups_of_indices += [indices[start : start + size] for start in range(0, len(indices), size)]
    return groups_of_indices


def pad_together(samples: Sequence[tuple[Tensor, int]], patch_size: int) -> dict[str, Tensor]:
    """Collate samples of `NativeSize`, each padded at the right and bottom to whole patches.

    Returns:
        image uint8 (B, 3, H, W), size (B, 2) height and width without padding, index (B,).
    """
    sizes = torch.tensor([image.shape[1:] for image, _ in samples])
    height, width = (-(-sizes.amax(dim=0) // patch_size) * patch_size).tolist()
    padded = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
    for row, (image, _) in zip(padded, samples, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    return {"image": padded, "size": sizes, "index": torch.tensor([index for _, index in samples])}


class BoxedImagesModule(Streamed):
    """The images of one set as a test pass, batched by padded size."""

    def __init__(self, loading: Loading, images: NativeSize, patch_size: int) -> None:
        super().__init__(loading, test=[images])
        self.patch_size = patch_size
        self.batches = batches(images.sizes, patch_size, loading.device_batch)

    def _ordered(self, images: Dataset[Any]) -> DataLoader[Any]:
        largest = self.batches[0] if self.batches else []
        options = self._workers(images, largest[:1], len(largest), self._collate)
        return DataLoader(
            images, batch_sampler=of_device(self.batches, self.trainer), collate_fn=self._collate, **options
        )

    def _collate(self, samples: Sequence[tuple[Tensor, int]]) -> dict[str, Tensor]:
        return pad_together(samples, self.patch_size)
