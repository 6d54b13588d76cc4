"""Register dropout: in training, some registers of an image are left out of the sequence of all blocks.

The number that is kept is drawn once for a forward pass, from the binomial distribution of R draws with probability
1 - p; each image then keeps its own random subset of that size. So every register of every image is left out with
probability p exactly, and the sequences of a batch have one length. No attention needs a mask and nothing is rescaled:
the pass is that of a model with fewer registers. Evaluation uses all. A choice of this suite, without a source.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from regvit_lightning.models import vit
from regvit_lightning.runtime import hardware


def kept_count(registers: int, probability: float, generator: torch.Generator | None = None) -> int:
    """Number of registers that are kept in a forward pass: binomial with `registers` draws.

    Args:
        registers: number R of registers.
        probability: probability that a register is left out.
        generator: of the CPU; None is the global one.
    """
    return int((torch.rand(registers, generator=generator) >= probability).sum())


def subsets(shape: tuple[int, ...], registers: int, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Random subset of `count` of the registers for each image of a batch: ascending indices (*shape, count)."""
    order = torch.rand(*shape, registers, generator=generator).argsort(dim=-1)
    return order[..., :count].sort(dim=-1).values


@contextmanager
def leaving_out(backbone: vit.RegisterViT, kept: Tensor | None) -> Iterator[None]:
    """Context manager: registers are left out before the first block, and are zeros before the final norm.

    The zeros keep the order of the tokens; nothing that follows may use those registers.

    Args:
        backbone: the register ViT.
        kept: (B, n) ascending indices of the registers that each image keeps; None for all.
    """
    if kept is None:
        yield
        return
    handles = _hooks(backbone, hardware.sent(kept, cast(Tensor, backbone.pos_embed).device))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hooks(backbone: vit.RegisterViT, kept: Tensor) -> list[Any]:
    registers = backbone.num_reg_tokens
    first, count = backbone.num_prefix_tokens - registers, kept.shape[1]

    def leave_out(_: nn.Module, __: Any, tokens: Tensor) -> Tensor:
        cls, every, patches = tokens.split([first, registers, tokens.shape[1] - first - registers], dim=1)
        return torch.cat([cls, every.take_along_dim(kept[..., None], dim=1), patches], dim=1)

    def restore(_: nn.Module, arguments: Any) -> Tensor:
        tokens: Tensor = arguments[0]
        cls, some, patches = tokens.split([first, count, tokens.shape[1] - first - count], dim=1)
        every = some.new_zeros(len(some), registers, some.shape[2])
        return torch.cat([cls, every.scatter(1, kept[..., None].expand_as(some), some), patches], dim=1)

    before, after = cast(nn.Module, backbone.norm_pre), cast(nn.Module, backbone.norm)
    return [before.register_forward_hook(leave_out), after.register_forward_pre_hook(restore)]
