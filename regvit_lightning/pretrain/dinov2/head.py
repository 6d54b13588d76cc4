"""Projection head of DINO and iBOT: an MLP to the unit sphere of a bottleneck, then cosines to prototypes.

Source: Caron et al. 2021 (arXiv 2104.14294, appendix C); as in DINOv2's code the gain of each prototype starts at 1 and
is learned.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Prototypes(nn.Module):
    """Scalar products with weight-normalised prototypes, (M, d) to (M, K).

    Attributes:
        direction: (K, d), of any length.
        gain: (K, 1).
    """

    def __init__(self, dim: int, prototypes: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.empty(prototypes, dim).uniform_(-(dim**-0.5), dim**-0.5))
        self.gain = nn.Parameter(torch.ones(prototypes, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (M, K) of unit vectors (M, d)."""
        return F.linear(x, self.gain * F.normalize(self.direction, dim=1))


class DinoHead(nn.Module):
    """Tokens (M, D) to logits (M, K).

    Args:
        dim: D.
        prototypes: K.
        hidden: width of the two hidden layers.
        bottleneck: width d of the sphere.
    """

    def __init__(self, dim: int, prototypes: int, hidden: int, bottleneck: int) -> None:
        super().__init__()
        linear = [nn.Linear(dim, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, bottleneck)]
        for layer in linear:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.mlp = nn.Sequential(linear[0], nn.GELU(), linear[1], nn.GELU(), linear[2])
        self.last_layer = Prototypes(bottleneck, prototypes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (M, K) of tokens (M, D)."""
        logits: Tensor = self.last_layer(self.directions(tokens))
        return logits

    def directions(self, tokens: Tensor) -> Tensor:
        """Points (M, d) on the sphere for tokens (M, D)."""
        return F.normalize(self.mlp(tokens), dim=1)
