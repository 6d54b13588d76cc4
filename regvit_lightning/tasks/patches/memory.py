"""Memory of labelled patches, bounded in size: what nearest patches are looked up in.

Source: Balažević et al. 2023 (arXiv 2306.01667), section 3 and appendix, and open-hummingbird-eval, for the patches of
an image that are kept where not all fit.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regvit_lightning.data import ade20k
from regvit_lightning.data.image_sets import Segmentation
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.masks import Pairs
from regvit_lightning.data.squashed import Squashed
from regvit_lightning.frozen.contract import Outcome
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.runtime import hardware, seeds
from regvit_lightning.settings import check
from regvit_lightning.tasks.patches import protocol
from regvit_lightning.tasks.patches.label_maps import class_counts
from regvit_lightning.tasks.patches.protocol import MaskedSettings, PatchModule, Scored


def kept_patches(pixels: Tensor, classes: int, limit: int, seed: int, number: int) -> Tensor:
    """Ascending indices of the at most `limit` labelled patches of an image that enter the memory.

    The patches with the lowest product of U(0, 1) and the sum, over the classes that a patch holds, of the number of
    patches of the image that hold that class: patches with rare classes are preferred. A patch without any labelled
    pixel is never kept.

    Args:
        pixels: (h w, P²) labels of the pixels, 255 for unlabelled ones.
        seed, number: seed of the draws, and the number of the image in the pass.
    """
    present = class_counts(pixels, classes) > 0
    labelled = present.any(dim=1).nonzero().flatten()
    if len(labelled) <= limit:
        return labelled
    frequency = (present * present.sum(dim=0)).sum(dim=1)
    draws = torch.rand(len(pixels), generator=seeds.generator(seed, "memory", number)).to(pixels.device)
    order = (frequency * draws)[labelled].argsort()
    return labelled[order[:limit]].sort().values


class PatchMemory:
    """Features and labels of patches of train images.

    Args:
        rows: maximum number of patches, for which memory is allocated at once.
        width: D.
        area: pixels of a patch.
        device: where they are kept.

    Attributes:
        features: (N, D) float32.
        pixels: (N, P²) uint8, class indices and 255 for unlabelled pixels.
        images: (N,) index of the image of each patch.
    """

    def __init__(self, rows: int, width: int, area: int, device: torch.device) -> None:
        self._features = torch.empty(rows, width, device=device)
        self._pixels = torch.empty(rows, area, dtype=torch.uint8, device=device)
        self._images = torch.empty(rows, dtype=torch.long, device=device)
        self.filled = 0

    def add(self, features: Tensor, pixels: Tensor, image: int) -> None:
        """Add patches (n, D) with labels (n, P²) of one image."""
        rows = slice(self.filled, self.filled + len(features))
        self._features[rows], self._pixels[rows], self._images[rows] = features, pixels, image
        self.filled = rows.stop

    @property
    def features(self) -> Tensor:
        return self._features[: self.filled]

    @property
    def pixels(self) -> Tensor:
        return self._pixels[: self.filled]

    @property
    def images(self) -> Tensor:
        return self._images[: self.filled]


class MemoryModule(PatchModule):
    """Validation fills a memory with patches of train images.

    Args:
        backbone, settings, classes: as for `PatchModule`.
        limit: maximum number of patches.
        views: number of train views, over which the memory is spread.
        side: side of the input in pixels.
        seed: seed of the choice of patches.

    Attributes:
        memory: the patches, available after validation.
        seen: (classes,) number of train pixels of each class.

    Raises:
        SettingsError: less than one patch for each view.
    """

    validates_on = "train images"
    shares_passes = True
    memory: PatchMemory
    seen: Tensor

    def __init__(
        self,
        backbone: Backbone,
        settings: MaskedSettings,
        classes: int,
        limit: int,
        views: int,
        side: int,
        seed: int,
    ) -> None:
        super().__init__(backbone, settings, classes)
        check(limit >= views, f"memory={limit}: below one patch for each of {views:,} train views")
        self.views, self.side, self.draws = views, side, seed
        self.per_image = min(limit // views, (side // backbone.patch_size) ** 2)
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.long), persistent=False)

    def on_validation_start(self) -> None:
        backbone = self.frozen.backbone
        rows = self.views * self.per_image
        self.memory = PatchMemory(rows, backbone.embed_dim, backbone.patch_size**2, self.device)
        self.seen.zero_()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        seen, patches = class_counts(batch["labels"].flatten()[None], self.classes)[0], []
        parts = self.features(batch["image"]).flatten(1, 2), self.pixels(batch["labels"]).flatten(1, 2)
        for features, pixels, number in zip(*parts, batch["index"].tolist(), strict=True):
            kept = kept_patches(pixels, self.classes, self.per_image, self.draws, number)
            patches.append((features[kept], pixels[kept], number))
        return seen, patches

    def validated(self, measured: tuple[Tensor, list[tuple[Tensor, Tensor, int]]]) -> None:
        self.seen += measured[0]
        for patches in measured[1]:
            self.memory.add(*patches)


# -------------------------------------------------------------------------------------------------------- all of it


@dataclass(frozen=True)
class MaskedImages:
    """Images of a set with masks, as a backbone reads them.

    Attributes:
        layout: what the masks mean.
        side: side of the input in pixels.
        train: pairs of image and mask.
        tested: the test images.
    """

    layout: Segmentation
    side: int
    train: Pairs
    tested: Squashed


def masked_images(backbone: Backbone, data: DataSettings, settings: MaskedSettings) -> MaskedImages:
    """The images of `settings.images`.

    Raises:
        SettingsError: no such set.
        DataError: it is missing, incomplete or unreadable.
    """
    layout, side = data.masked_set(settings.images), settings.side(backbone)
    train, test = (ade20k.masked_pairs(data, settings.images, split) for split in (0, 1))
    return MaskedImages(layout, side, train, Squashed(test, layout, side))


def outcome(module: MemoryModule, images: MaskedImages, predict: Any, facts: dict[str, Any], seed: int) -> Outcome:
    """What a task records once its test pass is over; see `protocol.outcome`."""
    module.to(hardware.accelerator()).eval()
    scored = Scored(module.areas, module.seen.cpu(), images.layout, images.tested)
    return protocol.outcome(module, scored, predict, facts, seed)
