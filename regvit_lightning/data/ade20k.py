"""Images with masks of class indices: ADE20k's layout, and any other that a data YAML describes.

`masks.py` finds the files and decodes the masks, and mmsegmentation's transforms augment them; this module defines the
protocols' pipelines, and the only conversion from mask values to class indices.
"""

import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from regvit_lightning.data import mmsegmentation
from regvit_lightning.data.completeness import check_count, check_rendered
from regvit_lightning.data.image_sets import IGNORED, Segmentation
from regvit_lightning.data.images import open_image
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.masks import Pairs, Split, open_mask, pairs_of
from regvit_lightning.data.mini.world import SEMANTIC_IDS
from regvit_lightning.data.module import Loading, Streamed
from regvit_lightning.data.stream import Stream
from regvit_lightning.runtime import seeds
from regvit_lightning.settings import check

UNBOUNDED = 99_999_999  # the long side of a resized image, as in the published configs

Pipeline = Sequence[Callable[[dict[str, Any]], Any]]


# ------------------------------------------------------------------------------------------------ class numbers


def class_numbers(mask: npt.NDArray[Any], layout: Segmentation) -> npt.NDArray[np.uint8]:
    """Convert mask values to class indices 0..classes-1, with 255 where a pixel is neither trained on nor scored.

    The only implementation of the zero-label rule: with `zero_is_unlabelled`, 0 becomes 255 and n becomes n - 1.

    Args:
        mask: (H, W) non-negative integers, as stored.
        layout: classes, zero_is_unlabelled, ignored.

    Raises:
        ValueError: a value that is not a class; names it and the number of pixels that have it.
    """
    first = int(layout.zero_is_unlabelled)
    table = np.full(max(int(mask.max(initial=0)), layout.ignored, layout.classes) + 1, -1, np.int16)
    table[first : first + layout.classes] = np.arange(layout.classes)
    table[[layout.ignored, *range(first)]] = IGNORED
    labels = table[mask]
    if labels.min(initial=0) < 0 or mask.min(initial=0) < 0:
        unknown, pixels = np.unique(mask[(labels < 0) | (mask < 0)], return_counts=True)
        raise ValueError(f"class number {unknown[0]} in {pixels[0]} pixels; {_range(layout)}")
    return labels.astype(np.uint8)


def _range(layout: Segmentation) -> str:
    first = int(layout.zero_is_unlabelled)
    unlabelled = ", 0 for unlabelled" if first else ""
    return f"expected {first}..{first + layout.classes - 1}{unlabelled} or {layout.ignored} for ignored"


def class_names(layout: Segmentation) -> list[str]:
    """Names of the classes 0..classes-1.

    Raises:
        SettingsError: an unknown vocabulary, or one with another number of classes.
    """
    if layout.class_names:
        return list(layout.class_names)
    if not layout.vocabulary:
        return [f"class {number}" for number in range(layout.classes)]
    if layout.vocabulary == "rendered":
        known = {number - 1: name for name, number in SEMANTIC_IDS.items()}
        return [known.get(number, f"class {number}") for number in range(layout.classes)]
    mmsegmentation.prepare()
    from mmseg.utils import get_classes

    try:
        names = list(get_classes(layout.vocabulary))
    except ValueError:
        names = []
    check(bool(names), f"segmentation.vocabulary={layout.vocabulary}: not a data set of mmsegmentation (ade, voc, …)")
    wanted = f"segmentation.classes={layout.classes}: vocabulary '{layout.vocabulary}' has {len(names)}"
    check(len(names) == layout.classes, wanted)
    return names


# --------------------------------------------------------------------------------------------------- transforms


