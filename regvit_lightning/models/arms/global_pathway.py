"""Global pathway: every block broadcasts one pooled state to all tokens, so that no token has to become a sink for it.

Source: "A unifying view of attention sinks" (arXiv 2606.08105), section 5, equations 4 (pathway) and 5 (common-mode
penalty). From the normed tokens x of a block,

    g = sum_j softmax_j(w_P x_j) W_V x_j       global state of 64 dimensions, at no position
    o_i = sigmoid(w x_i + b) W_O g             added to the attention update of token i

The penalty is the energy share of the token mean in the attention update without the pathway: what is common to all
tokens shall go through the pathway. Two differences from the authors' code: the pathway passes the block's LayerScale
together with the attention, where the block has one (theirs is added after it); and the share is that of each image,
averaged over the images, so that it does not depend on how a batch is divided (theirs is one ratio for a batch).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from regvit_lightning.models.arms.attention import ArmAttention

STATE = 64  # dimensions of the global state
PENALTY = 0.1  # weight of the common-mode penalty in the loss
FREE_BLOCKS = 1  # first blocks without penalty, as in the published runs


class GlobalPathway(nn.Module):
    """Pooled state of all tokens, broadcast to each through its own gate.

    Args:
        dim: width D of the tokens.
        state: dimensions of the global state.
    """

    def __init__(self, dim: int, state: int = STATE) -> None:
        super().__init__()
        self.pool = nn.Linear(dim, 1, bias=False)
        self.value = nn.Linear(dim, state, bias=False)
        self.output = nn.Linear(state, dim, bias=False)
        self.gate = nn.Linear(dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Update (B, T, D) of tokens (B, T, D): of rank 1 over the tokens of an image."""
        weights = self.pool(x).float().softmax(dim=1).to(x.dtype)
        pooled = weights.mT @ x  # W_V is linear: one product of the mean in place of one for each token
        update: Tensor = self.gate(x).sigmoid() * self.output(self.value(pooled))
        return update


class GlobalAttention(ArmAttention):
    """Attention with a global pathway beside it.

    Attributes:
        shares: list that receives `common_mode` of every training pass, while `collected` is open; else None.
    """

    def __init__(self, dim: int, **options: Any) -> None:
        super().__init__(dim, **options)
        self.pathway = GlobalPathway(dim)
        self.shares: list[Tensor] | None = None

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Update (B, T, D) of normed tokens (B, T, D): attention, then the pathway added to it."""
        update = super().forward(x, attn_mask, is_causal)
        if self.training and torch.is_grad_enabled():
            share = common_mode(update)  # not only while collected: gradient checkpointing runs the same steps again
            if self.shares is not None:
                self.shares.append(share)
        return update + self.pathway(x)


def common_mode(update: Tensor) -> Tensor:
    """Energy share (B,), in 0..1, of the token mean in the update (B, T, D) of each image; 0 for an update of zeros.

    1 if all tokens of an image receive the same update, 0 if the mean of their updates is zero.
    """
    update = update.float()
    energy = update.square().mean(dim=(1, 2))
    common = update.mean(dim=1).square().mean(dim=1)
    return common / energy.clamp_min(torch.finfo(energy.dtype).tiny)


@contextmanager
def collected(blocks: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """Context manager that collects `common_mode` of every training pass through the blocks, but the first.

    Args:
        blocks: blocks of a model in their order; those without a global pathway add nothing.
    """
    shares: list[Tensor] = []
    attentions = [getattr(block, "attn", None) for block in list(blocks)[FREE_BLOCKS:]]
    chosen = [attention for attention in attentions if isinstance(attention, GlobalAttention)]
    for attention in chosen:
        attention.shares = shares
    try:
        yield shares
    finally:
        for attention in chosen:
            attention.shares = None


def penalty(shares: Iterable[Tensor]) -> Tensor:
    """Common-mode penalty: `PENALTY` × the mean of all shares (at least one), each over images and blocks."""
    return PENALTY * torch.cat(list(shares)).mean()
