"""Diversity of the registers of an image: how much they differ from each other, in content and in where they look.

Whether registers should differ is open: the registers paper notes that they attend to different parts of an image
(Darcet et al. 2023, arXiv 2309.16588, Fig. 9) without a number. Diversity alone is no merit: it belongs beside accuracy
and artifacts. All measures need at least two registers; there is none for a model with fewer.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.models.arms.rows import SIGNED
from regvit_lightning.models.tokens import Attention, Tokens
from regvit_lightning.rank import effective_rank

ALIKE = 0.99  # mean cosine from which registers are copies of one
TOP = 0.1  # share of the patches that count as looked at by a register, for the coverage
RAW, NORMED = "raw", "normed"  # before and after the final norm


def cosines(registers: Tensor) -> Tensor:
    """Cosines (…, R, R) float64 between registers (…, R, D); 0 with a register that is zero."""
    unit = F.normalize(registers.double(), dim=-1)
    return unit @ unit.mT


def divergences(maps: Tensor) -> Tensor:
    """Jensen–Shannon divergences (…, R, R) in bits between maps (…, R, N): 0 for equal maps, 1 for disjoint ones.

    Args:
        maps: not negative; each is scaled to a sum of 1 (Lin 1991, IEEE Trans. Inf. Theory 37:145).
    """
    shares = maps.double() / maps.double().sum(dim=-1, keepdim=True)
    own = torch.special.entr(shares).sum(dim=-1)
    middle = (shares[..., :, None, :] + shares[..., None, :, :]) / 2
    both = torch.special.entr(middle).sum(dim=-1)
    return ((both - (own[..., :, None] + own[..., None, :]) / 2) / math.log(2)).clamp(min=0)


def mean_of_pairs(values: Tensor) -> Tensor:
    """Mean (…) over the pairs of different registers of symmetric values (…, R, R), R at least 2."""
    rows, columns = torch.triu_indices(values.shape[-1], values.shape[-1], offset=1)
    return values[..., rows, columns].mean(dim=-1)


def coverage(maps: Tensor, share: float = TOP) -> Tensor:
    """Share (B,) of the patches that are among the `share` of highest attention of some register.

    From `share`, where all registers look at the same patches, to R times that, where no two share any.

    Args:
        maps: (B, R, N).
        share: of the patches of a map, at least one patch.
    """
    count = max(round(share * maps.shape[2]), 1)
    top = torch.zeros_like(maps, dtype=torch.bool).scatter_(2, maps.topk(count, dim=2).indices, True)
    return top.any(dim=1).double().mean(dim=1)


def of_attention(attention: Attention) -> tuple[dict[str, Tensor], Tensor | None]:
    """Measures of the maps of the registers over patches, mean over heads, in one block.

    Returns:
        Scores (B,) `register_divergence` (bits, mean over pairs) and `register_coverage` (percent), and the divergences
        (B, R, R); nothing and None for fewer than two registers, and for weights that may be negative.
    """
    if attention.registers.shape[2] < 2 or attention.rows == SIGNED:
        return {}, None
    maps = attention.registers.mean(dim=1, dtype=torch.float32).flatten(2)
    between = divergences(maps)
    return {"register_divergence": mean_of_pairs(between), "register_coverage": 100 * coverage(maps)}, between


@dataclass(frozen=True)
class Diversity:
    """Diversity of the contents of R registers over N images, at the model's output.

    Attributes:
        scores: (N,) by name: `register_cosine`, mean over pairs after the final norm, `register_cosine_raw` before it,
            and `register_effective_rank` of the unit registers after the final norm, 1 (all equal) to R (orthogonal).
        cosines: (R, R) mean over images, by `raw` and `normed`.
        identity: by `raw` and `normed`: share of the variance over images and registers that the register alone
            explains (η²): 1 where each register is a constant, 0 where only the content of the image counts.
    """

    scores: dict[str, Tensor]
    cosines: dict[str, Tensor]
    identity: dict[str, float]

    def remark(self) -> str:
        """A line where the registers are copies of one, else empty."""
        cosine, count = self.scores["register_cosine"].mean().item(), len(self.cosines[NORMED])
        if cosine < ALIKE:
            return ""
        return f"its {count} registers are copies of one: the mean cosine of two is {cosine:.3f} after the final norm"

    def metrics(self) -> dict[str, float]:
        """Scalars for the record."""
        means = {name: values.nanmean().item() for name, values in self.scores.items()}
        return {**means, "register_identity": self.identity[NORMED], "register_identity_raw": self.identity[RAW]}


class DiversityOfRegisters:
    """Collects the registers of batches of images, a few numbers of each."""

    def __init__(self) -> None:
        self._scores: dict[str, list[Tensor]] = {}
        self._cosines: dict[str, Tensor] = {}
        self._moments = {RAW: Moments(), NORMED: Moments()}

    def add(self, kind: str, tokens: Tokens) -> None:
        """Add the registers of the last block of a batch, `raw` or `normed`."""
        registers = tokens.registers.double()
        if registers.shape[1] < 2:
            return
        between = cosines(registers)
        suffix = "_raw" if kind == RAW else ""
        self._scores.setdefault(f"register_cosine{suffix}", []).append(mean_of_pairs(between).cpu())
        self._cosines[kind] = self._cosines.get(kind, 0) + between.sum(dim=0).cpu()
        self._moments[kind].add(registers)
        if kind == NORMED:
            unit = F.normalize(registers, dim=2)
            rank = effective_rank(unit, unit.new_ones(unit.shape[:2], dtype=torch.bool))
            self._scores.setdefault("register_effective_rank", []).append(rank.cpu())

    def result(self) -> Diversity | None:
        """Diversity of all images; None for fewer than two registers."""
        if not self._scores:
            return None
        scores = {name: torch.cat(parts) for name, parts in sorted(self._scores.items())}
        means = {kind: total / self._moments[kind].images for kind, total in self._cosines.items()}
        return Diversity(scores, means, {kind: moments.identity() for kind, moments in self._moments.items()})


class Moments:
    """Sums over images of registers and of their squares, for the share of variance that the register explains.

    Attributes:
        images: number of images.
    """

    def __init__(self) -> None:
        self.images = 0
        self._sums = torch.zeros(0)
        self._squares = 0.0

    def add(self, registers: Tensor) -> None:
        """Add registers (B, R, D) float64."""
        sums = registers.sum(dim=0).cpu()
        self._sums = sums if not self.images else self._sums + sums
        self._squares += registers.square().sum().item()
        self.images += len(registers)

    def identity(self) -> float:
        """η² in 0..1: variance over registers of their means, relative to that over images and registers; NaN for 0."""
        means = self._sums / self.images
        grand = means.mean(dim=0).square().sum()
        total = self._squares / (self.images * len(means)) - grand
        between = means.square().sum(dim=1).mean() - grand
        return (between / total).clamp(max=1).item() if total > 1e-12 * grand else float("nan")
