"""Attention to outliers, registers and CLS: shares, entropy and maps.

Everything is computed from the probabilities of one block (`Backbone.last_block(images).attention`), which are computed
for that block alone, even where the model runs fused kernels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from regvit_lightning.errors import UserError
from regvit_lightning.models.arms.rows import PARTIAL, SHARES, SIGNED
from regvit_lightning.models.tokens import Attention


@dataclass(frozen=True)
class Mass:
    """Attention shares of one kind of query, mean over heads and queries, self-attention included; they sum to 1.

    Attributes:
        cls: (B,), to CLS; 0 for a model without CLS.
        registers: (B, R), to each register.
        outliers: (B,), to all outlier patches together.
        normal: (B,), to all other patches together.
    """

    cls: Tensor
    registers: Tensor
    outliers: Tensor
    normal: Tensor


def mass(attention: Attention, outliers: Tensor) -> dict[str, Mass]:
    """Attention shares by kind of query: CLS, registers and patches; kinds that the model lacks are omitted.

    Where a key is no token (`attention.rows` is `PARTIAL`), the shares sum to 1 less the weight of that key.

    Args:
        attention: attention of one block.
        outliers: boolean (B, h, w).

    Raises:
        UserError: weights that may be negative, which are no shares.
    """
    if attention.rows == SIGNED:
        raise UserError("attention: weights that may be negative (arm diff) are no shares of anything")
    queries = attention.cut(attention.full.mT)  # cls (B, heads, T), registers (B, heads, T, R), patches (…, T, h, w)
    rows = {"patches": queries.patches.mean(dim=(-2, -1), dtype=torch.float32)}
    if attention.registers.shape[2]:
        rows["registers"] = queries.registers.mean(dim=-1, dtype=torch.float32)
    if queries.cls is not None:
        rows["cls"] = queries.cls.float()
    return {name: _mass(attention, row.mean(dim=1), outliers) for name, row in rows.items()}


def _mass(attention: Attention, row: Tensor, outliers: Tensor) -> Mass:
    keys = attention.cut(row)
    to_outliers = (keys.patches * outliers).sum(dim=(1, 2))
    to_cls = torch.zeros_like(to_outliers) if keys.cls is None else keys.cls
    return Mass(to_cls, keys.registers, to_outliers, (keys.patches * ~outliers).sum(dim=(1, 2)))


def left_out(rows: str) -> str:
    """Why scores of an attention with such rows (see `arms.rows`) are left out, in a line; empty if none is."""
    if rows == SHARES:
        return ""
    if rows == PARTIAL:
        return "no entropy of attention: the weights of its arm do not sum to 1 over the tokens"
    return "no entropy, shares or preference of attention: the weights of its arm may be negative"


def outlier_preference(mass: Mass, outliers: Tensor) -> Tensor:
    """Ratio of the mean attention received by an outlier patch to that received by a normal patch.

    Args:
        mass: shares of one kind of query.
        outliers: boolean (B, h, w).

    Returns:
        (B,); NaN for an image where one of the two kinds is missing.
    """
    count = outliers.sum(dim=(1, 2))
    normal = outliers[0].numel() - count
    ratio = (mass.outliers / count) / (mass.normal / normal)
    return ratio.where((count > 0) & (normal > 0), torch.nan)


def cls_entropy(attention: Attention) -> Tensor | None:
    """Entropy in nats of the attention from CLS over all tokens, mean over heads: 0 to log T.

    Returns:
        (B,), or None for a model without CLS.

    Raises:
        UserError: weights that do not sum to 1, which have no entropy.
    """
    if attention.rows != SHARES:
        raise UserError("attention: weights that do not sum to 1 have no entropy")
    row = attention.cut(attention.full.mT).cls
    return None if row is None else torch.special.entr(row.float()).sum(dim=-1).mean(dim=1)


def maps(attention: Attention) -> dict[str, Tensor]:
    """Attention over the patches from CLS, each register and the central patch, mean over heads (Figs. 1, 9, 16).

    Fig. 16 is the mean of each over images; the CLS map of each head (Fig. 18) is `attention.cls`.

    Returns:
        (B, h, w) float32 by `CLS`, `reg_0`, …, `central patch`; a map sums to 1 minus the shares of CLS and registers.
    """
    rows, columns = attention.patches.shape[2:4]
    by_head = {} if attention.cls is None else {"CLS": attention.cls}
    by_head |= {f"reg_{index}": register for index, register in enumerate(attention.registers.unbind(dim=2))}
    by_head["central patch"] = attention.patches[:, :, rows // 2, columns // 2]
    return {name: heads.mean(dim=1, dtype=torch.float32) for name, heads in by_head.items()}
