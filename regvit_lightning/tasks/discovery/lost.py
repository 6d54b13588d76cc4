"""Object discovery by LOST with one setting: the protocol of the registers paper.

Source: Siméoni et al. 2021 (arXiv 2109.14279); Darcet et al. 2023 (arXiv 2309.16588), section 3.3 and table 3. The
algorithm is in seed_expansion.py, the shared protocol in protocol.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.data.layout import DataSettings
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.settings import MISSING, check, number
from regvit_lightning.tasks.discovery import protocol, seed_expansion
from regvit_lightning.tasks.discovery.protocol import DiscoveredBoxes, SingleSourceSettings, Source, Steps
from regvit_lightning.tasks.discovery.seed_expansion import Expansion

METRICS = {"corloc": Metric()}
READS = "discovery"
work = protocol.work
FOOTNOTE = ("feature", "block", "centred", "l2", "scaled", "bias", "k")
TIES = "of the patches of lowest degree, the upper left (lowest row-major index) is the seed"
FALLBACK = (
    "the upper left patch as the seed, where all degrees are equal; the seed's patch alone, where it is background"
)


@dataclass
class LostSettings(SingleSourceSettings):
    """Settings of LOST.

    Attributes:
        centred: subtract the mean over the patches of an image.
        l2: L2-normalise the features afterwards.
        scaled: the bias of features that are not normalised is a multiple of the image's median absolute product.
        bias: bias added to the Gram matrix of the features.
        k: how many patches of lowest degree may join the seed.
    """

    centred: bool = MISSING
    l2: bool = MISSING
    scaled: bool = MISSING
    bias: float = number("[-1e9, 1e9]")
    k: int = number("[1, 1e6]")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(not (self.l2 and self.scaled), "scaled=true: products of normalised features have a scale; take l2=false")


SETTINGS = LostSettings


@dataclass(frozen=True)
class Choice:
    """One setting of LOST; fields as in `LostSettings`."""

    feature: str
    block: int
    centred: bool
    l2: bool
    bias: float
    scaled: bool = False

    def words(self) -> str:
        """Command-line form of the setting: `feature=k block=-1 centred=false l2=true scaled=false bias=-0.2`."""
        switches = (f"{name}={str(getattr(self, name)).lower()}" for name in ("centred", "l2", "scaled"))
        return f"feature={self.feature} block={self.block} {' '.join(switches)} bias={self.bias:g}"


class LOST:
    """LOST with any number of settings; features that they share are compared once.

    Args:
        choices: the settings.
        k: how many patches of lowest degree may join the seed.
    """

    uniform = "constant_degree_share"

    def __init__(self, choices: Sequence[Choice], k: int) -> None:
        self.choices, self.k = choices, k
        self.sources: Sequence[Source] = list(dict.fromkeys((choice.block, choice.feature) for choice in choices))

    def __call__(self, features: Sequence[Tensor]) -> DiscoveredBoxes:
        at_once = seed_expansion.images_at_once(features[0])
        parts = [self._boxes(some) for some in zip(*(one.split(at_once) for one in features), strict=True)]
        return DiscoveredBoxes(*(torch.cat(every) for every in zip(*parts, strict=True)))

    def _boxes(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Fields of `DiscoveredBoxes` for some of the images of a batch."""
        parts: dict[Choice, tuple[Tensor, ...]] = {}
        for choices, one in self._expansions(features):
            every = (one.boxes, one.fallback | one.constant, one.constant, one.tied)
            parts |= dict(zip(choices, zip(*(part.unbind(dim=1) for part in every), strict=True), strict=True))
        ordered = zip(*(parts[choice] for choice in self.choices), strict=True)
        return tuple(torch.stack(part, dim=1) for part in ordered)

    def remark(self, count: int, images: int) -> str:
        """Line for a run in which `count` of the images have equal degrees everywhere."""
        return (
            f"in {count} of {images} images every patch is similar to equally many others: the seed is the upper left "
            "patch and the box tells nothing. Take another feature (feature=q, k or v) or another bias (if all "
            "products are positive: l2=true bias=-0.8); lost_sweep tries them"
        )

    def steps(self, features: Sequence[Tensor]) -> Steps:
        """Steps to the box: patch degrees, similarity to the seed, and scores of the seed expansion."""
        _, expansion = next(iter(self._expansions(features)))
        maps = {
            "degree": expansion.degrees[0, 0],
            "seed similarity": expansion.similarity[0, 0],
            "seed expansion": expansion.scores[0, 0],
        }
        return Steps(expansion.boxes[0, 0], int(expansion.seeds[0, 0]), maps)

    def _expansions(self, features: Sequence[Tensor]) -> Iterable[tuple[list[Choice], Expansion]]:
        """Expansions, grouped by settings that differ in the bias alone."""
        for source, values in zip(self.sources, features, strict=True):
            of_source = [choice for choice in self.choices if (choice.block, choice.feature) == source]
            for centred in dict.fromkeys(choice.centred for choice in of_source):
                mine = [choice for choice in of_source if choice.centred == centred]
                yield from self._expand(values - values.mean(dim=(1, 2), keepdim=True) if centred else values, mine)

    def _expand(self, features: Tensor, choices: Sequence[Choice]) -> Iterable[tuple[list[Choice], Expansion]]:
        raw, l2 = ([choice for choice in choices if choice.l2 == wanted] for wanted in (False, True))
        flat = features.flatten(1, 2)
        biases = [_biases(flat, part) for part in (raw, l2)]
        counts = seed_expansion.degrees(flat, *biases).split([len(raw), len(l2)], dim=1)
        if raw:
            yield raw, seed_expansion.expand(features, counts[0], biases[0], self.k)
        if l2:
            yield l2, seed_expansion.expand(F.normalize(features, dim=-1), counts[1], biases[1], self.k)


def _biases(features: Tensor, choices: Sequence[Choice]) -> Tensor:
    """Bias (B, J) of each choice for each image of features (B, N, D)."""
    biases = features.new_tensor([choice.bias for choice in choices]).expand(len(features), -1)
    scaled = torch.tensor([choice.scaled for choice in choices], dtype=torch.bool, device=features.device)
    if not scaled.any():
        return biases
    return torch.where(scaled, biases * seed_expansion.median_product(features)[:, None], biases)


def choice(backbone: Backbone, settings: LostSettings) -> Choice:
    """Resolve the settings to one `Choice` for this backbone.

    Raises:
        SettingsError: the backbone has no such block, or the feature is unknown.
    """
    block, feature = settings.source(backbone)
    return Choice(feature, block, settings.centred, settings.l2, settings.bias, settings.scaled)


def run(backbone: Backbone, data: DataSettings, settings: LostSettings, how: RunOptions = RunOptions()) -> Outcome:  # noqa: B008
    """CorLoc of one box per image, with boxes that ignore the image as floors.

    Raises:
        DataError: the images are missing, an annotation does not fit, or an image is smaller than a patch.
        SettingsError: the model has no such block.
    """
    chosen = choice(backbone, settings)
    facts = {"method": "LOST", **vars(chosen), "k": settings.k, "ties": TIES, "fallback": FALLBACK}
    return protocol.run(backbone, data, settings, LOST([chosen], settings.k), facts, how)
