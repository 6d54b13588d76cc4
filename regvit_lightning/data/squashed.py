"""Images with masks, both squashed to one square: the view of the evaluations that read labels patch by patch."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import RandomResizedCrop

from regvit_lightning.data.ade20k import LoadLabels
from regvit_lightning.data.image_sets import Segmentation
from regvit_lightning.data.images import open_image
from regvit_lightning.data.masks import Pairs
from regvit_lightning.data.module import Loading, Streamed
from regvit_lightning.runtime import seeds

ASPECT = [3 / 4, 4 / 3]  # of a random crop, torchvision's


class Squashed(Dataset[dict[str, Any]]):
    """Every image with its labels, resized to a square without regard to its aspect ratio.

    A sample has `image` uint8 (3, side, side), bilinear; `labels` uint8 (side, side), nearest, class indices and 255
    for unlabelled pixels; `mask`, the labels (H, W) at the mask's own size; and `index`, that of the image.

    Args:
        pairs: paths of the images and their masks.
        layout: what the values of the masks mean.
        side: pixels.
        scale: range of the area of a random crop relative to the image, with the aspect ratio of torchvision's
            `RandomResizedCrop`; empty takes the whole image.
        seed: seed of the crops.
        epochs: number of passes over the images, each with crops of its own.
    """

    def __init__(
        self,
        pairs: Pairs,
        layout: Segmentation,
        side: int,
        scale: Sequence[float] = (),
        seed: int = 0,
        epochs: int = 1,
    ) -> None:
        self.paths = np.array([[os.fsencode(path) for path in pair] for pair in pairs])
        self.side, self.scale, self.seed, self.epochs = side, list(scale), seed, epochs
        self.load_labels = LoadLabels(layout)

    def __len__(self) -> int:
        return self.epochs * len(self.paths)

    def __getitem__(self, number: int) -> dict[str, Any]:
        index = number % len(self.paths)
        image, mask = self.open(index)
        box = self._crop(image, number)
        square = image.resize((self.side, self.side), Image.Resampling.BILINEAR, box)
        labels = Image.fromarray(mask).resize((self.side, self.side), Image.Resampling.NEAREST, box)
        return {
            "image": torch.from_numpy(np.array(square)).permute(2, 0, 1),
            "labels": torch.from_numpy(np.array(labels)),
            "mask": torch.from_numpy(mask),
            "index": number,
        }

    def open(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """Image as RGB and labels (H, W), uint8, both at their own size.

        Raises:
            DataError: a file cannot be read, or a mask has another size or a value that is no class.
        """
        path, mask = (os.fsdecode(bytes(path)) for path in self.paths[index])
        image = open_image(path)
        loaded = {"img_path": path, "seg_map_path": mask, "ori_shape": image.size[::-1], "seg_fields": []}
        labels: np.ndarray = self.load_labels(loaded)["gt_seg_map"]
        return image, labels

    def _crop(self, image: Image.Image, number: int) -> tuple[int, int, int, int] | None:
        """Left, upper, right and lower edge of the crop, or None for the whole image."""
        if not self.scale:
            return None
        with seeds.drawn_from(self.seed, "augment", number):
            top, left, height, width = RandomResizedCrop.get_params(image, self.scale, ASPECT)
        return left, top, left + width, top + height


def together(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Collate samples of `Squashed`: all but `mask` are stacked; masks of different sizes stay a list."""
    stacked: dict[str, Any] = {key: torch.stack([sample[key] for sample in samples]) for key in ("image", "labels")}
    indices: Tensor = torch.tensor([sample["index"] for sample in samples])
    return {**stacked, "mask": [sample["mask"] for sample in samples], "index": indices}


class SquashedImages(Streamed):
    """Ordered passes over images with masks: train as validation, and test."""

    def __init__(self, loading: Loading, train: Squashed | None, test: Squashed | None) -> None:
        passes = ([images] if images is not None else [] for images in (train, test))
        validation, tested = passes
        super().__init__(loading, validation=validation, test=tested, collate=together)
