"""Clipped softmax (Bondarenko et al. 2023, arXiv 2306.12929, section 4.1): weights that reach exactly zero.

    clip((eta - gamma) softmax(l) + gamma, 0, 1), with eta = 1 and gamma = -alpha / T

A weight below about alpha times that of uniform attention becomes 0. T is the number of tokens of the image at hand.
"""

from torch import Tensor

from regvit_lightning.models.arms.attention import ArmAttention
from regvit_lightning.models.arms.rows import PARTIAL

# Published: gamma = -0.025 at 128 tokens, alpha = 3.2, for BERT; alpha = 12 for OPT. A ViT starts from nearly uniform
# attention, which alpha >= 1 clips to 0 in every row, where nothing has a gradient: CLS would never see a patch.
ALPHA = 0.5


class ClippedAttention(ArmAttention):
    """Attention by a clipped softmax, which no fused kernel has.

    Attributes:
        alpha: gamma times -T; 0 is the plain softmax.
    """

    plain_softmax, rows = False, PARTIAL
    alpha = ALPHA

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        gamma = -self.alpha / k.shape[2]
        return ((1 - gamma) * super().weights(q, k) + gamma).clamp(0, 1)
