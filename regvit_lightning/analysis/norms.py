"""Norms of every kind of token after every block, and what goes with them, in one pass over images.

Norms are those of the residual stream as it is: the final norm hides artifacts (Darcet et al. 2023, arXiv 2309.16588,
figs. 3 and 4; dinov2 issue 373). Tokens are never kept: what stays in memory is a few numbers per token and block.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.data.transforms import normalise
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.tokens import Tokens


@dataclass(frozen=True)
class Norms:
    """What one pass over N images finds, on the CPU; memory is about 4 (depth + 1) bytes for each token of each image.

    S = depth + 1 stages: index b - 1 is the residual stream after block b = 1..depth, index -1 the last block after
    the final norm.

    Attributes:
        patches: (N, S, h, w) L2 norms.
        registers: (N, S, R) L2 norms.
        cls: (N, S) L2 norms, None for a model without CLS.
        embedded: (N, h, w) L2 norms of patches right after the patch embedding, before position embeddings.
        neighbours: (N, h, w) right after the patch embedding, see `neighbour_similarity`.
        largest: (N, S, 3) largest |activation| over CLS, over the registers and over the patches; 0 for a kind that is
            not there.
        median: (N, S) median |activation| over all tokens and hidden dimensions.
        kurtosis: (N, S) over the hidden dimensions of a patch (3 for a normal distribution, at most D), mean over the
            patches.
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
        """(N, depth, h, w) norms of patches before the final norm."""
        return self.patches[:, :-1]


def neighbour_similarity(patches: Tensor) -> Tensor:
    """Mean cosine of each patch (B, h, w, D) to those of its 4 neighbours that exist: (B, h, w); 0 for a lone patch.

    Fig. 5a of Darcet et al. 2023, which leaves open what happens at the border and whether the four are averaged.
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
def measure(backbone: Backbone, images: Tensor) -> Norms:
    """`Norms` of one batch of normalised images (B, 3, H, W), in float32 under whatever autocast the caller has.

    Raises:
        UserError: a size that the model does not take.
    """
    embedding: dict[str, Tensor] = {}
    stages: list[dict[str, Tensor]] = []

    def see(stage: int, tokens: Tokens) -> None:
        if stage == 0:
            patches = tokens.patches.float()
            embedding.update(embedded=patches.norm(dim=-1).cpu(), neighbours=neighbour_similarity(patches).cpu())
        else:
            stages.append(_stage(tokens))

    backbone.walk(images, see)
    measured: dict[str, Any] = {name: torch.stack([stage[name] for stage in stages], dim=1).cpu() for name in stages[0]}
    return Norms(**{"cls": None, **measured}, **embedding)


def join(parts: Sequence[Norms]) -> Norms:
    """The norms of all images of `parts`.

    Raises:
        ValueError: no part, or images of different sizes.
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
    """Measures the uint8 images of a test pass, batches of (images, …).

    Attributes:
        norms: of all images, after test.
    """

    norms: Norms

    def __init__(self, backbone: Backbone, precision: str) -> None:
        super().__init__(backbone, precision)
        self._parts: list[Norms] = []

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        images = normalise(batch[0], self.mean, self.std)
        with self.frozen.autocast(images):
            self._parts.append(measure(self.frozen.backbone, images))

    def on_test_epoch_end(self) -> None:
        self.norms, self._parts = join(self._parts), []


def _stage(tokens: Tokens) -> dict[str, Tensor]:
    """The fields of `Norms` at one stage, without its axis."""
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
    """Pearson's kurtosis over the last axis: 3 for a normal distribution, the axis's length for a single spike."""
    squares = (values - values.mean(dim=-1, keepdim=True)).square_()
    return squares.norm(dim=-1).square() / squares.shape[-1] / squares.mean(dim=-1).square()


def _median(values: Tensor) -> Tensor:
    """Lower median (B,) of each row (B, M)."""
    if values.device.type != "cpu":
        return values.median(dim=1).values
    middle = (values.shape[1] - 1) // 2  # on a CPU numpy selects six times faster than torch
    return torch.from_numpy(np.partition(values.numpy(), middle, axis=1)[:, middle])


def _largest(tokens: Tensor) -> Tensor:
    """Largest |activation| (B,) over tokens (B, T, D); 0 where T is 0."""
    return tokens.abs().flatten(1).amax(dim=1) if tokens.shape[1] else tokens.new_zeros(len(tokens))
