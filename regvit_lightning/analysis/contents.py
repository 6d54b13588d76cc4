"""Probes of the information in tokens after the final norm, in one pass over train and one over test images.

Source: Darcet et al. 2023 (arXiv 2309.16588), section 2.2; the probes themselves are in `probes.py` and
`local_probes.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from regvit_lightning.analysis import local_probes, probes
from regvit_lightning.analysis.local_probes import (
    LocalSettings,
    Patches,
    PixelProbe,
    PixelScore,
    PositionProbe,
    PositionScore,
)
from regvit_lightning.analysis.probes import Features, ProbeScore, TokenSettings
from regvit_lightning.data.transforms import normalise
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.settings import number

OutlierMask = Callable[[Tensor], Tensor]  # maps norms (B, h, w) after the last block, before the final norm, to a mask

HELD_OUT_EVERY = 10  # every tenth train image of the pixel probe is held out to choose its penalty


@dataclass
class ProbeSettings:
    """Settings of the probes.

    Attributes:
        train_images: number of train images, evenly spread over the classes, for the probes that need classes.
        local_images: number of train and of test images for the position and pixel probes, which use every patch.
        tokens: settings of single-token classification.
        local: settings of the position and pixel probes.
    """

    train_images: int = number("[2, 1e9]", 2000)
    local_images: int = number("[2, 1e6]", 400)
    tokens: TokenSettings = field(default_factory=TokenSettings)
    local: LocalSettings = field(default_factory=LocalSettings)


@dataclass(frozen=True)
class Contents:
    """Probe scores of the tokens of a model; None for a kind of token that occurs too rarely.

    Attributes:
        tokens: class predicted from one token, by `CLS`, `normal`, `outlier`, `reg_0`, …; empty without classes.
        position, pixels: scores of patches, by `normal` and `outlier`.
    """

    tokens: dict[str, ProbeScore | None]
    position: dict[str, PositionScore | None]
    pixels: dict[str, PixelScore | None]


Seen = tuple[int, dict[str, Features], list[tuple[Patches, str]]]  # loader, tokens, images of the local probes


class TokenPass(FrozenModule):
    """Extracts the data of the probes; the test pass runs over train images, then over test images.

    Args:
        backbone, precision: as for `FrozenModule`.
        outliers: maps norms to a mask of the outlier patches.
        settings: settings of the probes.
        local: indices of the train and of the test images for the local probes.
        seed: seed of the random choice of tokens.
    """

    shares_passes = True

    def __init__(
        self,
        backbone: Backbone,
        precision: str,
        outliers: OutlierMask,
        settings: ProbeSettings,
        local: Sequence[Sequence[int]],
        seed: int,
    ) -> None:
        super().__init__(backbone, precision, seed)
        self.outliers, self.settings = outliers, settings
        self._rank = [{index: rank for rank, index in enumerate(indices)} for indices in local]
        self._single: list[list[dict[str, Features]]] = [[], []]
        self._position = PositionProbe(settings.local.shared, settings.local.position_tokens, len(local[0]), seed)
        self._pixels = PixelProbe(settings.local.shared)

    def test_step(self, batch: Sequence[Tensor], batch_idx: int, dataloader_idx: int = 0) -> Any:
        images, labels = batch
        first, rank = self.first_image(batch_idx, dataloader_idx), self._rank[dataloader_idx]
        norms, tokens = self._last_block(images)
        outliers = self.outliers(norms)
        drawn = probes.single_tokens(tokens, norms, outliers, labels, first, self.settings.tokens, self.seed)
        local = []
        for row in range(len(images)):
            if first + row in rank:
                patches = self._cut(tokens.patches[row : row + 1], outliers[row : row + 1], images[row : row + 1])
                chooses = rank[first + row] % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
                local.append((patches, "test" if dataloader_idx else "held out" if chooses else "train"))
        return dataloader_idx, drawn, local

    def tested(self, measured: Seen) -> None:
        loader, drawn, local = measured
        self._single[loader].append(drawn)
        for patches, part in local:
            self._probe(patches, part)

    def _probe(self, image: Patches, part: str) -> None:
        """Hand an image to the local probes, which do not store it: 400 of 518 px have 3.5 GB of tokens and pixels."""
        if part == "test":
            self._position.test(image)
            self._pixels.test(image)
            return
        self._position.train(image)
        (self._pixels.train if part == "train" else self._pixels.held_out)(image)

    def _last_block(self, images: Tensor) -> tuple[Tensor, Tokens]:
        """Norms (B, h, w) before the final norm, and the tokens after it."""
        backbone, stages = self.frozen.backbone, dict[int, Tokens]()

        def see(stage: int, tokens: Tokens) -> None:
            if stage >= backbone.depth:
                stages[stage] = tokens

        with self.frozen.autocast(images):
            backbone.walk(normalise(images, self.mean, self.std), see)
        last = stages[backbone.depth + 1]
        cls = None if last.cls is None else last.cls.float()
        norms = stages[backbone.depth].patches.float().norm(dim=-1)
        return norms, Tokens(cls, last.registers.float(), last.patches.float())

    def _cut(self, tokens: Tensor, outliers: Tensor, images: Tensor) -> Patches:
        scale = self.mean.cpu(), self.std.cpu(), self.settings.local.pixels
        return local_probes.patches(tokens.cpu(), outliers.cpu(), images.cpu(), *scale)

    def contents(self) -> Contents:
        """Scores of the probes, available after test."""
        train, test = (probes.joined(batches) for batches in self._single)
        settings = self.settings.tokens
        return Contents(
            tokens={name: probes.classify(train[name], test[name], settings, self.seed) for name in train},
            position=self._position.scores(),
            pixels=self._pixels.scores(),
        )
