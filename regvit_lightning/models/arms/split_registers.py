"""Registers split over the heads (RATS): patches talk through registers only, and each head has registers of its own.

Source: "RATS! Patches talk through registers" (arXiv 2606.14701): L → N → N → L in every block. Its code is not
published; this is our reading. Of R registers, head h has the group of R / heads with the indices from h R / heads on.
With the queries q, keys k and values v of the block, softmax over the last index and r, s in the group of the head,

    compress      c_r = v_r + sum_p softmax_p(q_r k_p) v_p        registers attend the patches
    communicate   u_r = sum_s softmax_s(q_r k_s) c_s              then each other
    broadcast     o_i = sum_r softmax_r(q_i k_r) u_r              patches and CLS attend the registers

The output of a register is u_r in the channels of its own head and zero in those of the others. The paper has no CLS,
its registers take that part; here CLS reads like a patch, and no token reads CLS.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.models.arms.attention import ArmAttention
from regvit_lightning.models.arms.rows import PARTIAL
from regvit_lightning.settings import check


class SplitRegisterAttention(ArmAttention):
    """Attention of tokens CLS, registers, patches through registers that are split over the heads.

    Args:
        dim: width D of the tokens.
        registers: number R of registers, a positive multiple of the number of heads.
        num_heads: number of heads.
        options: further options of timm's attention.

    Raises:
        SettingsError: the registers cannot be split evenly over the heads.
    """

    plain_softmax = False
    rows = PARTIAL  # rows of the registers of other heads are zero

    def __init__(self, dim: int, registers: int, num_heads: int = 8, **options: Any) -> None:
        super().__init__(dim, num_heads=num_heads, **options)
        check_split(registers, num_heads)
        self.registers = registers

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Sum of the values (B, H, T, dh) for each query, in the three steps; T = 1 + R + patches."""
        own_q, own_k, own_v = (self._own(part) for part in (q, k, v))
        patches = slice(1 + self.registers, None)
        readers = torch.cat([q[:, :, :1], q[:, :, patches]], dim=2)
        if not self.fused_attn and not self.training:  # shown to whoever hooks `attn_drop`, as in other blocks
            self.attn_drop(self._shown(own_q, own_k, readers, k[:, :, patches]))
        gathered = own_v + self._step(own_q, k[:, :, patches], v[:, :, patches])
        shared = self._step(own_q, own_k, gathered)
        read = self._step(readers, own_k, shared)
        return torch.cat([read[:, :, :1], self._placed(shared), read[:, :, 1:]], dim=2)

    def _step(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.fused_attn:
            return F.scaled_dot_product_attention(q, k, v)
        return self.weights(q, k) @ v

    def _own(self, part: Tensor) -> Tensor:
        """The registers of each head (B, heads, R / heads, d) among all tokens (B, heads, T, d)."""
        registers = part[:, :, 1 : 1 + self.registers].unflatten(2, (self.num_heads, -1))
        return registers.diagonal(dim1=1, dim2=2).movedim(-1, 1)

    def _placed(self, own: Tensor) -> Tensor:
        """All registers (B, heads, R, d): those of each head (B, heads, R / heads, d), and zeros in other heads."""
        return torch.diag_embed(own.movedim(1, -1), dim1=1, dim2=2).flatten(2, 3)

    def _shown(self, own_q: Tensor, own_k: Tensor, readers: Tensor, patches: Tensor) -> Tensor:
        """Attention (B, heads, T, T), as other blocks give it: rows of CLS and patches to the registers of the head.

        Rows of these registers are their attention to the patches, of the first of the two steps; rows of other
        registers are zero.
        """
        compress, broadcast = self.weights(own_q, patches), self.weights(readers, own_k)
        around = (compress.shape[-1], 1 + self.registers)
        to_registers = self._placed(broadcast.mT).mT
        rows = F.pad(to_registers, (1, around[0]))
        registers = F.pad(self._placed(compress), (around[1], 0))
        return torch.cat([rows[:, :, :1], registers, rows[:, :, 1:]], dim=2)


def check_split(registers: int, heads: int) -> None:
    """Check that registers can be split evenly over the heads.

    Raises:
        SettingsError: they cannot; the message names the nearest numbers.
    """
    below = registers // heads * heads
    nearest = " or ".join(str(count) for count in (below, below + heads) if count > 0)
    split = f"arm rats splits the registers over {heads} heads, so {registers} is not possible; take {nearest}"
    check(registers > 0 and registers % heads == 0, split)
