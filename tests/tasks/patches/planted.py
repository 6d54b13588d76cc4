"""Images whose patches are their features: whole evaluations by patches on labels that are placed by hand."""

import numpy as np
import torch
from PIL import Image
from torch import nn

from regvit_lightning.data.image_sets import Segmentation
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.models.foreign import ForeignBackbone

PATCH, SIDE = 4, 16  # pixels; a grid of 4 × 4


class PatchPixels(nn.Module):
    """Patches (B, h, w, 48) are the pixels themselves, from -0.5 to 0.5."""

    image_size, mean, std, patch_size = SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), PATCH

    def forward(self, images):
        parts = (images - 0.5).unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
        patches = parts.permute(0, 2, 3, 1, 4, 5).flatten(3)
        return {"cls": patches.mean(dim=(1, 2)), "patches": patches}


def pixels():
    """The backbone whose patch features are the pixels."""
    return ForeignBackbone(PatchPixels(), "pixels")


def write(root, train, test, classes, **more):
    """Pairs of image (H, W, 3) and labels (H, W), uint8, as PNG files; returns the data set."""
    for split, pairs in (("train", train), ("test", test)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number, (image, labels) in enumerate(pairs):
            Image.fromarray(image).save(root / split / "images" / f"{number:03d}.png")
            Image.fromarray(labels).save(root / split / "masks" / f"{number:03d}.png")
    layout = Segmentation(
        images=["train/images", "test/images"],
        masks=["train/masks", "test/masks"],
        image_suffix=".png",
        vocabulary="",
        classes=classes,
        zero_is_unlabelled=False,
    )
    return DataSettings(name="planted", root=str(root), segmentation=layout, **more)


def noise(images, classes, seed, side=SIDE, void=0.1):
    """Images and labels of noise, with a share of unlabelled pixels."""
    draws = np.random.default_rng(seed)
    pairs = []
    for _ in range(images):
        labels = draws.integers(classes, size=(side, side)).astype(np.uint8)
        labels[draws.random((side, side)) < void] = 255
        pairs.append((draws.integers(256, size=(side, side, 3)).astype(np.uint8), labels))
    return pairs


def stripes(images, seed, colours=((250, 20, 20), (20, 250, 20), (20, 20, 250))):
    """Images of columns of patches in the colours of their classes."""
    draws = np.random.default_rng(seed)
    pairs = []
    for _ in range(images):
        labels = np.repeat(draws.integers(len(colours), size=SIDE // PATCH), PATCH).astype(np.uint8)
        labels = np.tile(labels, (SIDE, 1))
        pairs.append((np.array(colours, np.uint8)[labels], labels))
    return pairs


def of_patches(array):
    """(16, P² …) of an array (16, 16, …): its patches, row-major, by numpy alone."""
    grid = array.reshape(SIDE // PATCH, PATCH, SIDE // PATCH, PATCH, -1).swapaxes(1, 2)
    return grid.reshape((SIDE // PATCH) ** 2, PATCH**2, -1)


def features(pairs):
    """Features (N, 48), float64, of the patches of all images, as `PatchPixels` gives them but for their order."""
    return np.concatenate([of_patches(image).reshape(16, -1) for image, _ in pairs]) / 255 - 0.5


def labels(pairs):
    """Labels (N, 16) of the pixels of the patches of all images."""
    return np.concatenate([of_patches(own)[..., 0] for _, own in pairs])


def torch_seed(seed):
    return torch.Generator().manual_seed(seed)
