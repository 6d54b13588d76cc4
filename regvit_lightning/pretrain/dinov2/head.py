"""Projection head of DINO and iBOT: an MLP to an L2-normalised bottleneck, then weight-normalised prototypes.

Source: Caron et al. 2021 (arXiv 2104.14294, appendix C); as in DINOv2's code, the gain of each prototype is learned,
starting at 1.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Prototypes(nn.Module):
    """Weight-normalised linear layer of prototypes, (M, d) to (M, K).

    Attributes:
        direction: (K, d), normalised when used.
        gain: (K, 1).
    """

    def __init__(self, dim: int, prototypes: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.empty(prototypes, dim).uniform_(-(dim**-0.5), dim**-0.5))
        self.gain = nn.Parameter(torch.ones(prototypes, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (M, K) float32 of unit vectors (M, d).

        The product stays in float32 under autocast: the softmax divides logits by temperatures of 0.04 to 0.1, which
        makes an error of 2^-9 (bf16) one of 2 to 5 % in a probability.
        """
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(self.gain.dtype), self.gain * F.normalize(self.direction, dim=1))


class DinoHead(nn.Module):
    """Projection head that maps tokens (M, D) to prototype logits (M, K).

    Args:
        dim: token dimension D.
        prototypes: number of prototypes K.
        hidden: width of the two hidden layers.
        bottleneck: dimension d of the bottleneck.
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
        """L2-normalised bottleneck features (M, d) of tokens (M, D)."""
        return F.normalize(self.mlp(tokens), dim=1)
