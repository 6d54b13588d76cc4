"""What registers do for a model, by putting something else in their place after every block.

Source: Parodi et al. 2026 (arXiv 2604.14433): the registers that leave a block, at every block, are replaced by zeros,
by their mean over images, by Gaussian noise of the same mean and variance for each block and dimension, or by the
registers of another image. Zeros alone tell nothing: they are like no register that the model has met, and cost 31 to
37 points where the other three stay within about 1.

One difference: the paper shuffles registers within the batch. Images that are read in order share their class with
their neighbours, so a batch would hand registers of the same class around, and a score would depend on the batch. Here
every image gets the registers of a reference image, drawn from the seed and from the number of images seen before.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning import seeds
from regvit_lightning.backbones import Backbone, Tokens

KINDS = ("zero", "mean", "noise", "shuffle")


def reference_registers(backbone: Backbone, batches: Iterable[Tensor]) -> Tensor:
    """Registers after every block for reference images, which should come from train and from all classes.

    Args:
        batches: normalised images (B, 3, H, W).

    Returns:
        (M, depth, R, D) float32 on the CPU, for M images in all.
    """
    found = []
    for images in batches:
        with torch.inference_mode():
            blocks = backbone(images, range(backbone.depth), norm=False)
        found.append(torch.stack([tokens.registers for tokens in blocks], dim=1).to("cpu", torch.float32, copy=True))
    return torch.cat(found)


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
def replaced(backbone: Backbone, stand_ins: Tensor, seed: int = 0) -> Iterator[None]:
    """Inside, the backbone computes with `stand_ins` for its registers; any evaluation can run under it unchanged.

    It holds for what is trained inside as well as for what is tested, and in this process only: one device.

    Args:
        stand_ins: (M, depth, R, D); an image takes one row of it, for all blocks.
        seed: of the rows.

    Raises:
        UserError: a model without registers.
    """
    seen, rows = 0, torch.empty(0, dtype=torch.long)

    def rewrite(block: int, registers: Tensor) -> Tensor:
        nonlocal seen, rows
        if block == 0:
            drawn = [seeds.derive(seed, "stand-in", seen + image) for image in range(len(registers))]
            seen, rows = seen + len(drawn), torch.tensor(drawn) % len(stand_ins)
        return stand_ins[rows, block]

    with backbone.rewriting_registers(rewrite):
        yield


def controls(score: Callable[[], float], backbone: Backbone, registers: Tensor, seed: int = 0) -> dict[str, float]:
    """A score with the registers as they are (`intact`) and under all replacements, so that zero never stands alone.

    Args:
        score: runs an evaluation of `backbone`, such as `lambda: knn.run(backbone, …).metrics["top1"]`.
        registers: of reference images, see `reference_registers`.

    Raises:
        UserError: a model without registers.
    """
    scores = {}
    for kind in KINDS:
        with replaced(backbone, stand_ins(kind, registers, seed), seed):
            scores[kind] = score()
    return {"intact": score(), **scores}


def patch_change(before: Tokens, after: Tokens) -> Tensor:
    """Mean cosine (B,) of each patch to itself under a replacement: 1 would mean that nothing was done at all."""
    return F.cosine_similarity(before.patches, after.patches, dim=-1).mean(dim=(1, 2))
