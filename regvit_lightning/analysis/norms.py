"""Norms and related statistics of every kind of token after every block, in one pass over images.

Norms are those of the raw residual stream: the final norm hides artifacts (Darcet et al. 2023, arXiv 2309.16588,
figs. 3 and 4; dinov2 issue 373). Tokens are not stored: only a few numbers per token and block stay in memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.analysis import diversity
from regvit_lightning.analysis.diversity import Diversity, DiversityOfRegisters
from regvit_lightning.data.transforms import normalise
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.tokens import Tokens

Observer = Callable[[int, Tokens], None]  # of the stages of a walk through the blocks, see `Backbone.walk`


@dataclass(frozen=True)
class Norms:
    """Statistics of one pass over N images, on the CPU; memory is about 4 (depth + 1) bytes per token and image.

    S = depth + 1 stages: index b - 1 is the residual stream after block b = 1..depth, index -1 the output of the
    last block after the final norm.

    Attributes:
        patches: (N, S, h, w) L2 norms.
        registers: (N, S, R) L2 norms.
        cls: (N, S) L2 norms, None for a model without CLS.
        embedded: (N, h, w) L2 norms of patches right after the patch embedding, before position embeddings.
        neighbours: (N, h, w) neighbour similarity right after the patch embedding, see `neighbour_similarity`.
        largest: (N, S, 3) largest |activation| over CLS, over the registers and over the patches; 0 for a kind that
            the model lacks.
        median: (N, S) median |activation| over all tokens and hidden dimensions.
        kurtosis: (N, S) kurtosis over the hidden dimensions of a patch (3 for a normal distribution, at most D), mean
            over the patches.
    """

    patches: Tensor
    registers: Tensor
    cls: Tensor | None
    embedded: Tensor
    neighbours: Tensor
    largest: Tensor
    median: Tensor
    kurtosis: Tensor

    def __len__(self) -> int:
        return len(self.patches)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.patches.shape[1] - 1

    @property
    def raw(self) -> Tensor:
        """Norms (N, depth, h, w) of patches before the final norm."""
        return self.patches[:, :-1]


def neighbour_similarity(patches: Tensor) -> Tensor:
    """Mean cosine (B, h, w) of each patch (B, h, w, D) to its up to 4 neighbours; 0 for a single patch.

    Fig. 5a of Darcet et al. 2023, which does not specify the treatment of the border nor whether the four are averaged.
    """
    unit = F.normalize(patches, dim=-1)
    total, count = unit.new_zeros(unit.shape[:-1]), unit.new_zeros(unit.shape[:-1])
    down, right = (unit[:, 1:] * unit[:, :-1]).sum(-1), (unit[:, :, 1:] * unit[:, :, :-1]).sum(-1)
    for part, cosine in (
        ((slice(None), slice(1, None)), down),
        ((slice(None), slice(None, -1)), down),
        ((slice(None), slice(None), slice(1, None)), right),
        ((slice(None), slice(None), slice(None, -1)), right),
    ):
        total[part] += cosine
        count[part] += 1
    return total / count.clamp(min=1)


@torch.no_grad()
def measure(backbone: Backbone, images: Tensor, also: Observer | None = None) -> Norms:
    """Measure `Norms` of one batch of normalised images (B, 3, H, W), in float32 under any autocast of the caller.

    Args:
        also: called with the tokens of every stage too, see `Backbone.walk`.

    Raises:
        UserError: an image size that the model does not accept.
    """
    embedding: dict[str, Tensor] = {}
    stages: list[dict[str, Tensor]] = []

    def see(stage: int, tokens: Tokens) -> None:
        if stage == 0:
            patches = tokens.patches.float()
            embedding.update(embedded=patches.norm(dim=-1).cpu(), neighbours=neighbour_similarity(patches).cpu())
        else:
            stages.append(_stage(tokens))
        if also is not None:
            also(stage, tokens)

    backbone.walk(images, see)
    measured: dict[str, Any] = {name: torch.stack([stage[name] for stage in stages], dim=1).cpu() for name in stages[0]}
    return Norms(**{"cls": None, **measured}, **embedding)


def join(parts: Sequence[Norms]) -> Norms:
    """Concatenate the norms of the images of all `parts`.

    Raises:
        ValueError: no parts, or images of different sizes.
    """
    grids = {tuple(part.patches.shape[2:]) for part in parts}
    if len(grids) != 1:
        raise ValueError(f"norms of one grid of patches expected, got {sorted(grids) or 'no images'}")
    joined: dict[str, Any] = {}
    for name in (field.name for field in fields(Norms)):
        values = [getattr(part, name) for part in parts]
        joined[name] = None if values[0] is None else torch.cat(values)
    return Norms(**joined)


class NormPass(FrozenModule):
    """Measures norms of the uint8 images of a test pass, batches of (images, …).

    Args:
        backbone, precision: as for `FrozenModule`.
        observers: called with the tokens of every stage too, see `Backbone.walk`.

    Attributes:
        norms: norms of all images, available after test.
        mean_registers: (depth, R, D), mean of each register over all images after every block, before the final norm;
            available after test.
        diversity: of the registers of the last block, available after test; None for fewer than two registers.
    """

    norms: Norms
    mean_registers: Tensor
    diversity: Diversity | None

    def __init__(self, backbone: Backbone, precision: str, observers: Sequence[Observer] = ()) -> None:
        super().__init__(backbone, precision)
        self._observers = [self._add, *observers]
        self._parts: list[Norms] = []
        self._sums: dict[int, Tensor] = {}  # of registers over images (R, D), by block 1..depth
        self._diversity = DiversityOfRegisters()

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        images = normalise(batch[0], self.mean, self.std)
        with self.frozen.autocast(images):
            self._parts.append(measure(self.frozen.backbone, images, self._see))

    def _see(self, stage: int, tokens: Tokens) -> None:
        for observer in self._observers:
            observer(stage, tokens)

    def _add(self, stage: int, tokens: Tokens) -> None:
        depth = self.frozen.backbone.depth
        if 1 <= stage <= depth:
            total = tokens.registers.float().sum(dim=0).cpu().double()
            self._sums[stage] = self._sums[stage] + total if stage in self._sums else total
        if stage >= depth:
            self._diversity.add(diversity.RAW if stage == depth else diversity.NORMED, tokens)

    def on_test_epoch_end(self) -> None:
        self.norms, self._parts = join(self._parts), []
        sums, self._sums = [self._sums[block] for block in sorted(self._sums)], {}
        self.mean_registers = (torch.stack(sums) / len(self.norms)).float()
        self.diversity = self._diversity.result()


def _stage(tokens: Tokens) -> dict[str, Tensor]:
    """Fields of `Norms` at one stage, without the stage axis."""
    patches, registers = tokens.patches.float(), tokens.registers.float()
    norms, flat = patches.norm(dim=-1), patches.flatten(1, 2)
    cls = registers[:, :0] if tokens.cls is None else tokens.cls.float()[:, None]
    kinds = [cls, registers, flat]
    return {
        "patches": norms,
        "registers": registers.norm(dim=-1),
        **({} if tokens.cls is None else {"cls": cls[:, 0].norm(dim=-1)}),
        "largest": torch.stack([_largest(kind) for kind in kinds], dim=1),
        "median": _median(torch.cat(kinds, dim=1).abs().flatten(1)),
        "kurtosis": kurtosis(flat).mean(dim=1),
    }


def kurtosis(values: Tensor) -> Tensor:
    """Pearson's kurtosis over the last axis: 3 for a normal distribution, the axis length for a single spike."""
    squares = (values - values.mean(dim=-1, keepdim=True)).square_()
    return squares.norm(dim=-1).square() / squares.shape[-1] / squares.mean(dim=-1).square()


def _median(values: Tensor) -> Tensor:
    """Lower median (B,) of each row (B, M)."""
    if values.device.type != "cpu":
        return values.median(dim=1).values
    middle = (values.shape[1] - 1) // 2  # numpy selects six times faster than torch on a CPU
    return torch.from_numpy(np.partition(values.numpy(), middle, axis=1)[:, middle])


def _largest(tokens: Tensor) -> Tensor:
    """Largest |activation| (B,) over tokens (B, T, D); 0 where T is 0."""
    return tokens.abs().flatten(1).amax(dim=1) if tokens.shape[1] else tokens.new_zeros(len(tokens))
