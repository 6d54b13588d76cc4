"""One more key and value that are no token: a place for the weight that a query has no use for.

Softmax-off-by-one (Miller 2023, "Attention is off by one") has a key and a value of zero, learned attention biases (Sun
et al. 2024, arXiv 2402.17762, section 6; "attention bias" in DINOv3's appendix A.1) a learned pair for each head. They
are PyTorch's `add_zero_attn` and `add_bias_kv` of `MultiheadAttention`. Both stay within the fused kernel.
"""

from typing import Any

import torch
from torch import Tensor, nn

from regvit_lightning.models.arms.attention import ArmAttention
from regvit_lightning.models.arms.rows import PARTIAL

STD = 0.02  # of the learned key and value, as in the code of arXiv 2402.17762


class ZeroKey(ArmAttention):
    """Weights exp(l) / (1 + sum exp(l)): a query may attend to nothing."""

    rows = PARTIAL

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        key, value = (part.expand(len(q), -1, -1, -1).to(k.dtype) for part in self.extra(k))
        return super().attend(q, torch.cat([k, key], dim=2), torch.cat([v, value], dim=2))

    def extra(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Key and value (1, H, 1, dh)."""
        zero = k.new_zeros(1, k.shape[1], 1, k.shape[3])
        return zero, zero


class LearnedKey(ZeroKey):
    """A learned key and value for each head, `bias_k` and `bias_v` (1, H, 1, dh); without weight decay, as biases."""

    def __init__(self, dim: int, num_heads: int = 8, **options: Any) -> None:
        super().__init__(dim, num_heads, **options)
        self.bias_k, self.bias_v = (
            nn.Parameter(STD * torch.randn(1, num_heads, 1, dim // num_heads)) for _ in ("key", "value")
        )

    def extra(self, k: Tensor) -> tuple[Tensor, Tensor]:
        return self.bias_k, self.bias_v
