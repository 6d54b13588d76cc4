"""Object discovery protocol: one box per image from frozen features by any method, evaluated by CorLoc.

Source: Siméoni et al. 2021 (arXiv 2109.14279), section 4.1; Darcet et al. 2023 (arXiv 2309.16588), section 3.3 and
table 3. Images have their native size; they are zero-padded after normalisation, at the right and at the bottom, to
whole patches, and the padding is not masked. An image is correct if the box has an IoU of at least 0.5 with any of
its objects.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops import box_iou

from regvit_lightning.data.boxes import BoxedImages
from regvit_lightning.data.discovery import BoxedImagesModule, NativeSize, boxed_images, fitting, pad_together
from regvit_lightning.data.images import open_image
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.module import Loading
from regvit_lightning.data.transforms import normalise
from regvit_lightning.figures import boxes as figures_boxes
from regvit_lightning.frozen import dense
from regvit_lightning.frozen.contract import Outcome, RunOptions
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.frozen.settings import TaskSettings
from regvit_lightning.frozen.trainer import Tester
from regvit_lightning.models import kinds
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.runtime import hardware
from regvit_lightning.runtime.onednn import FastLinear
from regvit_lightning.settings import MISSING, check, number
from regvit_lightning.statistics import accuracy_interval
from regvit_lightning.work import ImageCounts, Pass, Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEATURES = ("q", "k", "v")
USUAL_SIZES = {"voc07": (375, 500), "voc12": (375, 500)}  # height and width of most images
USUAL_SIZE = (480, 640)  # of COCO, and assumed for every other set
USUAL_PATCH = 16  # pixels
OVERLAP = 0.5  # minimum IoU of a correct box
MOST_UNIFORM = 0.05  # share of images without any basis for a box above which a run warns

Source = tuple[int, str]  # block, and q, k or v


@dataclass
class DiscoverySettings(TaskSettings):
    """Settings common to all object discovery tasks.

    Attributes:
        images: name of a set with boxes, see `DataSettings.discovery`.
        max_patches: larger images are downscaled to at most this many patches; the record has their number.
    """

    images: str = MISSING
    max_patches: int = number("[1, 1e6]")

    @property
    def named_set(self) -> str:
        return self.images


@dataclass
class SingleSourceSettings(DiscoverySettings):
    """Settings of a discovery method on the projections of one block.

    Attributes:
        feature: q, k or v; auto uses the registers paper's choice for LOST.
        block: block whose projections are used, -1 is the last.
    """

    feature: str = MISSING
    block: int = number("[-1000, 1000]")

    def source(self, backbone: Backbone) -> Source:
        """Resolve block and feature for this backbone.

        Raises:
            SettingsError: the backbone has no such block, or the feature is unknown.
        """
        check_block(backbone, self.block)
        return self.block, feature_of(backbone, self.feature)


def feature_of(backbone: Backbone, wanted: str) -> str:
    """Resolve the feature to q, k or v; `auto` is the registers paper's choice by the kind of model.

    The choice is values for DeiT-III and OpenCLIP, and keys for DINOv2 (section 3.3) and, as in LOST, for all others.

    Raises:
        SettingsError: another name.
    """
    check(wanted in ("auto", *FEATURES), f"feature={wanted}: expected auto, q, k or v")
    if wanted != "auto":
        return wanted
    return "v" if backbone.kind in (kinds.DEIT3, kinds.CLIP) else "k"


def work(settings: DiscoverySettings, images: ImageCounts) -> Work:
    """Work: every image once, at the usual size of its set, or reduced to `max_patches` patches of the usual side."""
    height, width = USUAL_SIZES.get(settings.images, USUAL_SIZE)
    scale = min(math.sqrt(settings.max_patches * USUAL_PATCH**2 / (height * width)), 1.0)
    return Work([Pass(images[settings.images][0], round(scale * height), round(scale * width))])


def check_block(backbone: Backbone, block: int) -> None:
    """Raise `SettingsError` unless the backbone has the block."""
    numbers = f"0 to {backbone.depth - 1}, or -1 to {-backbone.depth} from the end"
    there = -backbone.depth <= block < backbone.depth
    check(there, f"block={block}: {backbone.name} has {backbone.depth}, numbered {numbers}")


# ------------------------------------------------------------------------------------------------------- methods


@dataclass(frozen=True)
class DiscoveredBoxes:
    """Boxes of B images with each of S settings of a method.

    Attributes:
        boxes: (B, S, 4) x1, y1, x2, y2 in patches, ends excluded.
        fallback: (B, S) bool, where the method detected no object and used its fallback.
        uniform: (B, S) bool, where the similarities of the patches are no basis for a choice, see `Method.uniform`.
        tied: (B, S) bool, where several patches are equally good as the seed and the upper left one is taken.
    """

    boxes: Tensor
    fallback: Tensor
    uniform: Tensor
    tied: Tensor


@dataclass(frozen=True)
class Steps:
    """Intermediate results of a method for one image, for a picture.

    Attributes:
        box: (4,) x1, y1, x2, y2 in patches, ends excluded.
        seed: index in the grid, row-major.
        maps: maps (h, w) by title.
    """

    box: Tensor
    seed: int
    maps: dict[str, Tensor]


class Method(Protocol):
    """Discovery method: maps features to boxes with one or more settings.

    Attributes:
        sources: features that the method takes, (B, h, w, D) float32 each, in this order.
        uniform: name in records of the share of images whose patches are all equally similar.
    """

    sources: Sequence[Source]
    uniform: str

    def __call__(self, features: Sequence[Tensor]) -> DiscoveredBoxes: ...

    def steps(self, features: Sequence[Tensor]) -> Steps:
        """Intermediate results for a batch of one image, for a method with one setting."""
        ...

    def remark(self, count: int, images: int) -> str:
        """Line that says that `count` of the images are uniform, and what to do about it."""
        ...


@dataclass(frozen=True)
class Doubts:
    """Images of a run whose box does not rest on their content, for one setting.

    Attributes:
        images: number of images.
        fallbacks, uniform, tied: number of those images, see `DiscoveredBoxes`.
    """

    images: int
    fallbacks: int
    uniform: int
    tied: int

    def facts(self, method: Method) -> dict[str, Any]:
        """Entries of the record: the number of fallbacks, shares in 0..1, and the warning if there is one."""
        warnings = self.remarks(method)
        shares = {method.uniform: self.uniform, "tied_seed_share": self.tied}
        return {
            "fallbacks": self.fallbacks,
            **{name: round(count / self.images, 4) for name, count in shares.items()},
            **({"warning": warnings[0]} if warnings else {}),
        }

    def remarks(self, method: Method) -> list[str]:
        """A warning with its remedy where more than `MOST_UNIFORM` of the images are uniform, else nothing."""
        many = self.uniform > MOST_UNIFORM * self.images
        return [method.remark(self.uniform, self.images)] if many else []


# -------------------------------------------------------------------------------------------------------- scores


def overlaps(boxes: Tensor, truth: Tensor) -> Tensor:
    """Largest IoU (S,) of boxes (S, 4) with any true box (M, 4), in pixels; 0 without any."""
    if not len(truth):
        return torch.zeros(len(boxes), dtype=torch.float64)
    return box_iou(boxes.double(), truth.double()).amax(dim=1)


def hits(boxes: Tensor, truth: Tensor) -> Tensor:
    """Correctness (S,) of boxes (S, 4): IoU of at least `OVERLAP` with any true box (M, 4), in pixels."""
    return overlaps(boxes, truth) >= OVERLAP


def floors(images: BoxedImages, indices: Sequence[int]) -> dict[str, dict[str, float]]:
    """CorLoc of two boxes that ignore the image content, on the images at `indices`.

    They are the whole image, and a centred box with the mean width and height of all objects, relative to
    their images.
    """
    shares = [(images.boxes[index][:, 2:] - images.boxes[index][:, :2]) / images.sizes[index] for index in indices]
    mean = np.concatenate(shares).mean(axis=0)
    sizes = images.sizes[list(indices)].astype(np.float64)
    whole, centred = np.array([0, 0, 1, 1]), np.concatenate([0.5 - mean / 2, 0.5 + mean / 2])
    boxes = {"whole image": np.tile(sizes, 2) * whole, "centred box of mean size": np.tile(sizes, 2) * centred}
    return {name: {"corloc": _corloc_of(guesses, images, indices)} for name, guesses in boxes.items()}


def _corloc_of(guesses: npt.NDArray[np.float64], images: BoxedImages, indices: Sequence[int]) -> float:
    truths = [torch.from_numpy(images.boxes[index]) for index in indices]
    right = [hits(guess[None], truth) for guess, truth in zip(torch.from_numpy(guesses), truths, strict=True)]
    return 100 * torch.cat(right).double().mean().item()


# ---------------------------------------------------------------------------------------------------------- pass


class BoxPass(FrozenModule):
    """A pass over images whose boxes are in patches of the grid.

    Args:
        backbone, precision: as for `FrozenModule`.
        read: the images, at the sizes at which they are read.
    """

    def __init__(self, backbone: Backbone, precision: str, read: NativeSize) -> None:
        super().__init__(backbone, precision)
        self.read = read

    def patch(self, index: int) -> Tensor:
        """Width and height (2,) of a patch of one image, in pixels of its file."""
        own, read = self.read.images.sizes[index], self.read.sizes[index]
        return self.frozen.backbone.patch_size * torch.from_numpy(own / read)

    def in_pixels(self, boxes: Tensor, index: int) -> Tensor:
        """Convert boxes (…, 4) of one image from patches to pixels of its file, clipped to exclude padding."""
        size = torch.from_numpy(self.read.images.sizes[index])
        return torch.minimum(boxes * self.patch(index).repeat(2), size.repeat(2))


class Discoverer(BoxPass):
    """Runs a discovery method over images and evaluates its boxes.

    Attributes:
        right: (N, S) bool, correctness of the box of each image with each setting, available after test.
        fallbacks, uniform, tied: (N, S) bool, see `DiscoveredBoxes`.
        overlaps: (N, S), largest IoU of each of these boxes with an object.
    """

    shares_passes = True
    overlaps: Tensor
    right: Tensor
    fallbacks: Tensor
    uniform: Tensor
    tied: Tensor

    def __init__(self, backbone: Backbone, precision: str, method: Method, read: NativeSize) -> None:
        super().__init__(backbone, precision, read)
        self.method = method
        self._rows: dict[int, tuple[Tensor, ...]] = {}

    def features(self, images: Tensor, sizes: Tensor) -> list[Tensor]:
        """Features for the method, (B, h, w, D) float32 each, of uint8 images (B, 3, H, W) with sizes (B, 2)."""
        inputs = padded(normalise(images, self.mean, self.std), sizes)
        blocks = list(dict.fromkeys(block for block, _ in self.method.sources))
        with self.frozen.autocast(inputs), FastLinear():
            inside = dict(zip(blocks, self.frozen.backbone.projections(inputs, blocks), strict=True))
        return [getattr(inside[block], feature).patches.float() for block, feature in self.method.sources]

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        discovered = self.method(self.features(batch["image"], batch["size"]))
        flags = torch.stack([discovered.fallback, discovered.uniform, discovered.tied], dim=1).cpu()
        rows = {}
        for index, own, flag in zip(batch["index"].tolist(), discovered.boxes.cpu(), flags, strict=True):
            truth = torch.from_numpy(self.read.images.boxes[index])
            boxes = self.in_pixels(own, index)
            rows[index] = hits(boxes, truth), *flag, overlaps(boxes, truth)
        return rows

    def tested(self, measured: dict[int, tuple[Tensor, ...]]) -> None:
        self._rows |= measured

    def on_test_epoch_end(self) -> None:
        rows = [self._rows[index] for index in range(len(self.read))]
        columns = (torch.stack(column) for column in zip(*rows, strict=True))
        self.right, self.fallbacks, self.uniform, self.tied, self.overlaps = columns

    def doubts(self, setting: int, indices: Sequence[int]) -> Doubts:
        """Count the images at `indices` whose box does not rest on their content with one setting."""
        flags = (self.fallbacks, self.uniform, self.tied)
        return Doubts(len(indices), *(int(flag[list(indices), setting].sum()) for flag in flags))


def padded(images: Tensor, sizes: Tensor) -> Tensor:
    """Zero the images (B, C, H, W) below and to the right of their heights and widths (B, 2)."""
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[2:])
    inside = (rows < sizes[:, :1])[:, :, None] & (columns < sizes[:, 1:])[:, None]
    return images * inside[:, None]


def discover(
    backbone: Backbone, data: DataSettings, settings: DiscoverySettings, method: Method, how: RunOptions
) -> Discoverer:
    """Run the method over all images, with one forward pass per image.

    Raises:
        UserError: the backbone does not expose q, k and v.
        DataError: the images are missing, an annotation does not fit, or an image is smaller than a patch.
    """
    backbone.require_plain_vit()
    images = boxed_images(data, settings.images)
    check_sizes(images, backbone.patch_size)
    read = NativeSize(images, fitting(images.sizes, backbone.patch_size, settings.max_patches))
    module = Discoverer(backbone, settings.precision, method, read)
    loading = Loading(settings.workers, settings.device_batch)
    Tester(how).test(module, BoxedImagesModule(loading, read, backbone.patch_size), verbose=False)
    return module


def check_sizes(images: BoxedImages, patch_size: int) -> None:
    """Raise `DataError` if an image is smaller than a patch."""
    small = np.flatnonzero(images.sizes.min(axis=1) < patch_size).tolist()
    if small:
        width, height = images.sizes[small[0]].tolist()
        more = f" and {len(small) - 1} more" if small[1:] else ""
        which = f"image {images.path(small[0])}, {width} × {height} px{more}"
        raise DataError(f"{which}: smaller than a patch of {patch_size} px; take it off the list")


def run(
    backbone: Backbone,
    data: DataSettings,
    settings: DiscoverySettings,
    method: Method,
    facts: dict[str, Any],
    how: RunOptions,
) -> Outcome:
    """CorLoc of a method with one setting, with boxes that ignore the image as floors.

    Args:
        facts: details of the method for the record.

    Raises:
        DataError: as for `discover`.
    """
    module = discover(backbone, data, settings, method, how)
    right, doubts = 100.0 * module.right[:, 0], module.doubts(0, range(len(module.right)))
    return Outcome(
        metrics={"corloc": right.mean().item()},
        images=len(right),
        intervals={"corloc": accuracy_interval(right, how.seed)},
        scores={"corloc": right},
        protocol={**facts, **doubts.facts(method), **protocol(module, settings)},
        floors=floors(module.read.images, range(len(right))),
        picture=picture(module, method, module.overlaps[:, 0]),
        remarks=doubts.remarks(method),
    )


def protocol(module: Discoverer, settings: DiscoverySettings) -> dict[str, Any]:
    """Details of the protocol shared by all methods, for the record."""
    images = module.read.images
    shrunk = int((module.read.sizes != images.sizes).any(axis=1).sum())
    return {
        "images": settings.images,
        "objects": "all, difficult and truncated ones too",
        "left_out": dict(images.left_out),
        "without_a_box": sum(len(boxes) == 0 for boxes in images.boxes),
        "right": f"IoU of at least {OVERLAP} with any object, one box per image",
        "view": "native size, zeros after normalisation at the right and bottom up to whole patches, which take part",
        "reduced": f"{shrunk} images of more than {settings.max_patches} patches",
    }


def picture(module: Discoverer, method: Method, ious: Tensor) -> "Figure":
    """Picture of the images with the worst, median and best box, with the maps behind it; one more pass for each.

    Args:
        method: method with one setting; need not be the one that was run.
        ious: (N,), largest IoU of the method's box with an object; NaN for an image that is not to be shown.
    """
    module.method = method
    module.to(hardware.accelerator())
    chosen, count = dense.by_score(ious.tolist(), better=1), int(ious.isfinite().sum())
    texts = [f"{name} of {count:,}: IoU {ious[index]:.2f}" for name, index in chosen.items()]
    rows = [_example(module, index, text) for index, text in zip(chosen.values(), texts, strict=True)]
    return figures_boxes.discovery_examples(rows)


def _example(module: Discoverer, index: int, score: str) -> figures_boxes.Example:
    images, patch = module.read.images, module.patch(index)
    batch = pad_together([module.read[index]], module.frozen.backbone.patch_size)
    steps = module.method.steps(module.features(batch["image"].to(module.device), batch["size"].to(module.device)))
    row, column = divmod(steps.seed, next(iter(steps.maps.values())).shape[1])
    return figures_boxes.Example(
        image=np.asarray(open_image(images.path(index))),
        truths=images.boxes[index],
        box=module.in_pixels(steps.box.cpu(), index).numpy(),
        seed=((column + 0.5) * patch[0].item(), (row + 0.5) * patch[1].item()),
        maps={title: values.cpu().numpy() for title, values in steps.maps.items()},
        patch=tuple(patch.tolist()),
        score=score,
    )
