"""What all evaluations by patches share: square views, scores at two sizes, the ceiling of the grid, the outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from regvit_lightning.data import ade20k
from regvit_lightning.data.image_sets import Segmentation
from regvit_lightning.data.squashed import Squashed
from regvit_lightning.errors import UserError
from regvit_lightning.figures import grids
from regvit_lightning.frozen import dense
from regvit_lightning.frozen.contract import Metric, Outcome
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.frozen.settings import TaskSettings
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.settings import MISSING, OWN_MASKS, number
from regvit_lightning.statistics import bootstrap, ious, miou
from regvit_lightning.tasks.patches.label_maps import class_shares, pixels_of_patches, resized, upsampled
from regvit_lightning.tasks.segmentation import areas, constant, palette, scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {"miou": Metric(), "miou_resized": Metric(), "ceiling": Metric(better=0)}
READS = "segmentation"
USUAL_PATCH = 16  # pixels, for estimates of the work
RESIZED = "miou_resized"
TWO_SIZES = "miou: the masks' own size; miou_resized: masks resized to the input, as in the reference"
CEILINGS = {"ceiling": "miou", "ceiling_resized": RESIZED}  # the score that a ceiling bounds

Maps = tuple[Tensor, Tensor]  # class indices at the mask's own size (H, W), and at the size of the input


@dataclass
class MaskedSettings(TaskSettings):
    """Settings common to the evaluations by patches.

    Attributes:
        images: name of a set with masks, see `DataSettings.masked_set`.
        size: side in pixels to which images are squashed, rounded to a multiple of the patch size.
    """

    images: str = MISSING
    size: int = number("[1, 1e4]")

    @property
    def named_set(self) -> str:
        return "" if self.images == OWN_MASKS else self.images

    @property
    def section(self) -> str:
        """Name of the set among the counts of the data."""
        return self.named_set or READS

    def side(self, backbone: Backbone) -> int:
        """Side of the input in pixels: the multiple of the patch size nearest to `size`, at least one patch."""
        return max(round(self.size / backbone.patch_size), 1) * backbone.patch_size


class PatchModule(FrozenModule):
    """A pass over test images whose pixels get class indices from their patches.

    Args:
        backbone, settings: source of the features, and settings of the task.
        classes: number of classes.

    Attributes:
        areas: by metric `miou` and `miou_resized`, and by their ceilings, (images, 3, classes) as `segmentation.areas`
            gives them, in the order of the images; filled by test.
    """

    shares_passes = True
    areas: dict[str, Tensor]

    def __init__(self, backbone: Backbone, settings: MaskedSettings, classes: int) -> None:
        super().__init__(backbone, settings.precision)
        self.classes = classes
        self._areas: list[dict[str, Tensor]] = []

    def features(self, images: Tensor) -> Tensor:
        """Patches (B, h, w, D) after the final norm, float32, of uint8 images (B, 3, S, S); stored ones as they are."""
        return images if images.is_floating_point() else self.tokens(images)[0].patches

    def pixels(self, labels: Tensor) -> Tensor:
        """Labels (B, h, w, P²) of the pixels of each patch, from labels (B, S, S)."""
        return pixels_of_patches(labels, self.frozen.backbone.patch_size)

    def from_shares(self, shares: Tensor, mask: Tensor, side: int) -> Maps:
        """Maps of the largest of the bilinearly upsampled shares (h, w, classes), for a mask (H, W)."""
        height, width = mask.shape
        return upsampled(shares, height, width), upsampled(shares, side, side)

    def from_labels(self, labels: Tensor, mask: Tensor) -> Maps:
        """Maps of labels (S, S), for a mask (H, W)."""
        return resized(labels, *mask.shape), labels

    def best(self, pixels: Tensor, mask: Tensor, side: int) -> Maps:
        """The maps of an image whose patches (h, w, P²) all got their own labels: what the grid allows at best."""
        h, w = pixels.shape[:2]
        shares = class_shares(pixels.flatten(0, 1), self.classes)
        return self.from_shares(shares.view(h, w, -1), mask, side)

    def scored(self, prediction: Maps, best: Maps, mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Areas (3, classes) by metric, of the prediction and of the ceiling, at both sizes."""
        truths = mask, labels
        names = ("miou", RESIZED), tuple(CEILINGS)
        return {
            name: areas(one, truth, self.classes).cpu()
            for maps, both in zip((prediction, best), names, strict=True)
            for name, one, truth in zip(both, maps, truths, strict=True)
        }

    def tested(self, measured: list[dict[str, Tensor]]) -> None:
        self._areas += measured

    def on_test_start(self) -> None:
        self._areas = []

    def on_test_epoch_end(self) -> None:
        self.areas = {name: torch.stack([one[name] for one in self._areas]) for name in self._areas[0]}


