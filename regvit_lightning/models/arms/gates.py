"""Sigmoid gates: on the output of each head, or on the values that it reads.

Sources: on the output, Qiu et al. 2025 (arXiv 2505.06708), Bondarenko et al. 2023 (arXiv 2306.12929) and, for ViTs, "A
unifying view of attention sinks" (arXiv 2606.08105); on the values, from the values, Bu et al. 2025 (arXiv 2510.09017)
and DINOv3's appendix A.1 (arXiv 2508.10104). A gate starts at about 1/2: its bias is 0 and its weights are small.
"""

from typing import Any

from torch import Tensor, nn

from regvit_lightning.models.arms.attention import ArmAttention


class HeadwiseGate(ArmAttention):
    """One gate for each head, from the normed input: `gate`, D -> H. With one for each channel it is timm's `gated`."""

    def __init__(self, dim: int, num_heads: int = 8, **options: Any) -> None:
        super().__init__(dim, num_heads, **options)
        self.gate: nn.Linear = nn.Linear(dim, num_heads)

    def release(self, heads: Tensor, x: Tensor) -> Tensor:
        return heads * self.gate(x).sigmoid().mT.unsqueeze(-1)


class ValueGate(ArmAttention):
    """A gate on each value before it is read, from all values of its token: `value_gate`, D -> D or D -> H.

    Args:
        headwise: one gate for each head instead of one for each channel.
    """

    def __init__(self, dim: int, num_heads: int = 8, headwise: bool = False, **options: Any) -> None:
        super().__init__(dim, num_heads, **options)
        self.value_gate = nn.Linear(dim, num_heads if headwise else dim)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().project(x)
        gates = self.value_gate(v.transpose(1, 2).flatten(2)).sigmoid()
        return q, k, v * gates.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
