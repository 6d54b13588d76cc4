"""What registers do for a model, by putting something else in their place after every block.

Source: Parodi et al. 2026 (arXiv 2604.14433): the registers that leave a block, at every block, are replaced by zeros,
by their mean over images, by Gaussian noise of the same mean and variance for each block and dimension, or by the
registers of another image. Zeros alone tell nothing: they are like no register that the model has met, and cost 31 to
37 points where the other three stay within about 1.

One difference: the paper shuffles registers within the batch. Images that are read in order share their class with
their neighbours, so a batch would hand registers of the same class around, and a score would depend on the batch. Here
every image gets the registers of a reference image, drawn from the seed and from the number of images seen before.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.runtime import seeds

KINDS = ("zero", "mean", "noise", "shuffle")


def stand_ins(kind: str, registers: Tensor, seed: int = 0) -> Tensor:
    """What takes the place of registers: `zero`, `mean`, `noise` or `shuffle`.

    Args:
        registers: (M, depth, R, D) of reference images.
        seed: of the noise.

    Returns:
        (1, depth, R, D) for `zero` and `mean`, else (M, depth, R, D), a row for an image to draw.

    Raises:
        KeyError: unknown kind.
    """
    mean = registers.mean(dim=0, keepdim=True)
    noise = torch.randn(registers.shape, generator=seeds.generator(seed, "noise"))
    return {
        "zero": torch.zeros_like(mean),
        "mean": mean,
        "noise": mean + noise * registers.std(dim=0, correction=0),
        "shuffle": registers,
    }[kind]


@contextmanager
def replaced(backbone: Backbone, stand_ins: Tensor, seed: int = 0, first: int = 0) -> Iterator[None]:
    """Inside, the backbone computes with `stand_ins` for its registers; any evaluation can run under it unchanged.

    It holds for what is trained inside as well as for what is tested, and in this process only: one device.

    Args:
        stand_ins: (M, depth, R, D); an image takes one row of it, for all blocks.
        seed: of the rows.
        first: how many images were seen before.

    Raises:
        UserError: a model without registers.
    """
    seen, rows = first, torch.empty(0, dtype=torch.long)

    def rewrite(block: int, registers: Tensor) -> Tensor:
        nonlocal seen, rows
        if block == 0:
            drawn = [seeds.derive(seed, "stand-in", seen + image) for image in range(len(registers))]
            seen, rows = seen + len(drawn), torch.tensor(drawn) % len(stand_ins)
        return stand_ins[rows, block]

    with backbone.rewriting_registers(rewrite):
        yield


def patch_change(before: Tokens, after: Tokens) -> Tensor:
    """Mean cosine (B,) of each patch to itself under a replacement: 1 would mean that nothing was done at all."""
    return F.cosine_similarity(before.patches, after.patches, dim=-1).mean(dim=(1, 2))