class LoadImage:
    """Decodes an image as mmsegmentation's transforms expect it: BGR, uint8 (H, W, 3)."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        image = np.ascontiguousarray(np.asarray(open_image(results["img_path"]))[..., ::-1])
        return {**results, "img": image, "img_shape": image.shape[:2], "ori_shape": image.shape[:2]}


class LoadLabels:
    """Reads the mask as class indices at its own size, and checks that it matches the image."""

    def __init__(self, layout: Segmentation) -> None:
        self.layout = layout

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        path = results["seg_map_path"]
        mask = open_mask(path)
        if mask.shape != results["ori_shape"]:
            sizes = f"{mask.shape[1]} × {mask.shape[0]}", f"{results['ori_shape'][1]} × {results['ori_shape'][0]}"
            raise DataError(f"mask {path} is {sizes[0]} px, its image {results['img_path']} {sizes[1]}: not a pair")
        try:
            results["gt_seg_map"] = class_numbers(mask, self.layout)
        except ValueError as error:
            raise DataError(f"mask {path}: {error}; see `segmentation:` in the data's YAML") from None
        results["seg_fields"].append("gt_seg_map")
        return results


def train_pipeline(layout: Segmentation, short_side: int, ratio: Sequence[float], crop: int) -> Pipeline:
    """Published training augmentation: short side `short_side` × U(ratio), random crop in which no class takes more
    than three quarters, flip, photometric distortion (dinov2_vitl14_ade20k_linear_config)."""
    mmsegmentation.prepare()
    from mmcv.transforms import RandomFlip, RandomResize
    from mmseg.datasets.transforms import PackSegInputs, PhotoMetricDistortion, RandomCrop

    return [
        LoadImage(),
        LoadLabels(layout),
        RandomResize(scale=(UNBOUNDED, short_side), ratio_range=tuple(ratio), keep_ratio=True),
        RandomCrop((crop, crop), cat_max_ratio=0.75, ignore_index=IGNORED),
        RandomFlip(prob=0.5),
        PhotoMetricDistortion(),
        PackSegInputs(),
    ]


def plain_pipeline(layout: Segmentation, short_side: int) -> Pipeline:
    """Training images without augmentation: image and mask resized to `short_side`, whole."""
    mmsegmentation.prepare()
    from mmcv.transforms import Resize
    from mmseg.datasets.transforms import PackSegInputs

    resize = Resize(scale=(UNBOUNDED, short_side), keep_ratio=True)
    return [LoadImage(), LoadLabels(layout), resize, PackSegInputs()]


def test_pipeline(layout: Segmentation, short_side: int, scales: Sequence[float], flip: bool) -> Pipeline:
    """Test pipeline: every scale, with and without flip if `flip`, as one sample; the mask stays at its own size."""
    mmsegmentation.prepare()
    from mmcv.transforms import RandomFlip, Resize, TestTimeAug
    from mmseg.datasets.transforms import PackSegInputs

    resizes = [Resize(scale=(UNBOUNDED, int(short_side * scale)), keep_ratio=True) for scale in scales]
    flips = [RandomFlip(prob=float(turned)) for turned in ((False, True) if flip else (False,))]
    return [LoadImage(), TestTimeAug([resizes, flips, [LoadLabels(layout)], [PackSegInputs()]])]


# ---------------------------------------------------------------------------------------------------- data sets


class MaskedImages:
    """Images with their masks, each passed through a pipeline of mmsegmentation's transforms.

    Args:
        pairs: paths of the images and their masks.
        pipeline: the transforms; they take and give a dictionary.
    """

    def __init__(self, pairs: Pairs, pipeline: Pipeline) -> None:
        self.paths = np.array([[os.fsencode(path) for path in pair] for pair in pairs])
        self.pipeline = list(pipeline)

    def __len__(self) -> int:
        return len(self.paths)

    def get_data_info(self, index: int) -> dict[str, Any]:
        """What the first transform takes: the paths of one image and its mask."""
        image, mask = (os.fsdecode(bytes(path)) for path in self.paths[index])
        return {"img_path": image, "seg_map_path": mask, "seg_fields": [], "sample_idx": index}

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.get_data_info(index)
        for transform in self.pipeline:
            sample = transform(sample)
        return sample


def train_images(data: DataSettings, pipeline: Pipeline) -> MaskedImages:
    """Training split of the segmentation data.

    Raises:
        DataError: missing or incomplete.
    """
    return _split(data, 0, pipeline)


def test_images(data: DataSettings, pipeline: Pipeline) -> MaskedImages:
    """Test split of the segmentation data, which the data sets call validation.

    Raises:
        DataError: missing or incomplete.
    """
    return _split(data, 1, pipeline)


def _split(data: DataSettings, number: int, pipeline: Pipeline) -> MaskedImages:
    return MaskedImages(masked_pairs(data, "segmentation", number), pipeline)


def masked_pairs(data: DataSettings, name: str, number: int) -> Pairs:
    """Images and masks of a split, 0 for train and 1 for test, of the set called `name`, see `DataSettings.masked_set`.

    Raises:
        SettingsError: no such set.
        DataError: missing or incomplete.
    """
    check_rendered(data)
    layout = data.masked_set(name)
    class_names(layout)  # refuses an unknown vocabulary before a run
    images, masks = Path(data.root, layout.images[number]), Path(data.root, layout.masks[number])
    names = Path(data.root, layout.lists[number]) if layout.lists else None
    pairs = pairs_of(Split(images, masks, names, layout.image_suffix, layout.mask_suffix), data.get)
    counted = "segmentation" if layout is data.segmentation else name
    check_count(data, counted, number, len(pairs), f"{names or images} has")
    return pairs


class InOrder(Dataset[dict[str, Any]]):
    """Samples of `MaskedImages`, picklable to a process that has not imported mmseg yet."""

    def __init__(self, images: MaskedImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample: dict[str, Any] = self.images[index]
        return sample

    def __getstate__(self) -> bytes:
        return pickle.dumps(vars(self))  # pickled separately, as unpickling it imports mmseg

    def __setstate__(self, state: bytes) -> None:
        mmsegmentation.prepare()
        vars(self).update(pickle.loads(state))


class Augmented(InOrder):
    """Training samples indexed by (position in the run, index of the image), with random draws specific to each."""

    def __init__(self, images: MaskedImages, seed: int) -> None:
        super().__init__(images)
        self.seed = seed

    def __getitem__(self, draw: tuple[int, int]) -> dict[str, Any]:  # type: ignore[override]
        position, index = draw
        with seeds.drawn_from(self.seed, "augment", position):
            return super().__getitem__(index)


class WholeImages(Streamed):
    """Training images without augmentation as a validation pass, one at a time, in mmsegmentation's format."""

    def __init__(self, loading: Loading, images: MaskedImages) -> None:
        from mmengine.dataset import pseudo_collate

        super().__init__(loading, validation=[InOrder(images)], collate=pseudo_collate)


class ADE20k(Streamed):
    """Training crops from a stream, and test images one at a time, because their sizes differ.

    Batches are in mmsegmentation's format: `inputs`, uint8 BGR images (3, H, W), and `data_samples` with the masks;
    for test, a list of those for each scale and flip.
    """

    def __init__(self, loading: Loading, stream: Stream, train: MaskedImages, test: MaskedImages) -> None:
        from mmengine.dataset import pseudo_collate

        augmented, collate = Augmented(train, stream.seed), {"collate_train": pseudo_collate, "collate": pseudo_collate}
        super().__init__(loading, stream, augmented, test=[InOrder(test)], **collate)
