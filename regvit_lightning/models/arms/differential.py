"""Differential attention (Ye et al. 2024, arXiv 2410.05258): the difference of two softmax maps in each head.

    A = softmax(q1 k1) - lambda softmax(q2 k2), and each head's A v passes an RMS norm and is scaled by 1 - lambda_init

lambda = exp(lambda_q1 lambda_k1) - exp(lambda_q2 lambda_k2) + lambda_init, with lambda_init = 0.8 - 0.6 exp(-0.3 l) in
block l = 0, 1, …. The number of heads stays, and the two queries and keys of a head have half its width, as in timm's
`DiffAttention`, whose weights have the same names; the paper halves the number of heads instead.
"""

import math
from typing import Any

import torch
from timm.layers import RmsNorm
from torch import Tensor, nn
from torch.nn import functional as F

from regvit_lightning.models.arms.attention import ArmAttention
from regvit_lightning.models.arms.rows import SIGNED
from regvit_lightning.settings import check

VECTORS = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
STD = 0.1  # of these vectors, as published
EPSILON = 1e-5  # of the norm of each head


class DifferentialAttention(ArmAttention):
    """Differential attention with the weights of timm's `DiffAttention`.

    Args:
        dim: width D.
        num_heads: number of heads H, of an even width.
        depth: index of the block, from 0.
        options: further options of timm's attention.

    Raises:
        SettingsError: heads of an odd width.
    """

    plain_softmax, rows = False, SIGNED

    def __init__(self, dim: int, num_heads: int = 8, depth: int = 0, **options: Any) -> None:
        super().__init__(dim, num_heads, **options)
        width = dim // num_heads
        check(width % 2 == 0, f"arm diff: heads of width {width} cannot be halved")
        self.scale = (width // 2) ** -0.5
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * depth)
        for name in VECTORS:
            setattr(self, name, nn.Parameter(STD * torch.randn(width // 2)))
        self.sub_norm = RmsNorm(width, eps=EPSILON)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not self.fused_attn:
            return super().attend(q, k, v)
        first, second = (F.scaled_dot_product_attention(*pair, v) for pair in zip(halves(q), halves(k), strict=True))
        return first - self.factor().to(v.dtype) * second

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        first, second = (
            super(DifferentialAttention, self).weights(*pair) for pair in zip(halves(q), halves(k), strict=True)
        )
        return first - self.factor().to(first.dtype) * second

    def release(self, heads: Tensor, x: Tensor) -> Tensor:
        released: Tensor = self.sub_norm(heads.to(self.sub_norm.weight.dtype)) * (1 - self.lambda_init)
        return released

    def factor(self) -> Tensor:
        """The factor lambda of the second map, a scalar in float32."""
        q1, k1, q2, k2 = (getattr(self, name).float() for name in VECTORS)
        return (q1 * k1).sum().exp() - (q2 * k2).sum().exp() + self.lambda_init


def halves(heads: Tensor) -> list[Tensor]:
    """Split queries or keys (B, H, T, dh) into two of half the width, the first and the last channels of each head."""
    return list(heads.chunk(2, dim=-1))
