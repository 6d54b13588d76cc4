"""Registers as objects: one box per image from the attention map of a register, evaluated by CorLoc.

Source: that registers attend to different objects is shown by a figure of the registers paper (Darcet et al. 2023,
arXiv 2309.16588, Fig. 9) and has no published score. The map is the attention of a register to the patches of a block,
mean over heads; its box is that of `attention_boxes`. One register and block are chosen on held-out images, as is the
block of the baseline, the map of CLS. Any-of-R scores are a gain by themselves: they stand beside those of R heads of
CLS and of R random boxes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from regvit_lightning.data.boxes import BoxedImages
from regvit_lightning.data.discovery import BoxedImagesModule, NativeSize, boxed_images, fitting, pad_together
from regvit_lightning.data.images import open_image
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import Loading
from regvit_lightning.data.transforms import normalise
from regvit_lightning.errors import UserError
from regvit_lightning.figures import boxes as figures_boxes
from regvit_lightning.frozen import dense
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.frozen.settings import TELLING, uncertainty
from regvit_lightning.frozen.trainer import Tester
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.runtime import hardware, seeds
from regvit_lightning.settings import number
from regvit_lightning.statistics import accuracy_interval, bootstrap
from regvit_lightning.tasks.discovery import attention_boxes, protocol
from regvit_lightning.tasks.discovery.lost_sweep import best, split
from regvit_lightning.tasks.discovery.protocol import OVERLAP, BoxPass, DiscoverySettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {
    "corloc": Metric(),
    "corloc_cls": Metric(),
    "corloc_any_register": Metric(),
    "corloc_any_cls_head": Metric(),
    "corloc_any_random": Metric(),
    "recall_registers": Metric(),
    "recall_cls_heads": Metric(),
    "recall_random": Metric(),
    "pointing": Metric(),
    "pointing_cls": Metric(),
}
READS = "discovery"
NEEDS_REGISTERS = True
work = protocol.work
FOOTNOTE = ("chosen_on", "mass")
SHOWN = 4  # maps of registers in the picture


@dataclass
class RegisterDiscoverySettings(DiscoverySettings):
    """Settings of object discovery by the attention of registers.

    Attributes:
        blocks: blocks of which one is chosen, -1 is the last; empty for all.
        mass: share of the attention that the foreground of a map holds.
        held_out: share of the images on which register and block are chosen.
        random_boxes: number of random boxes from which the score of R of them is computed.
    """

    blocks: list[int] = number("[-1000, 1000]")
    mass: float = number("(0, 1]")
    held_out: float = number("(0, 1)")
    random_boxes: int = number("[1, 1e6]")


SETTINGS = RegisterDiscoverySettings


@dataclass(frozen=True)
class Hits:
    """Boxes of the maps of one image that are right, for some blocks b = 1..B.

    Attributes:
        registers: (B, R, M) bool, IoU of at least `OVERLAP` of each register's box with each object.
        cls: (B, 1, M), of the map of CLS; (B, 0, M) for a model without CLS.
        heads: (B, H, M), of the map of each head of CLS; (B, 0, M) without CLS, or where they were not asked for.
        pointing: (B, R + 1), or (B, R) without CLS: whether the maximum lies in an object; CLS is last.
        uniform: (B, R) bool, where all patches have the same attention.
        overlaps: (B, R), largest IoU of each register's box with an object.
    """

    registers: Tensor
    cls: Tensor
    heads: Tensor
    pointing: Tensor
    uniform: Tensor
    overlaps: Tensor


class RegisterBoxes(BoxPass):
    """Boxes of the attention maps of registers and CLS in some blocks, scored against the objects of each image.

    Args:
        backbone, precision, read: see `BoxPass`.
        blocks: indices of the blocks, 0 .. depth - 1.
        mass: see `attention_boxes.foreground`.
        heads: also take the map of each head of CLS.

    Attributes:
        hits: of each image, in the order of `read`, available after test.
    """

    shares_passes = True
    hits: list[Hits]

    def __init__(
        self, backbone: Backbone, precision: str, read: NativeSize, blocks: Sequence[int], mass: float, heads: bool
    ) -> None:
        super().__init__(backbone, precision, read)
        self.blocks, self.mass, self.heads = list(blocks), mass, heads
        self._by_index: dict[int, Hits] = {}

    def maps(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Maps (B, blocks, R + 1 + H, h, w) of uint8 images (B, 3, H, W): registers, CLS, and its heads if asked for.

        Without CLS the last two are missing.
        """
        inputs = protocol.padded(normalise(images, self.mean, self.std), sizes)
        with self.frozen.autocast(inputs):
            rows = self.frozen.backbone.prefix_attention(inputs, self.blocks)
        every = []
        for block in rows:
            kinds = [block.registers.mean(dim=1, dtype=torch.float32)]
            if block.cls is not None:
                kinds.append(block.cls.mean(dim=1, keepdim=True, dtype=torch.float32))
            if block.cls is not None and self.heads:
                kinds.append(block.cls.float())
            every.append(torch.cat(kinds, dim=1))
        return torch.stack(every, dim=1)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        maps = self.maps(batch["image"], batch["size"])
        found = attention_boxes.boxes(maps.flatten(0, 2), self.mass)
        parts = (part.unflatten(0, maps.shape[:3]).cpu() for part in (found.boxes, found.peaks, found.uniform))
        every = zip(batch["index"].tolist(), *parts, strict=True)
        return {index: self._hits(index, own, peaks, uniform, maps.shape[-1]) for index, own, peaks, uniform in every}

    def tested(self, measured: dict[int, Hits]) -> None:
        self._by_index |= measured

    def _hits(self, index: int, own: Tensor, peaks: Tensor, uniform: Tensor, columns: int) -> Hits:
        truth = torch.from_numpy(self.read.images.boxes[index]).double()
        registers = self.frozen.backbone.num_registers
        iou = box_iou(self.in_pixels(own, index).flatten(0, 1).double(), truth).unflatten(0, own.shape[:2])
        right = iou >= OVERLAP
        centres = torch.stack([peaks % columns, peaks // columns], dim=-1) + 0.5
        inside = _inside(centres * self.patch(index), truth)
        padded = torch.cat([iou, iou.new_zeros(*iou.shape[:2], 1)], dim=2)  # an image without objects has none right
        cls = registers + int(self.frozen.backbone.has_cls)
        return Hits(
            right[:, :registers],
            right[:, registers:cls],
            right[:, cls:],
            inside[:, :cls],
            uniform[:, :registers],
            padded[:, :registers].amax(dim=2),
        )

    def on_test_epoch_end(self) -> None:
        self.hits = [self._by_index[index] for index in range(len(self.read))]


def _inside(points: Tensor, truth: Tensor) -> Tensor:
    """Whether points (…, 2) lie in any of the boxes (M, 4)."""
    after, before = points[..., None, :] >= truth[:, :2], points[..., None, :] < truth[:, 2:]
    return (after & before).all(dim=-1).any(dim=-1)


@dataclass(frozen=True)
class Choice:
    """What is chosen on held-out images.

    Attributes:
        block, register: of the highest CorLoc, the first of several.
        equal: number of equally good pairs of block and register.
        cls_block: block of the map of CLS, by its CorLoc; that of the register for a model without CLS.
        corloc: (blocks, R) CorLoc of every block and register on the held-out images, in percent.
    """

    block: int
    register: int
    equal: int
    cls_block: int
    corloc: Tensor


def choose(hits: Sequence[Hits], blocks: Sequence[int]) -> Choice:
    """Choose block and register, and the block of CLS, by the hits of held-out images."""
    registers = 100 * torch.stack([one.registers.any(dim=2) for one in hits]).double().mean(dim=0)
    index, equal = best(registers.flatten())
    row, register = divmod(index, registers.shape[1])
    cls = torch.stack([one.cls.any(dim=2) for one in hits]).double().mean(dim=0)
    cls_row = best(cls[:, 0])[0] if cls.shape[1] else row
    return Choice(blocks[row], register, equal, blocks[cls_row], registers)


def run(
    backbone: Backbone,
    data: DataSettings,
    settings: RegisterDiscoverySettings,
    how: RunOptions = RunOptions(),  # noqa: B008
) -> Outcome:
    """Scores of one register's boxes on the images on which it was not chosen, beside CLS and random boxes.

    Raises:
        DataError: the images are missing, an annotation does not fit, or an image is smaller than a patch.
        SettingsError: the model has no such block, or one side of the split is empty.
        UserError: a model without registers, or one that does not expose attention.
    """
    backbone.require_plain_vit()
    if not backbone.num_registers:
        raise UserError(
            f"{backbone.name}: has no registers, and this task scores their attention; lost takes any model"
        )
    for block in settings.blocks:
        protocol.check_block(backbone, block)
    blocks = sorted({block % backbone.depth for block in settings.blocks or range(backbone.depth)})
    images = boxed_images(data, settings.images)
    protocol.check_sizes(images, backbone.patch_size)
    held, rest = split(len(images), settings.held_out, how.seed)
    chosen = choose(_scored(backbone, images, held, blocks, False, settings, how).hits, blocks)
    module = _scored(backbone, images, rest, [chosen.block, chosen.cls_block], True, settings, how)
    return _outcome(module, chosen, held, rest, len(images), settings, how)


def _scored(
    backbone: Backbone,
    images: BoxedImages,
    indices: Sequence[int],
    blocks: Sequence[int],
    heads: bool,
    settings: RegisterDiscoverySettings,
    how: RunOptions,
) -> RegisterBoxes:
    """Run a pass over the images at `indices` alone."""
    some = BoxedImages(
        images.paths[list(indices)], images.sizes[list(indices)], [images.boxes[index] for index in indices]
    )
    read = NativeSize(some, fitting(some.sizes, backbone.patch_size, settings.max_patches))
    module = RegisterBoxes(backbone, settings.precision, read, blocks, settings.mass, heads)
    loading = Loading(settings.workers, settings.device_batch)
    Tester(how).test(module, BoxedImagesModule(loading, read, backbone.patch_size), verbose=False)
    return module


# -------------------------------------------------------------------------------------------------------- scores


@dataclass(frozen=True)
class Misses:
    """Chances of one random box in one image.

    Attributes:
        each: (M,) probability that it misses each object.
        every: probability that it misses all of them.
    """

    each: Tensor
    every: float


def random_misses(images: BoxedImages, draws: int, seed: int) -> list[Misses]:
    """Chances of one random box in each image, from as many boxes as `draws`, the same for all images."""
    drawn = attention_boxes.random_boxes(draws, seeds.generator(seed, "random boxes"))
    misses = []
    for size, truth in zip(images.sizes, images.boxes, strict=True):
        right = box_iou(drawn * torch.from_numpy(size).repeat(2), torch.from_numpy(truth).double()) >= OVERLAP
        misses.append(Misses(1 - right.double().mean(dim=0), float(1 - right.any(dim=1).double().mean())))
    return misses


def scores(
    module: RegisterBoxes, register: int, random: Sequence[Misses]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Scores of each image, from a pass with the chosen block of the registers and that of CLS.

    Args:
        register: the chosen one.
        random: chances of one random box in each image.

    Returns:
        (N,) in percent by metric, whose mean is the metric; and for recalls (N, 2), the expected number of objects
        found and the number of objects. Those of CLS are missing for a model without CLS.
    """
    count, images = module.frozen.backbone.num_registers, module.read.images
    per_image: dict[str, list[float]] = {name: [] for name in METRICS if not name.startswith("recall")}
    recalls: dict[str, list[tuple[float, int]]] = {name: [] for name in METRICS if name.startswith("recall")}
    for hits, missed, truth in zip(module.hits, random, images.boxes, strict=True):
        registers, objects = hits.registers[0], len(truth)
        per_image["corloc"].append(float(registers[register].any()))
        per_image["corloc_any_register"].append(float(registers.any()))
        per_image["corloc_any_random"].append(1 - missed.every**count)
        per_image["pointing"].append(float(hits.pointing[0, register]))
        recalls["recall_registers"].append((float(registers.any(dim=0).sum()), objects))
        recalls["recall_random"].append((float((1 - missed.each**count).sum()), objects))
        if len(hits.cls[1]):
            heads = hits.heads[1]
            per_image["corloc_cls"].append(float(hits.cls[1].any()))
            per_image["corloc_any_cls_head"].append(float(attention_boxes.any_of(heads.any(dim=1), count)))
            per_image["pointing_cls"].append(float(hits.pointing[1, -1]))
            recalls["recall_cls_heads"].append((float(attention_boxes.any_of(heads.T, count).sum()), objects))
    means = {name: 100 * torch.tensor(values, dtype=torch.float64) for name, values in per_image.items() if values}
    return means, {name: torch.tensor(pairs, dtype=torch.float64) for name, pairs in recalls.items() if pairs}


def recall(mean: Any) -> float:
    """Recall in percent from the mean number of objects found and of objects (2,)."""
    return float(100 * mean[0] / mean[1]) if mean[1] else float("nan")


def _outcome(
    module: RegisterBoxes,
    chosen: Choice,
    held: list[int],
    rest: list[int],
    images: int,
    settings: RegisterDiscoverySettings,
    how: RunOptions,
) -> Outcome:
    random = random_misses(module.read.images, settings.random_boxes, how.seed)
    per_image, recalls = scores(module, chosen.register, random)
    binary = ("corloc", "corloc_cls", "corloc_any_register", "pointing", "pointing_cls")
    metrics = {name: values.mean().item() for name, values in per_image.items()}
    metrics |= {name: recall(pairs.mean(dim=0)) for name, pairs in recalls.items()}
    intervals = {
        name: (accuracy_interval if name in binary else bootstrap)(values, how.seed)
        for name, values in per_image.items()
    }
    intervals |= {name: bootstrap(pairs, how.seed, recall) for name, pairs in recalls.items()}
    uniform = sum(bool(hits.uniform[0, chosen.register]) for hits in module.hits)
    overlaps = torch.stack([hits.overlaps[0, chosen.register] for hits in module.hits])
    return Outcome(
        metrics={name: metrics[name] for name in METRICS if name in metrics},
        images=len(rest),
        intervals={name: intervals[name] for name in METRICS if name in intervals},
        scores={name: _of_all(values, rest, images) for name, values in per_image.items()},
        protocol=_facts(module, chosen, held, settings) | {"uniform_map_share": round(uniform / len(rest), 4)},
        floors=_floors(module, random),
        picture=_picture(module, chosen, overlaps),
        remarks=_remarks(uniform, len(rest)),
    )


def _of_all(values: Tensor, rest: list[int], images: int) -> Tensor:
    """Scores (N,) of all images: NaN for those on which the choice was made."""
    every = torch.full((images,), torch.nan, dtype=torch.float64)
    every[rest] = values
    return every


def _facts(
    module: RegisterBoxes, chosen: Choice, held: list[int], settings: RegisterDiscoverySettings
) -> dict[str, Any]:
    few = uncertainty(len(held)) > TELLING
    known = f"where CorLoc is known to ±{uncertainty(len(held)):.1f} points only"
    candidates = chosen.corloc.numel()
    registers = module.frozen.backbone.num_registers
    shrunk = int((module.read.sizes != module.read.images.sizes).any(axis=1).sum())
    return {
        "method": "attention of a register, mean over heads",
        "register": chosen.register,
        "block": chosen.block,
        "cls_block": chosen.cls_block,
        "chosen_on": f"{len(held)} held-out images, the first of the best among {candidates} of a block and register",
        "equally_good": chosen.equal,
        "caveat": f"one of {candidates} is chosen on {len(held)} held-out images, {known}" if few else "",
        "corloc_held_out": [[round(value, 2) for value in row] for row in chosen.corloc.tolist()],
        "mass": settings.mass,
        "any_of": f"{registers} registers; as many random heads of CLS, in expectation; as many random boxes",
        "random_boxes": "between two points drawn uniformly from the image",
        "images": settings.images,
        "objects": "all, difficult and truncated ones too",
        "right": f"IoU of at least {OVERLAP} with any object",
        "reduced": f"{shrunk} images of more than {settings.max_patches} patches",
    }


def _floors(module: RegisterBoxes, random: Sequence[Misses]) -> dict[str, dict[str, float]]:
    """CorLoc of constant boxes, and of one random box."""
    images = module.read.images
    one = 100 * sum(1 - missed.every for missed in random) / len(random)
    return {**protocol.floors(images, range(len(images))), "one random box": {"corloc": one}}


def _remarks(uniform: int, images: int) -> list[str]:
    if uniform <= protocol.MOST_UNIFORM * images:
        return []
    remark = f"in {uniform} of {images} images the register attends to all patches alike: the box is the whole image"
    return [f"{remark}. Take other blocks, or precision=32-true"]


# ------------------------------------------------------------------------------------------------------- picture


def _picture(module: RegisterBoxes, chosen: Choice, ious: Tensor) -> "Figure":
    """Images with the worst, median and best box, beside the maps of CLS and of registers with their own boxes."""
    module.to(hardware.accelerator())
    examples, count = dense.by_score(ious.tolist(), better=1), len(ious)
    texts = [f"{name} of {count:,}: IoU {ious[index]:.2f}" for name, index in examples.items()]
    rows = [_example(module, chosen, index, text) for index, text in zip(examples.values(), texts, strict=True)]
    return figures_boxes.discovery_examples(rows)


def _example(module: RegisterBoxes, chosen: Choice, index: int, score: str) -> figures_boxes.Example:
    images, patch = module.read.images, module.patch(index)
    batch = pad_together([module.read[index]], module.frozen.backbone.patch_size)
    maps = module.maps(batch["image"].to(module.device), batch["size"].to(module.device))[0].cpu()
    registers = module.frozen.backbone.num_registers
    others = [number for number in range(registers) if number != chosen.register][: SHOWN - 1]
    name = f"reg_{chosen.register}, chosen"
    shown = {name: maps[0, chosen.register], **{f"reg_{number}": maps[0, number] for number in others}}
    if module.frozen.backbone.has_cls:
        shown = {"CLS": maps[1, registers], **shown}
    found = attention_boxes.boxes(torch.stack(list(shown.values())), module.mass)
    boxes = dict(zip(shown, module.in_pixels(found.boxes, index).numpy(), strict=True))
    row, column = divmod(int(found.peaks[list(shown).index(name)]), maps.shape[-1])
    return figures_boxes.Example(
        image=np.asarray(open_image(images.path(index))),
        truths=images.boxes[index],
        box=boxes[name],
        seed=((column + 0.5) * patch[0].item(), (row + 0.5) * patch[1].item()),
        maps={title: values.numpy() for title, values in shown.items()},
        patch=cast(tuple[float, float], tuple(patch.tolist())),
        score=score,
        own_boxes=boxes,
    )
