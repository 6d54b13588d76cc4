"""LaSt pooling: in each channel CLS is replaced by the mean of the patches that are stable under a low-pass filter.

Source: "Vision Transformers need more than registers" (arXiv 2602.22394) and the authors' code. Of the patches x after
the final norm,

    low = ifft(gaussian(frequency) fft(x)) over the channels, standard deviation sqrt(D) frequencies
    score = x / |low - x|
    pooled = mean of x over the K patches of the highest score, in each channel by itself

The score divides x, not |x|: of two equally stable patches the more positive one is taken. The code trains with K = 1,
the paper reports K = 7 as well: `last1` and `last7`. Two differences from that code: its Gaussian is centred on
frequency -1, one bin off (on random tokens of ViT-B at 224 px this changes 0.6 % of the choices of K = 1); and where
low = x its score is infinite or, for a zero, not a number, which its top-K takes first: here |low - x| is at least
`LEAST` × the root mean square of its token.
"""

from typing import Any

import torch
from timm.layers import LayerNorm
from torch import Tensor

LEAST = 1e-6  # above the rounding of the transform in float32


def low_pass(x: Tensor) -> Tensor:
    """Tokens (…, D) without their high frequencies over the channels, float32."""
    channels = x.shape[-1]
    frequencies = torch.arange(channels // 2 + 1, device=x.device)
    gaussian = torch.exp(-frequencies.square() / (2 * channels))
    low: Tensor = torch.fft.irfft(torch.fft.rfft(x.float()) * gaussian, n=channels)
    return low


def scores(patches: Tensor) -> Tensor:
    """Stability (B, P, D) of each channel of each of the patches (B, P, D), float32 and finite."""
    x = patches.float()
    least = (LEAST * x.square().mean(dim=-1, keepdim=True).sqrt()).clamp_min(torch.finfo(x.dtype).tiny)
    return x / (low_pass(x) - x).abs().maximum(least)


def pool(patches: Tensor, count: int) -> Tensor:
    """Mean (B, D) in each channel of the `count` most stable of the patches (B, P, D); of all if there are fewer.

    The choice of the patches has no gradient, their values have.
    """
    with torch.no_grad():
        chosen = scores(patches).topk(min(count, patches.shape[1]), dim=1).indices
    return patches.gather(1, chosen).mean(dim=1)


class LastPoolingNorm(LayerNorm):
    """Final norm that replaces CLS by the pooled patches; its parameters are those of the norm alone.

    All that reads CLS after the final norm, a classifier in training as well as a frozen evaluation, reads the pooled
    patches. Before the norm CLS is what it was.

    Args:
        channels: width D of the tokens.
        prefix: number of tokens before the patches, CLS first.
        count: patches K of each channel.
        options: further options of timm's norm.
    """

    def __init__(self, channels: int, prefix: int, count: int, **options: Any) -> None:
        super().__init__(channels, **options)
        self.prefix, self.count = prefix, count

    def forward(self, x: Tensor) -> Tensor:
        """Normed tokens (B, T, D) of tokens (B, T, D), the pooled patches in the place of CLS."""
        tokens = super().forward(x)
        pooled = pool(tokens[:, self.prefix :], self.count)
        return torch.cat([pooled[:, None], tokens[:, 1:]], dim=1)
