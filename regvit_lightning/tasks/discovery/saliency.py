"""Saliency without training: masks of TokenCut and LOST and of the attention of CLS and registers, against true masks.

Source: Wang et al. 2022 (TokenCut, arXiv 2202.11539) and its repository for masks, view and scores; Siméoni et al. 2021
(LOST, arXiv 2109.14279) for its connected part; Caron et al. 2021 (DINO, arXiv 2104.14294, Fig. 1) for the threshold at
a share of the cumulative attention. TokenCut and LOST have the published constants and are scored on all images. The
block of CLS, and block and register, are chosen on held-out images and scored on the rest. No solver refines a mask.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from regvit_lightning.data.images import open_image
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import Loading
from regvit_lightning.data.salient import (
    SalientDataset,
    SalientImages,
    SalientModule,
    grid_sizes,
    read_truth,
    salient_images,
)
from regvit_lightning.data.transforms import normalise
from regvit_lightning.figures import saliency as figures_saliency
from regvit_lightning.frozen import dense
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.frozen.settings import TELLING, uncertainty
from regvit_lightning.frozen.trainer import Tester
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.runtime import hardware
from regvit_lightning.settings import number
from regvit_lightning.statistics import bootstrap, highest
from regvit_lightning.tasks.discovery import attention_boxes, protocol, seed_expansion
from regvit_lightning.tasks.discovery.lost_sweep import best, split
from regvit_lightning.tasks.discovery.normalised_cut import cut
from regvit_lightning.tasks.discovery.protocol import SingleSourceSettings
from regvit_lightning.tasks.discovery.saliency_scores import (
    PatchTruth,
    accuracy,
    f_beta,
    f_curve,
    iou,
    patch_truth,
    scaled,
)
from regvit_lightning.work import ImageCounts, Pass, Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORES = ("iou", "accuracy", "max_f")
CUTS, MAPS = ("tokencut", "lost"), ("cls", "register")
METRICS = {f"{score}_{method}": Metric(of_all=method in CUTS) for method in (*CUTS, *MAPS) for score in SCORES}
READS = "salient"
FOOTNOTE = ("chosen_on", "feature", "block", "mass")
TITLES = {"tokencut": "TokenCut", "lost": "LOST", "cls": "CLS", "register": "register"}
USUAL_SIZE = (300, 400)  # height and width of most images of ECSSD, DUTS and DUT-OMRON
USUAL_PATCH = 16


@dataclass
class SaliencySettings(SingleSourceSettings):
    """Settings of saliency.

    Attributes:
        threshold, weak: of TokenCut, see `normalised_cut.cut`.
        k: of LOST, how many patches of lowest degree may join the seed.
        blocks: blocks of which one is chosen for CLS and one for the registers, -1 is the last; empty for all.
        mass: share of the attention that the foreground of a map holds.
        held_out: share of the images on which blocks and register are chosen.
    """

    threshold: float = number("(-1, 1)")
    weak: float = number("(0, 1)")
    k: int = number("[1, 1e6]")
    blocks: list[int] = number("[-1000, 1000]")
    mass: float = number("(0, 1]")
    held_out: float = number("(0, 1)")


SETTINGS = SaliencySettings


def work(settings: SaliencySettings, images: ImageCounts) -> Work:
    """Work: every image twice, for projections and attention, and the held-out ones once more, at the usual size."""
    count, (height, width) = images[settings.images][0], USUAL_SIZE
    scale = min((settings.max_patches * USUAL_PATCH**2 / (height * width)) ** 0.5, 1.0)
    size = round(scale * height), round(scale * width)
    return Work([Pass(round((2 + settings.held_out) * count), *size)])


# ---------------------------------------------------------------------------------------------------------- pass


@dataclass(frozen=True)
class Chosen:
    """What is chosen on held-out images.

    Attributes:
        cls: block of the map of CLS; None for a model without CLS.
        register: block and index of the register; None for a model without registers.
        candidates: number of maps, of CLS and of registers, of which these are the best.
        held_out: IoU in percent (blocks, maps) of every map on the held-out images: the registers, then CLS.
    """

    cls: int | None
    register: tuple[int, int] | None
    candidates: tuple[int, int]
    held_out: Tensor


@dataclass(frozen=True)
class Masked:
    """Masks and maps of one image by method: the methods that the model allows.

    Attributes:
        masks: (h, w) bool each.
        maps: (h, w) each, of the methods of `MAPS`.
        whole: whether TokenCut found nothing to cut, so that its mask is the whole image.
        fallback: whether LOST's seed is background, so that its mask is the seed alone.
    """

    masks: dict[str, Tensor]
    maps: dict[str, Tensor]
    whole: bool
    fallback: bool


class AttentionPass(FrozenModule):
    """A pass that scores the attention maps of all registers and CLS in some blocks.

    Attributes:
        ious: (N, blocks, R + 1) IoU in percent of each map's mask, CLS last if there is one, available after test.
    """

    shares_passes = True
    ious: Tensor

    def __init__(self, backbone: Backbone, settings: SaliencySettings, blocks: Sequence[int]) -> None:
        super().__init__(backbone, settings.precision)
        self.blocks, self.mass = list(blocks), settings.mass
        self._rows: list[Tensor] = []

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        maps = attention(self, normalise(batch["image"], self.mean, self.std), self.blocks)
        masks = attention_boxes.foreground(maps.flatten(0, 2), self.mass).view_as(maps)
        every = zip(batch["index"], masks, batch["truth"], strict=True)
        return {index: iou(own, patch_truth(truth, grid_of(own))).cpu() for index, own, truth in every}

    def tested(self, measured: dict[int, Tensor]) -> None:
        self._rows += measured.values()

    def on_test_epoch_end(self) -> None:
        self.ious = torch.stack(self._rows)


def attention(module: FrozenModule, inputs: Tensor, blocks: Sequence[int]) -> Tensor:
    """Attention, mean over heads, of normalised images: (B, blocks, R + 1, h, w), CLS last if there is one."""
    with module.frozen.autocast(inputs):
        rows = module.frozen.backbone.prefix_attention(inputs, blocks)
    every = []
    for block in rows:
        kinds = [block.registers.mean(dim=1, dtype=torch.float32)]
        if block.cls is not None:
            kinds.append(block.cls.mean(dim=1, keepdim=True, dtype=torch.float32))
        every.append(torch.cat(kinds, dim=1))
    return torch.stack(every, dim=1)


def grid_of(maps: Tensor) -> tuple[int, int]:
    """Rows and columns of maps (…, h, w)."""
    return maps.shape[-2], maps.shape[-1]


class Saliency(FrozenModule):
    """A pass that scores the masks of all methods.

    Args:
        backbone, settings: source of the features, and settings of the task.
        chosen: blocks and register.

    Attributes:
        scores: by metric and index of the image; a number, or the F_β curve (THRESHOLDS,) of a map.
        shares: share of foreground by index of the image, in 0..1.
        ceilings: IoU in percent of the patches that are at least half foreground, by index.
        wholes, fallbacks: indices of images, see `Masked`.
    """

    shares_passes = True

    def __init__(self, backbone: Backbone, settings: SaliencySettings, chosen: Chosen) -> None:
        super().__init__(backbone, settings.precision)
        self.settings, self.chosen = settings, chosen
        self.source = settings.source(backbone)
        self.scores: dict[str, dict[int, Tensor]] = {}
        self.shares, self.ceilings = dict[int, float](), dict[int, float]()
        self.wholes, self.fallbacks = set[int](), set[int]()

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        every = zip(batch["index"], self.masked(batch["image"]), batch["truth"], strict=True)
        return {index: scored(own, patch_truth(truth, grid_of(own.masks["lost"]))) for index, own, truth in every}

    def tested(self, measured: dict[int, "Scored"]) -> None:
        for index, own in measured.items():
            for name, value in own.scores.items():
                self.scores.setdefault(name, {})[index] = value
            self.shares[index], self.ceilings[index] = own.share, own.ceiling
            self.wholes |= {index} if own.whole else set()
            self.fallbacks |= {index} if own.fallback else set()

    def masked(self, images: Tensor) -> list[Masked]:
        """Masks and maps of uint8 images (B, 3, h, w)."""
        inputs = normalise(images, self.mean, self.std)
        with self.frozen.autocast(inputs):
            inside = self.frozen.backbone.projections(inputs, [self.source[0]])[0]
        features = getattr(inside, self.source[1]).patches.float()
        parts = cut(features, self.settings.threshold, self.settings.weak)
        flat = features.flatten(1, 2)
        expanded = seed_expansion.expand(features, seed_expansion.degrees(flat), (0.0,), self.settings.k)
        maps = self._maps(inputs)
        masks = {name: attention_boxes.foreground(one, self.settings.mass) for name, one in maps.items()}
        masks = {"tokencut": parts.objects, "lost": expanded.objects[:, 0], **masks}
        return [
            Masked(
                {name: one[row] for name, one in masks.items()},
                {name: one[row] for name, one in maps.items()},
                bool(parts.uniform[row]),
                bool(expanded.fallback[row, 0] | expanded.constant[row, 0]),
            )
            for row in range(len(images))
        ]

    def _maps(self, inputs: Tensor) -> dict[str, Tensor]:
        """The chosen attention maps (B, h, w)."""
        cls, register = self.chosen.cls, self.chosen.register
        blocks = [*([] if cls is None else [cls]), *([] if register is None else [register[0]])]
        if not blocks:
            return {}
        maps = attention(self, inputs, blocks)
        chosen = {} if cls is None else {"cls": maps[:, 0, -1]}
        return chosen if register is None else {**chosen, "register": maps[:, -1, register[1]]}


@dataclass(frozen=True)
class Scored:
    """What is known of one image: its scores by metric, and fields as in `Saliency` and `Masked`."""

    scores: dict[str, Tensor]
    share: float
    ceiling: float
    whole: bool
    fallback: bool


def scored(own: Masked, truth: PatchTruth) -> Scored:
    """Scores of the masks of all methods of one image."""
    scores = {}
    for method, mask in own.masks.items():
        f = f_curve(scaled(own.maps[method]), truth) if method in own.maps else f_beta(mask, truth)
        for score, value in zip(SCORES, (iou(mask, truth), accuracy(mask, truth), f), strict=True):
            scores[f"{score}_{method}"] = value.cpu()
    ceiling = float(iou(2 * truth.foreground >= truth.pixels, truth))
    return Scored(scores, truth.share, ceiling, own.whole, own.fallback)


def choose(ious: Tensor, blocks: Sequence[int], registers: int) -> Chosen:
    """Choose the block of CLS, and block and register, by the mean IoU on held-out images; the first of several.

    Args:
        ious: (N, blocks, R or R + 1) as `AttentionPass.ious`.
        blocks: indices of the blocks.
        registers: R.
    """
    means = ious.double().mean(dim=0)
    own, cls = means[:, :registers], means[:, registers:]
    register = None
    if registers:
        row, index = divmod(best(own.flatten())[0], registers)
        register = blocks[row], index
    return Chosen(blocks[best(cls[:, 0])[0]] if cls.shape[1] else None, register, (cls.numel(), own.numel()), means)


# ------------------------------------------------------------------------------------------------------- outcome


def run(backbone: Backbone, data: DataSettings, settings: SaliencySettings, how: RunOptions = RunOptions()) -> Outcome:  # noqa: B008
    """IoU, accuracy and max F_β of the masks of each method that the model allows.

    Raises:
        SettingsError: the data has no such set, the model no such block, or one side of the split is empty.
        DataError: the set is missing or incomplete, or a mask does not fit.
        UserError: the backbone does not expose q, k, v and attention.
    """
    backbone.require_plain_vit()
    for block in settings.blocks:
        protocol.check_block(backbone, block)
    settings.source(backbone)
    images = salient_images(data, settings.images)
    held, rest = split(len(images.images), settings.held_out, how.seed)
    chosen = _choose(backbone, images, held, settings, how)
    module = Saliency(backbone, settings, chosen)
    read = _test(module, images, range(len(images.images)), settings, how)
    return _outcome(module, read, held, rest, how.seed)


def _choose(
    backbone: Backbone, images: SalientImages, held: list[int], settings: SaliencySettings, how: RunOptions
) -> Chosen:
    registers = backbone.num_registers
    if not registers and not backbone.has_cls:
        return Chosen(None, None, (0, 0), torch.zeros(0, 0))
    blocks = sorted({block % backbone.depth for block in settings.blocks or range(backbone.depth)})
    module = AttentionPass(backbone, settings, blocks)
    _test(module, images, held, settings, how)
    return choose(module.ious, blocks, registers)


def _test(
    module: FrozenModule, images: SalientImages, indices: Sequence[int], settings: SaliencySettings, how: RunOptions
) -> SalientDataset:
    patch = module.frozen.backbone.patch_size
    read = SalientDataset(images, grid_sizes(images.sizes, patch, settings.max_patches), indices)
    loading = Loading(settings.workers, settings.device_batch)
    Tester(how).test(module, SalientModule(loading, read, patch), verbose=False)
    return read


def _outcome(module: Saliency, read: SalientDataset, held: list[int], rest: list[int], seed: int) -> Outcome:
    count = len(read)
    scored = {name: list(range(count)) if name.endswith(CUTS) else rest for name in module.scores}
    values = {name: torch.stack([module.scores[name][index] for index in on]) for name, on in scored.items()}
    statistics = {name: highest if one.ndim == 2 else np.mean for name, one in values.items()}
    return Outcome(
        metrics={name: float(statistics[name](one.mean(dim=0).numpy())) for name, one in values.items()},
        images=count,
        intervals={name: bootstrap(one, seed, statistics[name]) for name, one in values.items()},
        scores={name: _of_all(one, scored[name], count) for name, one in values.items()},
        protocol=_protocol(module, read, held, count),
        floors=floors(module.shares, scored),
        picture=_picture(module, read),
        remarks=_remarks(module, count),
    )


def _of_all(values: Tensor, indices: Sequence[int], count: int) -> Tensor:
    """Scores of all images, NaN where a method is not scored."""
    every = values.new_full((count, *values.shape[1:]), torch.nan)
    every[list(indices)] = values
    return every


def floors(shares: Mapping[int, float], scored: Mapping[str, Sequence[int]]) -> dict[str, dict[str, float]]:
    """Scores of two masks that ignore the image: all of it, and nothing of it.

    Args:
        shares: share of foreground of each image, in 0..1.
        scored: by metric, indices of the images on which it is scored.
    """
    whole: dict[str, Callable[[float], float]] = {
        "iou": lambda share: share,
        "accuracy": lambda share: share,
        "max_f": lambda share: 1.3 * share / (0.3 * share + 1),
    }
    nothing: dict[str, Callable[[float], float]] = {
        "iou": lambda share: float(share == 0),
        "accuracy": lambda share: 1 - share,
        "max_f": lambda share: float(share == 0),
    }
    return {
        name: {
            metric: 100 * float(np.mean([rules[metric.rpartition("_")[0]](shares[index]) for index in on]))
            for metric, on in scored.items()
        }
        for name, rules in (("whole image", whole), ("nothing", nothing))
    }


def _protocol(module: Saliency, read: SalientDataset, held: list[int], count: int) -> dict[str, Any]:
    settings, chosen, layout = module.settings, module.chosen, read.images.layout
    rule = f"the ids {layout.foreground}" if layout.foreground else f"grey values above {layout.above}"
    patches = (read.images.sizes / module.frozen.backbone.patch_size).prod(axis=1)
    few, known = uncertainty(len(held)) > TELLING, f"{len(held):,} held-out images"
    return {
        "feature": module.source[1],
        "block": module.source[0],
        "threshold": settings.threshold,
        "weak": settings.weak,
        "k": settings.k,
        "mass": settings.mass,
        "cls_block": chosen.cls,
        "register_block": chosen.register[0] if chosen.register else None,
        "register": chosen.register[1] if chosen.register else None,
        "chosen_on": f"IoU on {known}, of {chosen.candidates[0]} maps of CLS and {chosen.candidates[1]} of registers",
        "caveat": f"blocks and register are chosen on {known} only" if few else "",
        "iou_held_out": [[round(value, 2) for value in row] for row in chosen.held_out.tolist()],
        "scored_on": f"TokenCut, LOST: all {count:,} images; CLS, registers: the {count - len(held):,} not held out",
        "truth": f"foreground: {rule}",
        "max_f": "β² = 0.3, mean over images at each of 255 thresholds, then the largest; TokenCut, LOST: masks",
        "solver": "none",
        "view": "resized to the nearest whole patches, Lanczos; masks brought to the image's size by nearest neighbour",
        "reduced": f"{int((patches > settings.max_patches).sum())} images of more than {settings.max_patches} patches",
        "grid_ceiling": f"IoU {np.mean(list(module.ceilings.values())):.1f} of the patches that are half foreground",
        "foreground_share": round(float(np.mean(list(module.shares.values()))), 4),
        "uniform_graphs": len(module.wholes),
        "fallbacks": len(module.fallbacks),
        "images": settings.images,
    }


def _remarks(module: Saliency, count: int) -> list[str]:
    many = protocol.MOST_UNIFORM * count
    remarks = {
        "TokenCut can cut nothing: all patches are more similar than its threshold, or none are": module.wholes,
        "the mask of LOST is its seed alone, or its seed depends on nothing": module.fallbacks,
    }
    advice = "Take another feature (feature=q, k or v)"
    return [
        f"in {len(which)} of {count} images {text}. {advice}" for text, which in remarks.items() if len(which) > many
    ]


# ------------------------------------------------------------------------------------------------------- picture


def _picture(module: Saliency, read: SalientDataset) -> "Figure":
    """Images with the worst, median and best IoU of TokenCut, beside the masks and maps of every method."""
    module.to(hardware.accelerator())
    ious = [float(module.scores["iou_tokencut"][index]) for index in range(len(read))]
    chosen = dense.by_score(ious, better=1)
    texts = {name: f"{name} of {len(ious):,}" if len(ious) > 1 else "" for name in chosen}
    return figures_saliency.examples([_example(module, read, index, texts[name]) for name, index in chosen.items()])


def _example(module: Saliency, read: SalientDataset, index: int, text: str) -> figures_saliency.Example:
    own = module.masked(read[index][0][None].to(module.device))[0]
    return figures_saliency.Example(
        image=np.asarray(open_image(read.images.images[index])),
        truth=read_truth(read.images.masks[index], read.images.layout),
        masks={_title(module, name): mask.cpu().numpy() for name, mask in own.masks.items()},
        maps={_title(module, name): one.cpu().numpy() for name, one in own.maps.items()},
        scores={_title(module, name): f"IoU {module.scores[f'iou_{name}'][index]:.1f}" for name in own.masks},
        text=text,
    )


def _title(module: Saliency, method: str) -> str:
    register = module.chosen.register
    if method == "register" and register is not None:
        return f"reg_{register[1]}, block {register[0]}"
    return f"CLS, block {module.chosen.cls}" if method == "cls" else TITLES[method]
