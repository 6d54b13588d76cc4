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
from regvit_lightning.settings import MISSING, number
from regvit_lightning.tasks.discovery import protocol, seed_expansion
from regvit_lightning.tasks.discovery.protocol import DiscoveredBoxes, SingleSourceSettings, Source, Steps
from regvit_lightning.tasks.discovery.seed_expansion import Expansion

METRICS = {"corloc": Metric()}
READS = "discovery"
work = protocol.work
FOOTNOTE = ("feature", "block", "centred", "l2", "bias", "k")
FALLBACK = "the seed's patch alone, where the seed itself is background"


@dataclass
class LostSettings(SingleSourceSettings):
    """Settings of LOST.

    Attributes:
        centred: subtract the mean over the patches of an image.
        l2: L2-normalise the features afterwards.
        bias: bias added to the Gram matrix of the features.
        k: how many patches of lowest degree may join the seed.
    """

    centred: bool = MISSING
    l2: bool = MISSING
    bias: float = number("[-1e9, 1e9]")
    k: int = number("[1, 1e6]")


SETTINGS = LostSettings


@dataclass(frozen=True)
class Choice:
    """One setting of LOST; fields as in `LostSettings`."""

    feature: str
    block: int
    centred: bool
    l2: bool
    bias: float

    def words(self) -> str:
        """Command-line form of the setting: `feature=k block=-1 centred=false l2=true bias=-0.2`."""
        switches = f"centred={str(self.centred).lower()} l2={str(self.l2).lower()}"
        return f"feature={self.feature} block={self.block} {switches} bias={self.bias:g}"


class LOST:
    """LOST with any number of settings; features that they share are compared once.

    Args:
        choices: the settings.
        k: how many patches of lowest degree may join the seed.
    """

    def __init__(self, choices: Sequence[Choice], k: int) -> None:
        self.choices, self.k = choices, k
        self.sources: Sequence[Source] = list(dict.fromkeys((choice.block, choice.feature) for choice in choices))

    def __call__(self, features: Sequence[Tensor]) -> DiscoveredBoxes:
        boxes: dict[Choice, Tensor] = {}
        fallback: dict[Choice, Tensor] = {}
        for choices, expansion in self._expansions(features):
            boxes |= dict(zip(choices, expansion.boxes.unbind(dim=1), strict=True))
            fallback |= dict(zip(choices, expansion.fallback.unbind(dim=1), strict=True))
        parts = ([part[choice] for choice in self.choices] for part in (boxes, fallback))
        return DiscoveredBoxes(*(torch.stack(part, dim=1) for part in parts))

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
        biases = [[choice.bias for choice in part] for part in (raw, l2)]
        counts = seed_expansion.degrees(features.flatten(1, 2), *biases).split([len(raw), len(l2)], dim=1)
        if raw:
            yield raw, seed_expansion.expand(features, counts[0], biases[0], self.k)
        if l2:
            yield l2, seed_expansion.expand(F.normalize(features, dim=-1), counts[1], biases[1], self.k)


def choice(backbone: Backbone, settings: LostSettings) -> Choice:
    """Resolve the settings to one `Choice` for this backbone.

    Raises:
        SettingsError: the backbone has no such block, or the feature is unknown.
    """
    block, feature = settings.source(backbone)
    return Choice(feature, block, settings.centred, settings.l2, settings.bias)


def run(backbone: Backbone, data: DataSettings, settings: LostSettings, how: RunOptions = RunOptions()) -> Outcome:  # noqa: B008
    """CorLoc of one box per image, with boxes that ignore the image as floors.

    Raises:
        DataError: the images are missing, an annotation does not fit, or an image is smaller than a patch.
        SettingsError: the model has no such block.
    """
    chosen = choice(backbone, settings)
    facts = {"method": "LOST", **vars(chosen), "k": settings.k, "fallback": FALLBACK}
    return protocol.run(backbone, data, settings, LOST([chosen], settings.k), facts, how)
