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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.errors import UserError, one_line
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


def read_means(path: Path, backbone: Backbone) -> Tensor:
    """Mean registers of `backbone` from a file, as stand-ins (1, depth, R, D) of the kind `mean`.

    The format is that of the published means of DINOv2 (Sun et al. 2024, arXiv 2402.17762): a PyTorch file with a
    dictionary from the index of a block, 0..depth - 1, to the mean of its registers (R, D) in the residual stream.

    Raises:
        UserError: the model has no registers, or the file is missing, is not such a dictionary, lacks a block, or has
            values of another shape or that are not finite.
    """
    depth, shape = backbone.depth, (backbone.num_registers, backbone.embed_dim)
    if not shape[0]:
        raise UserError(f"register_means={path}: {backbone.name} has no registers, so there is nothing to replace")
    means = _read_dictionary(path)
    missing = [block for block in range(depth) if block not in means]
    if missing or len(means) > depth:
        raise UserError(f"register_means={path}: blocks {_span(means)}; {backbone.name} has blocks 0 to {depth - 1}")
    for block in range(depth):
        values = means[block]
        if not isinstance(values, Tensor) or tuple(values.shape) != shape:
            given = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            wanted = f"{backbone.name} has {shape[0]} registers of {shape[1]} dimensions"
            raise UserError(f"register_means={path}: block {block} is {given}; {wanted}, so expected {shape}")
        if not values.isfinite().all():
            raise UserError(f"register_means={path}: block {block} has a value that is not finite")
    return torch.stack([means[block].float() for block in range(depth)])[None]


def _read_dictionary(path: Path) -> dict[Any, Any]:
    try:
        means = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"register_means={path}: no such file") from None
    except Exception as error:  # torch.load raises many kinds, from EOFError to UnpicklingError
        raise UserError(f"register_means={path}: not a PyTorch file ({one_line(error)})") from None
    if not isinstance(means, dict):
        raise UserError(f"register_means={path}: a {type(means).__name__}, expected a dictionary from block to (R, D)")
    return means


def _span(means: dict[Any, Any]) -> str:
    keys = sorted(key for key in means if isinstance(key, int))
    return f"{keys[0]} to {keys[-1]} ({len(means)})" if keys else f"none ({len(means)} other entries)"


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
