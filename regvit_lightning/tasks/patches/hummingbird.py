"""In-context segmentation, the Hummingbird protocol: each patch gets the mean label of its nearest train patches.

Source: Balažević et al. 2023 (arXiv 2306.01667), and open-hummingbird-eval, whose settings these are. Patches after the
final norm, L2-normalised; labels of a patch are the shares of its pixels; the 30 nearest patches are weighted by the
softmax of their cosine similarity divided by 0.02; the map of shares is upsampled bilinearly.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import Loading
from regvit_lightning.data.squashed import Squashed, SquashedImages
from regvit_lightning.frozen import shared_patches
from regvit_lightning.frozen.contract import Outcome, RunOptions
from regvit_lightning.frozen.trainer import Tester
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.neighbours import search_fast
from regvit_lightning.runtime.onednn import FastLinear
from regvit_lightning.settings import check, number
from regvit_lightning.tasks.patches import protocol
from regvit_lightning.tasks.patches.label_maps import class_shares
from regvit_lightning.tasks.patches.memory import MemoryModule, masked_images, outcome
from regvit_lightning.tasks.patches.protocol import MaskedSettings
from regvit_lightning.work import ImageCounts, Pass, Work

METRICS = protocol.METRICS
READS = protocol.READS
FOOTNOTE = ("view", "memory", "scored_at")


@dataclass
class HummingbirdSettings(MaskedSettings):
    """Settings of in-context segmentation.

    Attributes:
        memory: maximum number of train patches in the memory, spread evenly over the train images.
        epochs: passes over the train images, each with crops of its own.
        scale: range of the area of the crops of train images, relative to the image; empty takes the whole images.
        neighbours: k.
        temperature: of the softmax over the similarities.
        bank_chunk: patches of the memory compared with the queries at once; bounds memory.
    """

    memory: int = number("[1, 1e9]")
    epochs: int = number("[1, 1000]")
    scale: list[float] = number("(0, 100]")
    neighbours: int = number("[1, 1e5]")
    temperature: float = number("(0, 1e3]")
    bank_chunk: int = number("[1, 1e9]")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(len(self.scale) in (0, 2), f"scale={self.scale}: expected two numbers such as [0.5,2.0], or []")


SETTINGS = HummingbirdSettings


class InContext(MemoryModule):
    """Validation fills the memory with train patches, test labels the patches of test images from it.

    Args:
        backbone, settings, classes: as for `PatchModule`.
        views, side, seed: as for `MemoryModule`.
    """

    def __init__(
        self, backbone: Backbone, settings: HummingbirdSettings, classes: int, views: int, side: int, seed: int
    ) -> None:
        super().__init__(backbone, settings, classes, settings.memory, views, side, seed)
        self.settings = settings

    def features(self, images: Tensor) -> Tensor:
        """L2-normalised patches (B, h, w, D) after the final norm, float32, of uint8 images (B, 3, S, S)."""
        return F.normalize(super().features(images), dim=3)

    def shares(self, features: Tensor) -> Tensor:
        """Mean label (Q, classes) of the nearest train patches, for normalised features (Q, D)."""
        settings = self.settings
        with FastLinear():
            similarity, index = search_fast(features, self.memory.features, settings.neighbours, settings.bank_chunk)
        weights = F.softmax(similarity / settings.temperature, dim=1)
        parts = zip(weights.split(1024), index.split(1024), strict=True)  # bounds memory
        return torch.cat([_mean_label(weight, some, self.memory.pixels, self.classes) for weight, some in parts])

    def maps(self, batch: dict[str, Any]) -> list[protocol.Maps]:
        """Predicted maps of each image of a batch, see `PatchModule`."""
        features = self.features(batch["image"])
        shares = self.shares(features.flatten(0, 2)).view(*features.shape[:3], -1)
        return [self.from_shares(one, mask, self.side) for one, mask in zip(shares, batch["mask"], strict=True)]

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        every = zip(self.maps(batch), self.pixels(batch["labels"]), batch["mask"], batch["labels"], strict=True)
        return [self.scored(own, self.best(parts, mask, self.side), mask, labels) for own, parts, mask, labels in every]

    @torch.inference_mode()
    def example(self, sample: dict[str, Any]) -> np.ndarray:
        """Prediction (H, W), uint8, at the size of the mask, of one sample of the data set."""
        image, mask = sample["image"][None].to(self.device), sample["mask"].to(self.device)
        own: np.ndarray = self.maps({"image": image, "mask": [mask]})[0][0].cpu().numpy()
        return own


def _mean_label(weights: Tensor, index: Tensor, pixels: Tensor, classes: int) -> Tensor:
    """Weighted mean (Q, classes) of the class shares of k patches, from weights (Q, k) and their indices (Q, k).

    A patch that is near many queries is counted once.

    Args:
        pixels: (N, P²) labels of all patches.
    """
    patches, place = index.unique(return_inverse=True)
    shares = class_shares(pixels[patches], classes)
    return F.embedding_bag(place, shares, mode="sum", per_sample_weights=weights)


def work(settings: HummingbirdSettings, images: ImageCounts) -> Work:
    """Work: every train view and every test image once; the patches of the memory stay on the device."""
    train, test = images[settings.section]
    views = settings.epochs * train
    kept = min(settings.memory, views * (settings.size // protocol.USUAL_PATCH) ** 2)
    return Work([Pass(views + test, settings.size, settings.size)], kept=kept)


def run(
    backbone: Backbone,
    data: DataSettings,
    settings: HummingbirdSettings,
    how: RunOptions = RunOptions(),  # noqa: B008
) -> Outcome:
    """mIoU of labels looked up in a memory of train patches, with the ceiling that the grid of patches allows.

    Raises:
        DataError: the data is missing, incomplete or unreadable, or a mask does not fit.
        SettingsError: the memory has less than one patch for each train view, or fewer patches than neighbours.
    """
    read = masked_images(backbone, data, settings)
    views = settings.epochs * len(read.train)
    learnt = Squashed(read.train, read.layout, read.side, settings.scale, how.seed, settings.epochs)
    loading = Loading(settings.workers, settings.device_batch)
    module = InContext(backbone, settings, read.layout.classes, views, read.side, how.seed)
    trainer = Tester(how)
    trainer.validate(module, SquashedImages(loading, learnt, None), verbose=False)
    k = f"neighbours={settings.neighbours}: above the {module.memory.filled:,} labelled patches of the memory"
    check(settings.neighbours <= module.memory.filled, k)
    trainer.test(module, shared_patches.passes(backbone, settings, how, test=read.tested), verbose=False)
    return outcome(module, read, module.example, _protocol(module, len(read.train)), how.seed)


def _protocol(module: InContext, train_images: int) -> dict[str, Any]:
    settings, kept = module.settings, module.memory.filled
    crops = f"crops of {settings.scale[0]:g}–{settings.scale[1]:g} of the area" if settings.scale else "whole images"
    return {
        "method": "Hummingbird, as in open-hummingbird-eval",
        "feature": "patches after the final norm, L2-normalised",
        "k": settings.neighbours,
        "temperature": settings.temperature,
        "memory": f"{kept:,} patches, at most {module.per_image} of a view; {crops} of train, {settings.epochs} × each",
        "memory_patches": kept,
        "search": "exact",
        "patch_labels": "class shares among the labelled pixels; patches without one are left out",
        "differs": "the reference divides by a std of 0.255 for 0.225 in blue, and stores unlabelled pixels as class 0",
        "upsampling": "bilinear, of the map of class shares",
        "chosen": "nothing",
        "train_images": train_images,
    }
