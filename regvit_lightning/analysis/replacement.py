"""Register replacement: registers are replaced after every block to measure their contribution to a model.

Source: Parodi et al. 2026 (arXiv 2604.14433): the registers that leave a block, at every block, are replaced by zeros,
by their mean over images, by Gaussian noise of the same mean and variance for each block and dimension, or by the
registers of another image. Zeroing alone is not informative: zeros are out of distribution for the model, and cost 31
to 37 points where the other three stay within about 1.

One difference: the paper shuffles registers within the batch. Images read in order share their class with their
neighbours, so a batch would swap registers of the same class, and a score would depend on the batch. Here every image
gets the registers of a reference image, drawn from the seed and the number of images seen before.
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
    """Replacement values for registers: `zero`, `mean`, `noise` or `shuffle`.

    Args:
        registers: (M, depth, R, D), registers of reference images.
        seed: seed of the noise.

    Returns:
        (1, depth, R, D) for `zero` and `mean`, otherwise (M, depth, R, D), of which an image draws a row.

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
    """Context manager that replaces the registers of `backbone` by `stand_ins`; any evaluation can run inside.

    It applies to training as well as to testing inside, and to this process only: one device.

    Args:
        stand_ins: (M, depth, R, D); an image uses one row of it, for all blocks.
        seed: seed of the choice of rows.
        first: number of images seen before.

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
    """Mean cosine (B,) between patches before and after a replacement: 1 means no change."""
    return F.cosine_similarity(before.patches, after.patches, dim=-1).mean(dim=(1, 2))