# ------------------------------------------------------------------------------------------------------- outcome


@dataclass(frozen=True)
class Scored:
    """What the test pass of a task gave.

    Attributes:
        areas: as `PatchModule.areas`.
        seen: (classes,) train pixels of each class, whose most frequent is the floor; None without train images.
        layout: what the masks mean.
        test: the test images.
    """

    areas: Mapping[str, Tensor]
    seen: Tensor | None
    layout: Segmentation
    test: Squashed


def outcome(module: PatchModule, scored: Scored, predict: Any, protocol: dict[str, Any], seed: int) -> Outcome:
    """Metrics, intervals over images, floors, per-class IoU and the picture.

    Args:
        predict: gives the class indices (H, W) of one sample of `Squashed`, for the picture.
        protocol: details of the protocol that are special to the task.

    Raises:
        UserError: no test pixel has a label.
    """
    of = scored.areas
    totals = {name: of[name].sum(dim=0) for name in ("miou", RESIZED, *CEILINGS)}
    if not totals["miou"][2].any():
        raise UserError(f"miou is undefined: no pixel of the {len(of['miou']):,} test masks has a label")
    names = ade20k.class_names(scored.layout)
    by_class = zip(names, ious(totals["miou"].numpy()).tolist(), strict=True)
    return Outcome(
        metrics={**scores(totals["miou"]), **{name: scores(totals[name])["miou"] for name in (RESIZED, *CEILINGS)}},
        images=len(of["miou"]),
        intervals={name: bootstrap(of[name], seed, miou) for name in ("miou", RESIZED)},
        scores={name: of[name] for name in ("miou", RESIZED)},
        protocol={**protocol, "scored_at": TWO_SIZES, **facts(scored, module)},
        per_class={name: None if isnan(iou) else iou for name, iou in by_class},
        floors={} if scored.seen is None else {"most frequent class": _constant(totals, int(scored.seen.argmax()))},
        picture=picture(scored, predict, names, palette(scored.layout)),
    )


def _constant(totals: Mapping[str, Tensor], most: int) -> dict[str, float]:
    own = constant(totals["miou"], most)
    return {**own, RESIZED: constant(totals[RESIZED], most)["miou"]}


def facts(scored: Scored, module: PatchModule) -> dict[str, Any]:
    """Details of the protocol that all evaluations by patches share."""
    backbone, side = module.frozen.backbone, scored.test.side
    grid = side // backbone.patch_size
    return {
        "classes": scored.layout.classes,
        "ignored_label": scored.layout.ignored,
        "zero_label": "unlabelled, not scored" if scored.layout.zero_is_unlabelled else "a class",
        "view": f"squashed to {side} × {side}, bilinear, labels nearest; {grid} × {grid} patches",
        "mean_std": "the model's own",
        "padding": "none",
    }


def picture(scored: Scored, predict: Any, names: Sequence[str], colours: np.ndarray) -> "Figure":
    """Picture of the test images with the worst, median and best mIoU over the classes that they have or get."""
    of_images = [miou(one.numpy()) for one in scored.areas["miou"]]
    chosen = dense.by_score(of_images, better=1)
    texts = [f"{name} of {len(of_images):,}: mIoU {of_images[index]:.1f} %" for name, index in chosen.items()]
    shown = [(*scored.test.open(index), predict(scored.test[index])) for index in chosen.values()]
    images, truths, predictions = zip(*shown, strict=True)
    return grids.segmentation_examples(
        [np.asarray(image) for image in images], truths, predictions, names, colours, texts
    )
