"""Attention in parts, so that an arm replaces one of them and keeps the names of timm's weights."""

from typing import Any

from timm.layers import Attention
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.models.arms.rows import SHARES
from regvit_lightning.settings import check


class ArmAttention(Attention):
    """timm's attention, one part of which an arm overrides: `project`, `attend` or `release`.

    Without fused kernels, the weights (B, H, T, S) of S keys for T queries pass through `attn_drop`, where the analysis
    reads them, and meet the values in one product `weights @ values`. Keys that are no tokens stand last.

    Args:
        dim: width D of the tokens.
        num_heads: number of heads H.
        depth: index of the block, from 0.
        options: further options of timm's attention.

    Attributes:
        plain_softmax: whether the weights are the softmax of the products that the fused kernel is given.
        rows: what the weights of the tokens are for a query, see `rows`.
    """

    plain_softmax = True
    rows = SHARES

    def __init__(self, dim: int, num_heads: int = 8, depth: int = 0, **options: Any) -> None:
        super().__init__(dim, num_heads=num_heads, **options)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Update (B, T, D) of normed tokens (B, T, D).

        Raises:
            SettingsError: a mask, which no arm takes.
        """
        check(attn_mask is None and not is_causal, "attn_mask, is_causal: the attention of an arm takes no mask")
        heads = self.attend(*self.project(x))
        output: Tensor = self.proj_drop(self.proj(self.norm(self.release(heads, x).transpose(1, 2).flatten(2))))
        return output

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, H, T, dh) of normed tokens (B, T, D)."""
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        return self.q_norm(q), self.k_norm(k), v

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Sum of the values (B, H, T, dh) for each query, by weight."""
        if self.fused_attn and self.plain_softmax:
            return F.scaled_dot_product_attention(q, k, v)
        weights: Tensor = self.attn_drop(self.weights(q, k))
        return weights @ v

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        """Weights (B, H, T, S) of the keys for each query."""
        return (q * self.scale @ k.mT).softmax(dim=-1)

    def release(self, heads: Tensor, x: Tensor) -> Tensor:
        """What each head (B, H, T, dh) hands to the output projection; x are the normed tokens (B, T, D)."""
        return heads
