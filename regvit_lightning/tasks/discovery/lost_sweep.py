"""Object discovery by LOST with every setting of a grid, with one forward pass per image.

Source: the registers paper adds a bias "by hand" (Darcet et al. 2023, arXiv 2309.16588, section 3.3) and states neither
its value nor how it is chosen; Jiang et al. 2025 (arXiv 2506.08010) report the best over features, blocks and biases on
the images that they score. Here the setting is chosen on held-out images and scored on the rest; the best setting on
the rest is reported separately, and the record has the whole grid.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from regvit_lightning.data.layout import DataSettings
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.frozen.settings import TELLING, uncertainty
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.runtime import seeds
from regvit_lightning.settings import MISSING, check, number
from regvit_lightning.statistics import accuracy_interval
from regvit_lightning.tasks.discovery import protocol
from regvit_lightning.tasks.discovery.lost import FALLBACK, LOST, TIES, Choice
from regvit_lightning.tasks.discovery.protocol import FEATURES, DiscoverySettings

METRICS = {"corloc": Metric(), "corloc_best_on_test": Metric()}
READS = "discovery"
work = protocol.work
FOOTNOTE = ("chosen_on", "k")


@dataclass
class LostSweepSettings(DiscoverySettings):
    """Settings of the sweep: the grid is features × blocks × centred × (biases and l2_biases).

    Attributes:
        features: some of q, k, v.
        blocks: blocks whose projections are used, -1 is the last.
        centred: whether to subtract the mean over the patches of an image.
        biases: biases added to the Gram matrix of the raw features, in units of the image's median absolute product.
        l2_biases: biases added to the Gram matrix of the L2-normalised features.
        k: how many patches of lowest degree may join the seed.
        held_out: share of the images on which the setting is chosen.
    """

    features: list[str] = MISSING
    blocks: list[int] = number("[-1000, 1000]")
    centred: list[bool] = MISSING
    biases: list[float] = number("[-1e9, 1e9]")
    l2_biases: list[float] = number("[-1e9, 1e9]")
    k: int = number("[1, 1e6]")
    held_out: float = number("(0, 1)")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(set(self.features) <= set(FEATURES), f"features={self.features}: expected some of q, k, v")
        check(bool(self.choices()), "the grid is empty: features, blocks, centred or both lists of biases are")

    def choices(self) -> list[Choice]:
        """All settings of the grid."""
        biases = [(False, bias) for bias in self.biases] + [(True, bias) for bias in self.l2_biases]
        axes = product(self.blocks, self.features, self.centred, biases)
        return [Choice(feature, block, centred, l2, bias, not l2) for block, feature, centred, (l2, bias) in axes]

    def caveat(self, choices: int, images: int) -> str:
        """Warning for the record where `images` held-out images cannot tell the settings apart, else empty."""
        known = f"where CorLoc is known to ±{uncertainty(images):.1f} points only"
        few = uncertainty(images) > TELLING
        return f"one of {choices} settings is chosen on {images:,} held-out images, {known}" if few else ""


SETTINGS = LostSweepSettings


def run(backbone: Backbone, data: DataSettings, settings: LostSweepSettings, how: RunOptions = RunOptions()) -> Outcome:  # noqa: B008
    """CorLoc on the remaining images of the setting chosen on held-out images, and of the best setting.

    Raises:
        DataError: as `lost.run`.
        SettingsError: the model has no such block, or one side of the split is empty.
    """
    for block in settings.blocks:
        protocol.check_block(backbone, block)
    choices = settings.choices()
    module = protocol.discover(backbone, data, settings, LOST(choices, settings.k), how)
    held, rest = split(len(module.right), settings.held_out, how.seed)
    on_held, on_rest = corloc(module.right[held]), corloc(module.right[rest])
    number, equal = best(on_held)
    chosen = choices[number]
    scores = torch.full(module.right.shape[:1], torch.nan)
    scores[rest] = right = 100.0 * module.right[rest, number]
    method, ious = LOST([chosen], settings.k), torch.full(module.right.shape[:1], torch.nan, dtype=torch.float64)
    ious[rest] = module.overlaps[rest, number]
    return Outcome(
        metrics={"corloc": right.mean().item(), "corloc_best_on_test": on_rest.max().item()},
        images=len(rest),
        intervals={"corloc": accuracy_interval(right, how.seed)},
        scores={"corloc": scores},
        protocol={
            "method": "LOST",
            **vars(chosen),
            "k": settings.k,
            "chosen_on": f"{len(held)} held-out images, the first of the best among {len(choices)} settings",
            "equally_good": equal,
            "caveat": settings.caveat(len(choices), len(held)),
            "best_on_test": choices[best(on_rest)[0]].words(),
            "ties": TIES,
            "fallback": FALLBACK,
            **module.doubts(number, rest).facts(method),
            **protocol.protocol(module, settings),
            "grid": grid(choices, module.right, module.fallbacks, held, rest),
        },
        floors=protocol.floors(module.read.images, rest),
        picture=protocol.picture(module, method, ious),
        remarks=module.doubts(number, rest).remarks(method),
    )


def split(images: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices of the held-out images, drawn from `seed`, and of the others.

    Raises:
        SettingsError: one side of the split is empty.
    """
    count = round(share * images)
    check(0 < count < images, f"held_out={share}: {count} of {images} images; at least one must be on either side")
    order = torch.randperm(images, generator=seeds.generator(seed, "held out"))
    return sorted(order[:count].tolist()), sorted(order[count:].tolist())


def best(scores: Tensor) -> tuple[int, int]:
    """Index of the first of the highest scores (S,), and how many are as high."""
    equal = (scores == scores.max()).nonzero().flatten().tolist()
    return equal[0], len(equal)


def corloc(right: Tensor) -> Tensor:
    """CorLoc in percent (S,) of each setting, from (N, S) bool; float64, so that equal shares compare equal."""
    return 100 * right.double().mean(dim=0)


def grid(
    choices: list[Choice], right: Tensor, fallbacks: Tensor, held: list[int], rest: list[int]
) -> dict[str, dict[str, Any]]:
    """CorLoc of every setting on both sides of the split, and its fallbacks on all images if any, by `words`."""
    names = [choice.words() for choice in choices]
    scores = {"corloc": corloc(right[rest]), "corloc_held_out": corloc(right[held])}
    counts = {name: count for name, count in zip(names, fallbacks.sum(dim=0).tolist(), strict=True) if count}
    rounded = {
        key: {name: round(value, 2) for name, value in zip(names, values.tolist(), strict=True)}
        for key, values in scores.items()
    }
    return {**rounded, "fallbacks": counts}
